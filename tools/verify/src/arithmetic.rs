//! The arithmetic of a kernel, as far as rounding goes: f64 in which every value that a kernel stores is off as storing
//! it makes it, so that a formula written with it says how far a right result is from the exact one.
//!
//! A value is not rounded but disturbed by what rounding does on average: uniformly, by up to half a unit in its last
//! place. Its root mean square is that of rounding, `ulp / sqrt(12)` (Widrow and Kollár, *Quantization Noise*, chapter
//! 5), and it does not depend on luck: for one element, "one and a half times as far as the rounded value happens to
//! be" is no rule, since the rounded value may happen to be exact.

use crate::draw::{Class, Dtypes, epsilon};

/// What is done to the values of a formula.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mode {
    Exact,
    Disturbed,
    Omitting,
}

/// Roundings of one evaluation of a formula.
pub struct Arithmetic {
    mode: Mode,
    float: f64,
    sum: f64,
    /// Units in the last place that an addition to a running sum may be off.
    slack: f64,
    state: u64,
}

impl Arithmetic {
    fn new(mode: Mode, dtypes: Dtypes, seed: u64) -> Self {
        let (float, sum) = (epsilon(dtypes.dtype(Class::Float)), epsilon(dtypes.dtype(Class::Sum)));
        // Products of bf16 are summed by tensor cores, whose rounding PTX leaves open: a sum is one of the two f32
        // beside the exact one. In IEEE arithmetic it is the nearer one.
        let slack = if float > sum { 2.0 } else { 1.0 };
        Self { mode, float, sum, slack, state: seed ^ 0x9e37_79b9_7f4a_7c15 }
    }

    /// No rounding: the formula.
    pub fn exact(dtypes: Dtypes) -> Self {
        Self::new(Mode::Exact, dtypes, 0)
    }

    /// Every stored value is off by a rounding error of its own; `seed` says which ones.
    pub fn disturbed(dtypes: Dtypes, seed: u64) -> Self {
        Self::new(Mode::Disturbed, dtypes, seed)
    }

    /// No rounding, and each sum that a result is lacks its strongest term.
    pub fn omitting(dtypes: Dtypes) -> Self {
        Self::new(Mode::Omitting, dtypes, 0)
    }

    /// Uniform between -1 and 1 (Steele and others, *Fast splittable pseudorandom number generators*, 2014).
    fn uniform(&mut self) -> f64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) >> 11) as f64 / (1u64 << 52) as f64 - 1.0
    }

    fn disturb(&mut self, x: f64, eps: f64, units: f64) -> f64 {
        if self.mode != Mode::Disturbed || x == 0.0 || !x.is_finite() {
            return x;
        }
        // The power of two below, whose unit in the last place is eps times as large.
        let power = f64::from_bits(x.to_bits() & 0x7ff0_0000_0000_0000);
        x + 0.5 * units * eps * power * self.uniform()
    }

    /// Stored as a weight or an activation.
    pub fn float(&mut self, x: f64) -> f64 {
        self.disturb(x, self.float, 1.0)
    }

    /// Stored as an accumulator is, or held in a register between two operations.
    pub fn single(&mut self, x: f64) -> f64 {
        self.disturb(x, self.sum, 1.0)
    }

    /// Stored as the class of an operand is.
    pub fn store(&mut self, class: Class, x: f64) -> f64 {
        if class == Class::Float { self.float(x) } else { self.single(x) }
    }

    /// The result of an exponential, a logarithm, a sine, a root or a quotient, which devices approximate: PTX's are
    /// off by up to two units in the last place, and so may the CPU's exponential be.
    pub fn function(&mut self, x: f64) -> f64 {
        self.disturb(x, self.sum, 4.0)
    }

    /// As [`Arithmetic::function`], off relative to `size` where that is more than the result.
    pub fn function_of_size(&mut self, x: f64, size: f64) -> f64 {
        x + (self.function(size) - size)
    }

    /// A sum on the way to a result, one term after another.
    pub fn chain(&mut self, terms: impl IntoIterator<Item = f64>) -> f64 {
        let sum = Sum::of(0.0, terms);
        sum.value + self.errors(sum.squares)
    }

    /// The sum that a result is, one term after another: the longest chain that a lawful order has.
    pub fn total(&mut self, terms: impl IntoIterator<Item = f64>) -> f64 {
        self.add(0.0, terms)
    }

    /// What a result was, and the sum that is added to it.
    pub fn add(&mut self, before: f64, terms: impl IntoIterator<Item = f64>) -> f64 {
        let sum = Sum::of(before, terms);
        self.finish(&sum, sum.squares)
    }

    /// A long sum, whose order no kernel leaves to one chain: 64 terms one after another, and those sums in a tree.
    pub fn tree(&mut self, terms: impl IntoIterator<Item = f64>) -> f64 {
        const CHAIN: usize = 64;
        let (mut whole, mut piece, mut squares, mut count) = (Sum::default(), Sum::default(), 0.0, 0usize);
        for term in terms {
            if count.is_multiple_of(CHAIN) {
                squares += std::mem::take(&mut piece).squares;
            }
            piece.add(term);
            whole.add(term);
            count += 1;
        }
        let levels = (count.div_ceil(CHAIN).max(1) as f64).log2();
        self.finish(&whole, squares + piece.squares + levels * whole.value.powi(2))
    }

    fn finish(&mut self, sum: &Sum, squares: f64) -> f64 {
        let left_out = if self.mode == Mode::Omitting { sum.strongest } else { 0.0 };
        sum.value - left_out + self.errors(squares)
    }

    /// What the roundings of partial sums come to, whose squares are summed.
    fn errors(&mut self, squares: f64) -> f64 {
        if self.mode != Mode::Disturbed {
            return 0.0;
        }
        // Many independent errors: three uniform numbers come near a normal one, of variance 1.
        let normal = self.uniform() + self.uniform() + self.uniform();
        self.slack * self.sum * (squares / 12.0).sqrt() * normal
    }
}

