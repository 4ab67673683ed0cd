//! Small tasks with one right answer, each worked in two steps.

use rand::Rng;
use rand::RngExt;
use rand::seq::{IndexedRandom, SliceRandom};

use super::numeral::{self, Atom};

/// Number of kinds of task: a policy has a skill for each.
pub const KINDS: usize = 8;
/// Steps in every working: the same for all tasks, so that no habit changes how often a symbol is written.
pub const STEPS: usize = 2;

const DAYS: [&str; 7] = ["monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday"];
const NAMES: [&str; 8] = ["ann", "bob", "cleo", "dan", "eva", "finn", "gus", "hana"];
const THINGS: [&str; 8] = ["figs", "pens", "cups", "nuts", "keys", "hats", "coins", "books"];
const GAINS: [&str; 4] = ["buys", "finds", "wins", "gets"];
const LOSSES: [&str; 4] = ["loses", "sells", "lends", "gives"];
const FRUIT: [&str; 16] = [
    "banana", "papaya", "cherry", "almond", "potato", "carrot", "radish", "celery", "tomato", "pepper", "squash",
    "turnip", "endive", "garlic", "ginger", "sorrel",
];
const LETTERS: [char; 6] = ['a', 'e', 'o', 'r', 'n', 'p'];
/// Units of a length, in the unit that the answer is asked in.
const LENGTHS: [(&str, i64); STEPS] = [("m", 100), ("cm", 1)];
/// Units of a time, in minutes.
const TIMES: [(&str, i64); STEPS] = [("h", 60), ("min", 1)];

