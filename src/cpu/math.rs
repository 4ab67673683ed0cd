//! Loops that the compiler vectorises, compiled once for every instruction set and chosen at run time.

/// Runs `f` compiled for the widest vectors of this CPU. What it calls must be inlined to profit.
#[inline(always)]
pub fn vectorised<R>(f: impl FnOnce() -> R) -> R {
    pulp::Arch::new().dispatch(f)
}

/// The widest vector instructions of this machine among those for which loops and products of matrices are compiled.
pub fn instructions() -> &'static str {
    #[cfg(target_arch = "x86_64")]
    {
        if is_x86_feature_detected!("avx512f") {
            return "avx512";
        }
        if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
            return "avx2";
        }
    }
    std::env::consts::ARCH
}

/// `e^x` to about 1 ulp, with no branch: `2^n e^r`, `n = round(x / ln 2)`, `|r| <= ln 2 / 2`, a polynomial of degree 6
/// for `e^r` (its Taylor series with the last coefficients adjusted by least squares would gain nothing at f32).
/// Below -87 it is 0, above 88 it is infinite; NaN stays NaN.
#[inline(always)]
pub fn exp(x: f32) -> f32 {
    // Adding 1.5 * 2^23 rounds to an integer that stands in the low bits of the sum.
    const ROUND: f32 = 12_582_912.0;
    let clamped = if x < -87.0 { -87.0 } else { x };
    let clamped = if clamped > 88.0 { 88.0 } else { clamped };
    let shifted = clamped * std::f32::consts::LOG2_E + ROUND;
    let n = shifted - ROUND;
    // ln 2 in two pieces, so that n ln 2 is subtracted almost exactly.
    let r = (clamped - n * 0.693_145_75) - n * 1.428_606_8e-6;
    let mut p = 1.0 / 720.0;
    p = p * r + 1.0 / 120.0;
    p = p * r + 1.0 / 24.0;
    p = p * r + 1.0 / 6.0;
    p = p * r + 0.5;
    let e = (p * r) * r + r + 1.0;
    let power = f32::from_bits((shifted.to_bits() << 23).wrapping_add(0x3f80_0000));
    let y = e * power;
    let y = if x < -87.0 { 0.0 } else { y };
    if x > 88.0 { f32::INFINITY } else { y }
}

/// `1 / (1 + e^-x)`.
#[inline(always)]
pub fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + exp(-x))
}

/// Lanes of the sums below: enough for two AVX-512 accumulators.
const LANES: usize = 32;

/// `sum(f(a_i, b_i))` over equally long slices, in an order of its own that depends on the length alone.
#[inline(always)]
pub fn sum2(a: &[f32], b: &[f32], f: impl Fn(f32, f32) -> f32) -> f32 {
    let mut lanes = [0.0f32; LANES];
    let (a_chunks, a_rest) = a.as_chunks::<LANES>();
    let (b_chunks, b_rest) = b.as_chunks::<LANES>();
    for (x, y) in a_chunks.iter().zip(b_chunks) {
        for i in 0..LANES {
            lanes[i] += f(x[i], y[i]);
        }
    }
    let mut width = LANES / 2;
    while width > 0 {
        for i in 0..width {
            lanes[i] += lanes[i + width];
        }
        width /= 2;
    }
    a_rest.iter().zip(b_rest).fold(lanes[0], |sum, (&x, &y)| sum + f(x, y))
}

/// `sum(f(a_i, b_i, c_i))`, likewise.
#[inline(always)]
pub fn sum3(a: &[f32], b: &[f32], c: &[f32], f: impl Fn(f32, f32, f32) -> f32) -> f32 {
    let mut lanes = [0.0f32; LANES];
    let ((a_chunks, a_rest), (b_chunks, b_rest)) = (a.as_chunks::<LANES>(), b.as_chunks::<LANES>());
    let (c_chunks, c_rest) = c.as_chunks::<LANES>();
    for ((x, y), z) in a_chunks.iter().zip(b_chunks).zip(c_chunks) {
        for i in 0..LANES {
            lanes[i] += f(x[i], y[i], z[i]);
        }
    }
    let rest = a_rest.iter().zip(b_rest).zip(c_rest).fold(0.0, |sum, ((&x, &y), &z)| sum + f(x, y, z));
    lanes.iter().sum::<f32>() + rest
}

/// `a . b`
#[inline(always)]
pub fn dot(a: &[f32], b: &[f32]) -> f32 {
    sum2(a, b, |x, y| x * y)
}

/// The largest element; NaN if there is one, so that it is not lost.
#[inline(always)]
pub fn max(x: &[f32]) -> f32 {
    let mut lanes = [f32::NEG_INFINITY; LANES];
    let (chunks, rest) = x.as_chunks::<LANES>();
    // Without a branch: `||` would be one.
    let larger = |best: f32, v: f32| if (best >= v) | best.is_nan() { best } else { v };
    for chunk in chunks {
        for i in 0..LANES {
            lanes[i] = larger(lanes[i], chunk[i]);
        }
    }
    lanes.iter().chain(rest).fold(f32::NEG_INFINITY, |best, &v| larger(best, v))
}

#[cfg(test)]
mod tests {
    use approx::abs_diff_eq;

    use super::*;

    #[test]
    fn exp_is_within_two_ulp() {
        for i in -870_000..880_000 {
            let x = i as f32 * 1e-4;
            let (got, want) = (f64::from(exp(x)), f64::from(x).exp());
            assert!(
                abs_diff_eq!(got, want, epsilon = 2.0 * want * f64::from(f32::EPSILON)),
                "exp({x}) = {got}, not {want}"
            );
        }
    }

    #[test]
    fn exp_at_its_ends() {
        assert_eq!(exp(f32::NEG_INFINITY), 0.0);
        assert_eq!(exp(-1e4), 0.0);
        assert_eq!(exp(1e4), f32::INFINITY);
        assert!(exp(f32::NAN).is_nan());
        assert_eq!(exp(0.0), 1.0);
    }

    #[test]
    fn max_keeps_nan() {
        let mut x = vec![1.0; 100];
        assert_eq!(max(&x), 1.0);
        for i in [0, 50, 99] {
            x[i] = f32::NAN;
            assert!(max(&x).is_nan(), "a NaN at {i} was lost");
            x[i] = 1.0;
        }
    }
}