/// A sum, the squares of what is rounded on the way, and its strongest term.
#[derive(Default)]
struct Sum {
    value: f64,
    squares: f64,
    strongest: f64,
}

impl Sum {
    fn of(before: f64, terms: impl IntoIterator<Item = f64>) -> Self {
        let mut sum = Self { value: before, ..Self::default() };
        terms.into_iter().for_each(|term| sum.add(term));
        sum
    }

    /// The term is a product, which is rounded too.
    fn add(&mut self, term: f64) {
        self.value += term;
        self.squares += self.value * self.value + term * term;
        if term.abs() > self.strongest.abs() {
            self.strongest = term;
        }
    }
}

#[cfg(test)]
mod tests {
    use approx::abs_diff_eq;
    use polar_raw::cpu::Cpu;

    use super::*;

    fn dtypes() -> Dtypes {
        Dtypes::of(&Cpu::new())
    }

    fn rms(errors: impl Iterator<Item = f64>) -> f64 {
        let errors: Vec<f64> = errors.collect();
        (errors.iter().map(|e| e * e).sum::<f64>() / errors.len() as f64).sqrt()
    }

    #[test]
    fn storing_is_off_as_rounding_is() {
        let mut arithmetic = Arithmetic::disturbed(dtypes(), 1);
        let values: Vec<f64> = (0..20_000).map(|i| 1.0 + f64::from(i) * 5.1e-5 + 1e-9).collect();
        let disturbed = rms(values.iter().map(|&x| arithmetic.single(x) - x));
        let rounded = rms(values.iter().map(|&x| f64::from(x as f32) - x));
        assert!(abs_diff_eq!(disturbed / rounded, 1.0, epsilon = 0.05), "{disturbed:e} and {rounded:e}");
    }

    #[test]
    fn sums_are_off_as_sums_of_f32_are() {
        // Sums of numbers around 0, and of positive ones, one after another.
        for offset in [-0.5, 0.0] {
            let mut random = Arithmetic::disturbed(dtypes(), 2);
            let (mut modelled, mut real) = (Vec::new(), Vec::new());
            for seed in 0..2000 {
                let terms: Vec<f64> =
                    (0..100).map(|_| f64::from((0.5 * random.uniform() + 0.5 + offset) as f32)).collect();
                let exact: f64 = terms.iter().sum();
                let single = terms.iter().fold(0.0f32, |sum, &term| sum + term as f32);
                modelled.push(Arithmetic::disturbed(dtypes(), seed).chain(terms.iter().copied()) - exact);
                real.push(f64::from(single) - exact);
            }
            let (modelled, real) = (rms(modelled.into_iter()), rms(real.into_iter()));
            assert!(real < 1.1 * modelled && modelled < 1.5 * real, "{modelled:e} and {real:e}");
        }
    }

    #[test]
    fn the_strongest_term_is_left_out() {
        let mut arithmetic = Arithmetic::omitting(dtypes());
        assert_eq!(arithmetic.total([1.0, -7.0, 2.0]), 3.0);
        assert_eq!(arithmetic.add(5.0, [1.0, -7.0, 2.0]), 8.0);
        assert_eq!(arithmetic.chain([]), 0.0);
    }
}