/// One task.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Task {
    /// Add and subtract three numbers.
    Arithmetic([i64; 3]),
    /// The same in the life of somebody who owns things.
    WordProblem {
        /// What is owned first, gained (positive) and lost (negative).
        terms: [i64; 3],
        /// Who.
        name: &'static str,
        /// What.
        thing: &'static str,
        /// The verbs of the last two terms.
        verbs: [&'static str; STEPS],
    },
    /// Put three different numbers in ascending order.
    Sort([i64; 3]),
    /// Find the largest of three different numbers.
    Maximum([i64; 3]),
    /// Count a letter in two words.
    Count {
        /// The letter.
        letter: char,
        /// The words.
        words: [&'static str; STEPS],
    },
    /// Reverse four letters.
    Reverse([char; 4]),
    /// Name the weekday some days after another.
    Date {
        /// Index of the first day in the week that begins on Monday.
        day: i64,
        /// Days to go on.
        offset: i64,
    },
    /// Convert two amounts of different units to the smallest of them.
    Units {
        /// The amounts, largest unit first.
        amounts: [i64; STEPS],
        /// Units and their factors.
        units: [(&'static str, i64); STEPS],
    },
}

/// One step: `left` equals, or leads to, `right`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SolutionStep {
    /// What is worked on.
    pub left: Vec<Atom>,
    /// What comes out.
    pub right: Vec<Atom>,
}

/// A task worked out: the steps in the order of the thought, and the answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Working {
    /// The steps.
    pub steps: [SolutionStep; STEPS],
    /// The answer that they lead to.
    pub answer: Vec<Atom>,
}

impl Task {
    /// Draws a task of any kind.
    pub fn draw(rng: &mut impl Rng) -> Self {
        match rng.random_range(0..KINDS) {
            0 => Self::Arithmetic(draw_terms(rng)),
            1 => {
                let terms = draw_terms(rng);
                let verb = |t: i64, rng: &mut _| pick(if t > 0 { &GAINS } else { &LOSSES }, rng);
                let verbs = [verb(terms[1], rng), verb(terms[2], rng)];
                Self::WordProblem { terms, name: pick(&NAMES, rng), thing: pick(&THINGS, rng), verbs }
            }
            2 => Self::Sort(draw_distinct(rng)),
            3 => Self::Maximum(draw_distinct(rng)),
            4 => {
                let mut words = FRUIT;
                words.shuffle(rng);
                Self::Count { letter: pick(&LETTERS, rng), words: [words[0], words[1]] }
            }
            5 => {
                let mut letters: Vec<char> = ('a'..='z').collect();
                letters.shuffle(rng);
                Self::Reverse(std::array::from_fn(|i| letters[i]))
            }
            6 => Self::Date { day: rng.random_range(0..7), offset: rng.random_range(4..100) },
            _ => {
                let units = if rng.random() { LENGTHS } else { TIMES };
                Self::Units { amounts: std::array::from_fn(|_| rng.random_range(2..60)), units }
            }
        }
    }

    /// Which kind it is, below [`KINDS`].
    pub fn kind(&self) -> usize {
        match self {
            Self::Arithmetic(_) => 0,
            Self::WordProblem { .. } => 1,
            Self::Sort(_) => 2,
            Self::Maximum(_) => 3,
            Self::Count { .. } => 4,
            Self::Reverse(_) => 5,
            Self::Date { .. } => 6,
            Self::Units { .. } => 7,
        }
    }

    /// The text that the policies answer. Tasks with the same prompt are the same task.
    pub fn prompt(&self) -> String {
        match self {
            Self::Arithmetic(terms) => {
                let rest: String = terms[1..].iter().map(|t| format!(" {} {}", sign(*t), t.abs())).collect();
                format!("Compute {}{rest}", terms[0])
            }
            Self::WordProblem { terms, name, thing, verbs } => {
                let rest: Vec<String> =
                    verbs.iter().zip(&terms[1..]).map(|(verb, t)| format!("{verb} {}", t.abs())).collect();
                format!("{name} has {} {thing}, {}. How many?", terms[0], rest.join(", "))
            }
            Self::Sort(numbers) => format!("Sort {}", spaced(numbers)),
            Self::Maximum(numbers) => format!("Largest of {}?", spaced(numbers)),
            Self::Count { letter, words } => format!("How many {letter} in {}?", words.join(" ")),
            Self::Reverse(letters) => format!("Reverse {}", letters.iter().collect::<String>()),
            Self::Date { day, offset } => format!("What day is {offset} days after {}?", DAYS[*day as usize]),
            Self::Units { amounts, units } => {
                let parts: Vec<String> =
                    amounts.iter().zip(units).map(|(n, (unit, _))| format!("{n} {unit}")).collect();
                format!("How many {} are {}?", units[1].0, parts.join(" "))
            }
        }
    }

    /// The right answer, numbers in digits.
    pub fn answer(&self) -> String {
        match self {
            Self::Arithmetic(terms) | Self::WordProblem { terms, .. } => terms.iter().sum::<i64>().to_string(),
            Self::Sort(numbers) => {
                let mut sorted = *numbers;
                sorted.sort_unstable();
                spaced(&sorted)
            }
            Self::Maximum(numbers) => numbers.iter().max().map(i64::to_string).unwrap_or_default(),
            Self::Count { letter, words } => words.iter().map(|w| occurrences(*letter, w)).sum::<i64>().to_string(),
            Self::Reverse(letters) => letters.iter().rev().collect(),
            Self::Date { day, offset } => weekday(day + offset).to_owned(),
            Self::Units { amounts, units } => {
                amounts.iter().zip(units).map(|(n, (_, factor))| n * factor).sum::<i64>().to_string()
            }
        }
    }

    /// Works the task out by a way drawn from `rng`; a slip makes the step of that number go wrong, and what
    /// follows goes on from the mistake.
    pub fn work(&self, slip: Option<usize>, rng: &mut impl Rng) -> Working {
        match self {
            Self::Arithmetic(terms) | Self::WordProblem { terms, .. } => work_sum(terms, slip, rng),
            Self::Sort(numbers) => work_sort(numbers, slip, rng),
            Self::Maximum(numbers) => work_maximum(numbers, slip, rng),
            Self::Count { letter, words } => {
                work_parts(slip, rng, |i| (vec![Atom::text(words[i])], occurrences(*letter, words[i])))
            }
            Self::Reverse(letters) => work_reverse(letters, slip, rng),
            Self::Date { day, offset } => work_date(*day, *offset, slip, rng),
            Self::Units { amounts, units } => work_parts(slip, rng, |i| {
                (vec![Atom::Number(amounts[i]), Atom::text(units[i].0)], amounts[i] * units[i].1)
            }),
        }
    }

    /// Works the task out to a wrong answer.
    pub fn work_wrongly(&self, rng: &mut impl Rng) -> Working {
        let right = self.answer();
        loop {
            // A slip in a comparison that does not matter leaves the answer right. One in the last step never does.
            let working = self.work(Some(rng.random_range(0..STEPS)), rng);
            if numeral::canonical(&working.answer) != right {
                return working;
            }
        }
    }
}

/// A first number and two to add or subtract, with partial sums that stay positive in any order.
fn draw_terms(rng: &mut impl Rng) -> [i64; 3] {
    let mut terms = [rng.random_range(20..60), 0, 0];
    for term in &mut terms[1..] {
        let size = rng.random_range(2..10);
        *term = if rng.random() { size } else { -size };
    }
    terms
}

fn draw_distinct(rng: &mut impl Rng) -> [i64; 3] {
    let mut numbers: Vec<i64> = (2..60).collect();
    numbers.shuffle(rng);
    std::array::from_fn(|i| numbers[i])
}

fn work_sum(terms: &[i64; 3], slip: Option<usize>, rng: &mut impl Rng) -> Working {
    let mut rest = [terms[1], terms[2]];
    rest.shuffle(rng);
    let mut total = terms[0];
    let steps = std::array::from_fn(|i| {
        let left = vec![Atom::Number(total), Atom::text(sign(rest[i])), Atom::Number(rest[i].abs())];
        total = maybe_wrong(total + rest[i], slip == Some(i), rng);
        SolutionStep { left, right: vec![Atom::Number(total)] }
    });
    Working { steps, answer: vec![Atom::Number(total)] }
}

/// Takes the smallest or the largest of what is left, twice.
fn work_sort(numbers: &[i64; 3], slip: Option<usize>, rng: &mut impl Rng) -> Working {
    let mut left = numbers.to_vec();
    let (mut low, mut high) = (Vec::new(), Vec::new());
    let steps = std::array::from_fn(|i| {
        let shown = left.iter().map(|n| Atom::Number(*n)).collect();
        let smallest = rng.random::<bool>();
        left.sort_unstable();
        // The wrong one is the second from the end that is asked for.
        let from_end = usize::from(slip == Some(i));
        let taken = left.remove(if smallest { from_end } else { left.len() - 1 - from_end });
        if smallest {
            low.push(taken)
        } else {
            high.push(taken)
        }
        left.shuffle(rng);
        SolutionStep { left: shown, right: vec![Atom::Number(taken)] }
    });
    let order = low.into_iter().chain(left).chain(high.into_iter().rev());
    Working { steps, answer: order.map(Atom::Number).collect() }
}

/// A knockout in a drawn order.
fn work_maximum(numbers: &[i64; 3], slip: Option<usize>, rng: &mut impl Rng) -> Working {
    let mut order = *numbers;
    order.shuffle(rng);
    let mut best = order[0];
    let steps = std::array::from_fn(|i| {
        let (a, b) = (best, order[i + 1]);
        best = if slip == Some(i) { a.min(b) } else { a.max(b) };
        SolutionStep { left: vec![Atom::Number(a), Atom::text("or"), Atom::Number(b)], right: vec![Atom::Number(best)] }
    });
    Working { steps, answer: vec![Atom::Number(best)] }
}

/// Two independent parts, in a drawn order, whose values add up to the answer.
fn work_parts(slip: Option<usize>, rng: &mut impl Rng, part: impl Fn(usize) -> (Vec<Atom>, i64)) -> Working {
    let mut order = [0, 1];
    order.shuffle(rng);
    let mut total = 0;
    let steps = std::array::from_fn(|i| {
        let (left, value) = part(order[i]);
        let value = maybe_wrong(value, slip == Some(i), rng);
        total += value;
        SolutionStep { left, right: vec![Atom::Number(value)] }
    });
    Working { steps, answer: vec![Atom::Number(total)] }
}

/// Turns the two pairs of letters round, in a drawn order; a slip leaves its pair as it was.
fn work_reverse(letters: &[char; 4], slip: Option<usize>, rng: &mut impl Rng) -> Working {
    let mut order = [0, 1];
    order.shuffle(rng);
    let mut turned = *letters;
    let steps = std::array::from_fn(|i| {
        let pair = [letters[2 * order[i]], letters[2 * order[i] + 1]];
        let swapped = if slip == Some(i) { pair } else { [pair[1], pair[0]] };
        turned[2 - 2 * order[i]..][..2].copy_from_slice(&swapped);
        let text = |pair: [char; 2]| vec![Atom::Text(pair.iter().collect())];
        SolutionStep { left: text(pair), right: text(swapped) }
    });
    Working { steps, answer: vec![Atom::Text(turned.iter().collect())] }
}

/// Goes on in two drawn leaps.
fn work_date(day: i64, offset: i64, slip: Option<usize>, rng: &mut impl Rng) -> Working {
    let first = rng.random_range(1..offset);
    let leaps = [first, offset - first];
    let mut now = day;
    let steps = std::array::from_fn(|i| {
        let left = vec![Atom::text(weekday(now)), Atom::text("+"), Atom::Number(leaps[i])];
        now += leaps[i];
        if slip == Some(i) {
            now += if rng.random() { 1 } else { -1 };
        }
        SolutionStep { left, right: vec![Atom::text(weekday(now))] }
    });
    Working { steps, answer: vec![Atom::text(weekday(now))] }
}

/// A number near `value` but not `value`, where wrong; never negative.
fn maybe_wrong(value: i64, wrong: bool, rng: &mut impl Rng) -> i64 {
    if !wrong {
        return value;
    }
    let off = pick(&[1, 2, 10], rng);
    if value >= off && rng.random() { value - off } else { value + off }
}

fn pick<T: Copy>(from: &[T], rng: &mut impl Rng) -> T {
    *from.choose(rng).expect("the lists of this file are not empty")
}

fn sign(term: i64) -> &'static str {
    if term < 0 { "-" } else { "+" }
}

fn weekday(day: i64) -> &'static str {
    DAYS[day.rem_euclid(7) as usize]
}

fn occurrences(letter: char, word: &str) -> i64 {
    word.chars().filter(|c| *c == letter).count() as i64
}

fn spaced(numbers: &[i64]) -> String {
    numbers.iter().map(i64::to_string).collect::<Vec<_>>().join(" ")
}
