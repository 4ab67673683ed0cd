//! Whether a wrong result would be noticed: each result of each case is sabotaged after the call, in the ways in which
//! kernels go wrong, and judged again. A way that changes nothing, as rows swapped do where there is one, is not counted,
//! and nor is a result that is zero.
//! Where a sabotage touches a part of a result it is the strongest part: what hides below the rounding of everything
//! else can be noticed by nobody.

use std::fmt::Write as _;

use polar_raw::ops::Access;
use serde::Serialize;

use crate::check::{Closeness, Prepared};
use crate::operand::Operand;

/// A way in which a result may be wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub enum Sabotage {
    /// As it was before the call; zero where that does not count.
    Left,
    /// The other sign.
    Sign,
    /// The strongest row where the weakest belongs, and the other way round.
    RowsSwapped,
    /// The strongest row is zero.
    RowLeftOut,
    /// Everything 5 % too large.
    FivePercent,
    /// A tile of 16 rows and 8 columns is zero.
    Tile,
    /// A head has its neighbour's values: the one that differs most from it, since heads may look at the same key.
    Head,
    /// Each sum lacks its strongest term.
    Term,
    /// Overwritten where it should be added to.
    Overwritten,
}

/// All of them, with the heads of their columns.
pub const SABOTAGES: [(Sabotage, &str); 9] = [
    (Sabotage::Left, "as it was"),
    (Sabotage::Sign, "sign"),
    (Sabotage::RowsSwapped, "rows swapped"),
    (Sabotage::RowLeftOut, "row left out"),
    (Sabotage::FivePercent, "5 % larger"),
    (Sabotage::Tile, "tile zero"),
    (Sabotage::Head, "other head"),
    (Sabotage::Term, "term missing"),
    (Sabotage::Overwritten, "overwritten"),
];

/// Cases of one sabotage of one result: how many counted, and how many noticed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Count {
    /// Cases in which it changes something.
    pub cases: usize,
    /// Those that notice.
    pub noticed: usize,
}

/// What sabotages of one result of an operation came to.
#[derive(Clone, Debug, Serialize)]
pub struct ResultPower {
    /// The result.
    pub result: String,
    /// In the order of [`SABOTAGES`].
    pub counts: [Count; SABOTAGES.len()],
    /// Cases and sabotages that went by.
    pub missed: Vec<String>,
}

impl ResultPower {
    /// Whether all that counted were noticed.
    pub fn is_whole(&self) -> bool {
        self.counts.iter().all(|count| count.noticed == count.cases)
    }
}

/// Decides whether a result is as it should be.
pub type Judge = dyn Fn(&Prepared, usize, &[f64]) -> Result<Closeness, String>;

/// Sabotages the results of a case, which are right, and adds what `judge` notices to `power`, whose entries are the
/// operation's results.
pub fn sabotage(prepared: &Prepared, label: &str, results: &[Vec<f64>], judge: &Judge, power: &mut Vec<ResultPower>) {
    let without_a_term = prepared.without_a_term();
    for (i, operand) in prepared.operands.iter().enumerate() {
        if operand.allowed().is_none() {
            continue;
        }
        // Zero but for what f64 leaves of a difference: there is nothing to be wrong.
        if prepared.exact[i].iter().all(|x| x.abs() < 1e-12) {
            continue;
        }
        let at = power.iter().position(|p| p.result == operand.name).unwrap_or_else(|| {
            power.push(ResultPower { result: operand.name.into(), counts: Default::default(), missed: Vec::new() });
            power.len() - 1
        });
        let right = &results[i];
        for (number, (sabotage, name)) in SABOTAGES.into_iter().enumerate() {
            let wrong = match sabotage {
                Sabotage::Term if !operand.given.sums => None,
                Sabotage::Term => without_a_term[i].as_ref().map(|without| {
                    let missing = without.iter().zip(&prepared.exact[i]).map(|(without, exact)| without - exact);
                    right.iter().zip(missing).map(|(right, missing)| right + missing).collect()
                }),
                _ => spoil(sabotage, operand, right),
            };
            let Some(wrong) = wrong.map(|wrong| prepared.dtypes.round(operand.class, &wrong)) else { continue };
            if wrong == *right {
                continue;
            }
            let count = &mut power[at].counts[number];
            count.cases += 1;
            match judge(prepared, i, &wrong) {
                Err(_) => count.noticed += 1,
                Ok(_) => power[at].missed.push(format!("{label}: {} {name}", operand.name)),
            }
        }
    }
}

