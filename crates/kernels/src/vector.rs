//! Functions of single FP32 numbers, for slices of them.
//!
//! They have no branch and no table, so that a compiler makes vectors of them. Each is within some units in the last place
//! of the exact value: tests say how many. What is no number stays none.

use crate::compiled::for_each_isa;

/// `a * b + c`, rounded once where the processor can. Where it cannot, the function that rounds once would be slow.
#[inline(always)]
pub(crate) fn fused<const FMA: bool>(a: f32, b: f32, c: f32) -> f32 {
    if FMA { a.mul_add(b, c) } else { a * b + c }
}

/// e to the power of x. Zero where that is less than the least normal number.
#[inline(always)]
pub(crate) fn exp<const FMA: bool>(x: f32) -> f32 {
    // Adding it rounds to a whole number, which is then in the low bits.
    const ROUND: f32 = 12_582_912.0;
    const LEAST: f32 = -87.336_54;
    const MOST: f32 = 88.722_84;
    // Not `clamp`: what is no number stays none.
    let near = if x < LEAST { LEAST } else { x };
    let near = if near > MOST { MOST } else { near };
    let rounded = fused::<FMA>(near, std::f32::consts::LOG2_E, ROUND);
    let whole = rounded - ROUND;
    // ln 2 in two parts, of which the first has zeros at the end: its product with a whole number is exact.
    let rest = fused::<FMA>(whole, -0.693_359_4, near);
    let rest = fused::<FMA>(whole, 2.121_944_4e-4, rest);
    let mut sum = 1.987_569_1e-4;
    for coefficient in [1.398_199_9e-3, 8.333_452e-3, 4.166_579_6e-2, 1.666_666_6e-1, 5e-1] {
        sum = fused::<FMA>(sum, rest, coefficient);
    }
    let power = fused::<FMA>(sum, rest * rest, rest) + 1.0;
    // Two factors, as 2^128 is no number although its half is, times a power that is less than 2.
    let exponent = rounded.to_bits().wrapping_sub(ROUND.to_bits()).cast_signed();
    let half = exponent >> 1;
    let scale = |exponent: i32| f32::from_bits((exponent.wrapping_add(127) << 23).cast_unsigned());
    let result = power * scale(half) * scale(exponent.wrapping_sub(half));
    let result = if x < LEAST { 0.0 } else { result };
    if x > MOST { f32::INFINITY } else { result }
}

/// 1 / (1 + e^-x).
#[inline(always)]
pub(crate) fn sigmoid<const FMA: bool>(x: f32) -> f32 {
    1.0 / (1.0 + exp::<FMA>(-x))
}

/// The hyperbolic tangent, as a quotient of polynomials (that of Eigen).
#[inline(always)]
pub(crate) fn tanh<const FMA: bool>(x: f32) -> f32 {
    const MOST: f32 = 7.905_311;
    let near = if x < -MOST { -MOST } else { x };
    let near = if near > MOST { MOST } else { near };
    let square = near * near;
    let mut above = -2.760_768_4e-16;
    for coefficient in
        [2.000_188e-13, -8.604_672e-11, 5.122_297_3e-8, 1.485_722_35e-5, 6.372_619_5e-4, 4.893_524_6e-3]
    {
        above = fused::<FMA>(above, square, coefficient);
    }
    let mut below = 1.198_258_4e-6;
    for coefficient in [1.185_347_1e-4, 2.268_434_7e-3, 4.893_525e-3] {
        below = fused::<FMA>(below, square, coefficient);
    }
    near * above / below
}

/// The error function (Juffa's polynomials for small and large numbers).
#[inline(always)]
pub(crate) fn erf<const FMA: bool>(x: f32) -> f32 {
    let size = x.abs();
    let square = x * x;
    let mut small = -5.967_617e-4;
    for coefficient in [4.991_194_2e-3, -2.676_813_5e-2, 1.128_199_25e-1, -3.761_253_4e-1, 1.283_791_7e-1] {
        small = fused::<FMA>(small, square, coefficient);
    }
    let small = fused::<FMA>(small, x, x);
    // At 4 it is 1 to the last place.
    let far = if size > 4.0 { 4.0 } else { size };
    let mut large = -1.728_534_7e-5;
    for coefficient in
        [3.831_971_3e-4, -3.883_964_4e-3, 2.425_462_2e-2, -1.067_778_8e-1, -6.348_467e-1, -1.287_175_1e-1]
    {
        large = fused::<FMA>(large, far, coefficient);
    }
    let large = 1.0 - exp::<FMA>(fused::<FMA>(large, far, -far));
    if size > 0.927_734_4 { large.copysign(x) } else { small }
}