/// Rows and columns; rows of one element where there is one row, or one dimension.
fn matrix(operand: &Operand, len: usize) -> (usize, usize) {
    let dims = operand.given.seen_dims();
    let columns = if dims.len() > 1 { dims[dims.len() - 1] } else { 1 };
    if columns == 0 || len <= columns { (len, 1) } else { (len / columns, columns) }
}

fn energy(values: &[f64]) -> f64 {
    values.iter().map(|x| x * x).sum()
}

/// The index of the largest of some numbers.
fn largest(numbers: impl Iterator<Item = f64>) -> usize {
    numbers.enumerate().fold((0, f64::NEG_INFINITY), |best, (i, x)| if x > best.1 { (i, x) } else { best }).0
}

/// The result with one thing wrong; none where that does not apply.
fn spoil(sabotage: Sabotage, operand: &Operand, right: &[f64]) -> Option<Vec<f64>> {
    let before = || operand.given.seen(&operand.given.values);
    let (rows, columns) = matrix(operand, right.len());
    if rows == 0 {
        return None;
    }
    let row = |i: usize| i * columns..(i + 1) * columns;
    let strongest = largest((0..rows).map(|i| energy(&right[row(i)])));
    let mut wrong = right.to_vec();
    match sabotage {
        Sabotage::Left => match operand.access {
            // It was poisoned, which is noticed by itself: a fresh buffer is zero.
            Access::Write => wrong.fill(0.0),
            _ => wrong = before(),
        },
        Sabotage::Sign => wrong.iter_mut().for_each(|x| *x = -*x),
        Sabotage::RowsSwapped => {
            let weakest = largest((0..rows).map(|i| -energy(&right[row(i)])));
            wrong[row(strongest)].copy_from_slice(&right[row(weakest)]);
            wrong[row(weakest)].copy_from_slice(&right[row(strongest)]);
        }
        Sabotage::RowLeftOut => wrong[row(strongest)].fill(0.0),
        Sabotage::FivePercent => wrong.iter_mut().for_each(|x| *x *= 1.05),
        Sabotage::Tile => {
            // As many elements of what has but one column.
            let (tall, wide) = if columns == 1 { (16 * 8, 1) } else { (16, 8) };
            let tile = |t: usize| {
                let (first_row, first) = (t / columns.div_ceil(wide) * tall, t % columns.div_ceil(wide) * wide);
                (first_row..rows.min(first_row + tall))
                    .flat_map(move |i| (first..columns.min(first + wide)).map(move |j| i * columns + j))
            };
            let tiles = rows.div_ceil(tall) * columns.div_ceil(wide);
            let strongest = largest((0..tiles).map(|t| tile(t).map(|i| right[i] * right[i]).sum()));
            tile(strongest).for_each(|i| wrong[i] = 0.0);
        }
        Sabotage::Head => {
            let axis = operand.given.heads.filter(|axis| axis.heads > 1)?;
            let all = axis.heads * axis.inner;
            let difference = |head: usize| {
                let apart = |heads: &[f64]| -> f64 {
                    let at = |i: usize| heads[head * axis.inner + i] - heads[(head + 1) * axis.inner + i];
                    (0..axis.inner).map(|i| at(i).powi(2)).sum()
                };
                right.chunks(all).map(apart).sum::<f64>()
            };
            let head = largest((0..axis.heads - 1).map(difference));
            for heads in wrong.chunks_mut(all) {
                heads.copy_within((head + 1) * axis.inner..(head + 2) * axis.inner, head * axis.inner);
            }
        }
        Sabotage::Overwritten => {
            if operand.access != Access::Add {
                return None;
            }
            wrong.iter_mut().zip(before()).for_each(|(x, before)| *x -= before);
        }
        Sabotage::Term => return None,
    }
    Some(wrong)
}

/// The table: a line for a result, a column for a sabotage, and in it the share of cases that notice and their number.
pub fn table(operations: &[(String, Vec<ResultPower>)]) -> String {
    let mut text = format!("{:<32}", "share of cases that notice");
    SABOTAGES.iter().for_each(|(_, name)| _ = write!(text, " {name:>13}"));
    for (operation, results) in operations {
        for power in results {
            _ = write!(text, "\n{:<32}", format!("{operation} {}", power.result));
            for count in power.counts {
                let cell = match count.cases {
                    0 => "-".to_owned(),
                    cases => format!("{:.0} % of {cases}", (100 * count.noticed / cases) as f64),
                };
                _ = write!(text, " {cell:>13}");
            }
            power.missed.iter().for_each(|missed| _ = write!(text, "\n  NOT NOTICED: {missed}"));
        }
    }
    text
}