/// x times the share of the normal distribution below x.
#[inline(always)]
pub(crate) fn gelu<const FMA: bool>(x: f32) -> f32 {
    0.5 * x * (1.0 + erf::<FMA>(x * std::f32::consts::FRAC_1_SQRT_2))
}

/// Defines a kernel that changes each element of a slice.
macro_rules! elementwise {
    ($(#[$attribute:meta])* $name:ident, $body:ident, $function:ident) => {
        #[inline(always)]
        fn $body<const FMA: bool>(items: &mut [f32]) {
            for item in items {
                *item = $function::<FMA>(*item);
            }
        }

        for_each_isa! {
            $(#[$attribute])*
            pub fn $name(items: &mut [f32]) = $body
        }
    };
}

elementwise!(
    /// e to the power of each element, in place.
    exps, each_exp, exp
);
elementwise!(
    /// 1 / (1 + e^-x) of each element, in place.
    sigmoids, each_sigmoid, sigmoid
);
elementwise!(
    /// The hyperbolic tangent of each element, in place.
    tanhs, each_tanh, tanh
);
elementwise!(
    /// The error function of each element, in place.
    erfs, each_erf, erf
);
elementwise!(
    /// Gelu, by the error function, of each element, in place.
    gelus, each_gelu, gelu
);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Isa;

    /// The error function by its series, whose terms are all positive.
    fn exact_erf(x: f64) -> f64 {
        let (mut term, mut sum) = (x, x);
        for n in 1..200 {
            term *= 2.0 * x * x / f64::from(2 * n + 1);
            sum += term;
        }
        2.0 / std::f64::consts::PI.sqrt() * (-x * x).exp() * sum
    }

    /// Numbers of all sizes, and some between.
    fn numbers(most: f32) -> Vec<f32> {
        let line = (-4000i16..=4000).map(|at| f32::from(at) / 4000.0 * most);
        let small =
            (0i16..60).flat_map(|power| [2f32.powi(-i32::from(power)), -(2f32.powi(-i32::from(power)))]);
        line.chain(small.filter(|x| x.abs() <= most)).collect()
    }

    /// Compares a kernel with the exact function, relative to the size of the result, and to `least` where that is more.
    fn check(kernel: fn(Isa, &mut [f32]), exact: impl Fn(f64) -> f64, most: f32, least: f64, tolerance: f64) {
        for isa in Isa::available() {
            let given = numbers(most);
            let mut found = given.clone();
            kernel(isa, &mut found);
            for (x, found) in given.iter().zip(found) {
                let wanted = exact(f64::from(*x));
                let apart = (f64::from(found) - wanted).abs() / wanted.abs().max(least);
                assert!(apart <= tolerance, "{isa:?}: of {x}: {found}, not {wanted}: {apart:e}");
            }
        }
    }

    #[test]
    fn functions_are_near_the_exact_ones() {
        check(exps, f64::exp, 87.0, 1e-30, 2e-7);
        check(sigmoids, |x| 1.0 / (1.0 + (-x).exp()), 80.0, 1e-30, 4e-7);
        check(tanhs, f64::tanh, 20.0, 1e-30, 5e-7);
        check(erfs, exact_erf, 5.0, 1e-30, 4e-7);
        // Where it is nearly zero it is a difference of numbers that are nearly the same.
        check(gelus, |x| 0.5 * x * (1.0 + exact_erf(x / 2f64.sqrt())), 6.0, 0.1, 1e-6);
    }

    type Kernel = fn(Isa, &mut [f32]);

    #[test]
    fn ends_are_what_they_are() {
        let (inf, nan) = (f32::INFINITY, f32::NAN);
        for isa in Isa::available() {
            let of = |kernel: Kernel| {
                let mut items = [-inf, -1000.0, -0.0, 1000.0, inf, nan];
                kernel(isa, &mut items);
                items
            };
            let cases: [(Kernel, [f32; 5]); 4] = [
                (exps, [0.0, 0.0, 1.0, inf, inf]),
                (sigmoids, [0.0, 0.0, 0.5, 1.0, 1.0]),
                (tanhs, [-1.0, -1.0, -0.0, 1.0, 1.0]),
                (erfs, [-1.0, -1.0, -0.0, 1.0, 1.0]),
            ];
            for (kernel, wanted) in cases {
                let found = of(kernel);
                assert!(
                    found[..5]
                        .iter()
                        .zip(wanted)
                        .all(|(a, b)| (a - b).abs() <= 3e-7 || a.to_bits() == b.to_bits()),
                    "{found:?}"
                );
                assert!(found[5].is_nan());
            }
            let mut most = [88.7, -87.3];
            exps(isa, &mut most);
            assert!(most[0].is_finite() && most[0] > 3.3e38 && most[1] > 1e-38, "{most:?}");
        }
    }
}
