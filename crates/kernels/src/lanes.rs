//! Vectors of single-precision numbers, of the length that the processor has.
//!
//! A kernel is written once, over [`Lanes`]. The value of a type that implements it is a proof: it can be made only
//! where the processor was found to have the instructions, so that its methods are safe to call.

#![allow(unsafe_code)]

use std::mem::MaybeUninit;

/// Operations on [`Lanes::WIDTH`] numbers at a time.
///
/// All that takes or gives vectors is `#[inline(always)]`, as it must be compiled into a function that has the
/// instructions: see [`Isa::run`](crate::isa::Isa::run). So no closure does, nor `map` of an array: those are calls where the
/// compiler sees fit, for which all registers are put away.
pub(crate) trait Lanes: Copy + Send + Sync {
    /// A vector.
    type V: Copy;
    /// How many numbers a vector has.
    const WIDTH: usize;
    /// A product with a sum is one instruction.
    const FUSES: bool;

    /// The same number in all places.
    fn splat(self, x: f32) -> Self::V;
    /// The first `WIDTH` numbers, of at least as many.
    fn load(self, from: &[f32]) -> Self::V;
    /// The numbers 0, 2, 4, .. of two vectors that follow each other.
    fn even(self, a: Self::V, b: Self::V) -> Self::V;
    /// The numbers 1, 3, 5, .. of two vectors that follow each other.
    fn odd(self, a: Self::V, b: Self::V) -> Self::V;
    /// The numbers of two vectors in turns, as two vectors that follow each other.
    fn zip(self, a: Self::V, b: Self::V) -> [Self::V; 2];
    /// The numbers 0, 4, 8, .. of four vectors that follow each other, then 1, 5, 9, .. and so on.
    #[inline(always)]
    fn quarters(self, [a, b, c, d]: [Self::V; 4]) -> [Self::V; 4] {
        let (even, more_even) = (self.even(a, b), self.even(c, d));
        let (odd, more_odd) = (self.odd(a, b), self.odd(c, d));
        [
            self.even(even, more_even),
            self.even(odd, more_odd),
            self.odd(even, more_even),
            self.odd(odd, more_odd),
        ]
    }
    /// The numbers of `a` but for the first one, then the first one of `b`.
    fn next(self, a: Self::V, b: Self::V) -> Self::V;
    /// The bits that both have: a number where the other one has all bits, and 0 where it has none.
    fn and(self, a: Self::V, b: Self::V) -> Self::V;
    /// Writes the first `WIDTH` numbers, of at least as many.
    fn write(self, x: Self::V, to: &mut [MaybeUninit<f32>]);
    /// `a + b`.
    fn add(self, a: Self::V, b: Self::V) -> Self::V;
    /// `a - b`.
    fn sub(self, a: Self::V, b: Self::V) -> Self::V;
    /// `a * b`.
    fn mul(self, a: Self::V, b: Self::V) -> Self::V;
    /// `a * b + c`, rounded once where the processor can.
    fn fma(self, a: Self::V, b: Self::V, c: Self::V) -> Self::V;
    /// `a` where that is greater than `b`, else `b`: also where one of them is no number.
    fn max(self, a: Self::V, b: Self::V) -> Self::V;
    /// The greater one; what is no number where one of them is none.
    fn greater(self, a: Self::V, b: Self::V) -> Self::V;
    /// `a` where that is less than `b`, else `b`: also where one of them is no number.
    fn min(self, a: Self::V, b: Self::V) -> Self::V;

    /// Asks for numbers that will be read soon.
    #[inline(always)]
    fn prefetch(self, _soon: &[f32]) {}

    /// Zeros.
    #[inline(always)]
    fn zero(self) -> Self::V {
        self.splat(0.0)
    }

    /// Stores the first `WIDTH` numbers, of at least as many.
    #[inline(always)]
    fn store(self, x: Self::V, to: &mut [f32]) {
        self.write(x, as_uninit(to));
    }
}

/// What [`Lanes::and`] keeps a number with, or makes 0 of it with.
pub(crate) fn mask(keeps: bool) -> f32 {
    f32::from_bits(if keeps { u32::MAX } else { 0 })
}

/// Numbers as a place to write to. What is written through it is always a number.
#[inline(always)]
pub(crate) fn as_uninit(numbers: &mut [f32]) -> &mut [MaybeUninit<f32>] {
    let length = numbers.len();
    // SAFETY: the layout is the same, and no code of this crate writes an uninitialised number.
    unsafe { std::slice::from_raw_parts_mut(numbers.as_mut_ptr().cast(), length) }
}

/// The numbers of `N` vectors in turns, as `N` vectors that follow each other. `N` is a power of two.
#[inline(always)]
pub(crate) fn interleave<L: Lanes, const N: usize>(lanes: L, mut x: [L::V; N]) -> [L::V; N] {
    let mut apart = N / 2;
    while apart > 0 {
        let from = x;
        for pair in 0..N / 2 {
            [x[2 * pair], x[2 * pair + 1]] = lanes.zip(from[pair], from[pair + N / 2]);
        }
        apart /= 2;
    }
    x
}

/// Four numbers at a time, as the compiler sees fit: on any processor.
#[derive(Clone, Copy)]
pub(crate) struct Plain;

/// Applies a function to each place.
macro_rules! each {
    ($function:expr, $($x:ident),+) => {{
        let mut result = [0.0; Self::WIDTH];
        let mut at = 0;
        while at < Self::WIDTH {
            result[at] = $function($($x[at]),+);
            at += 1;
        }
        result
    }};
}

impl Lanes for Plain {
    type V = [f32; 4];
    const WIDTH: usize = 4;
    const FUSES: bool = false;

    #[inline(always)]
    fn splat(self, x: f32) -> Self::V {
        [x; 4]
    }

    #[inline(always)]
    fn load(self, from: &[f32]) -> Self::V {
        [from[0], from[1], from[2], from[3]]
    }

    #[inline(always)]
    fn even(self, a: Self::V, b: Self::V) -> Self::V {
        [a[0], a[2], b[0], b[2]]
    }

    #[inline(always)]
    fn odd(self, a: Self::V, b: Self::V) -> Self::V {
        [a[1], a[3], b[1], b[3]]
    }

    #[inline(always)]
    fn zip(self, a: Self::V, b: Self::V) -> [Self::V; 2] {
        [[a[0], b[0], a[1], b[1]], [a[2], b[2], a[3], b[3]]]
    }

    #[inline(always)]
    fn next(self, a: Self::V, b: Self::V) -> Self::V {
        [a[1], a[2], a[3], b[0]]
    }

    #[inline(always)]
    fn and(self, a: Self::V, b: Self::V) -> Self::V {
        each!(|a: f32, b: f32| f32::from_bits(a.to_bits() & b.to_bits()), a, b)
    }

    #[inline(always)]
    fn write(self, x: Self::V, to: &mut [MaybeUninit<f32>]) {
        for (to, x) in to[..4].iter_mut().zip(x) {
            to.write(x);
        }
    }

    #[inline(always)]
    fn add(self, a: Self::V, b: Self::V) -> Self::V {
        each!(|a, b| a + b, a, b)
    }

    #[inline(always)]
    fn sub(self, a: Self::V, b: Self::V) -> Self::V {
        each!(|a, b| a - b, a, b)
    }

    #[inline(always)]
    fn mul(self, a: Self::V, b: Self::V) -> Self::V {
        each!(|a, b| a * b, a, b)
    }

    #[inline(always)]
    fn fma(self, a: Self::V, b: Self::V, c: Self::V) -> Self::V {
        // Not `mul_add`, which is a call of the C library where the processor has no such instruction.
        each!(|a, b, c| a * b + c, a, b, c)
    }

    #[inline(always)]
    fn max(self, a: Self::V, b: Self::V) -> Self::V {
        each!(|a, b| if a > b { a } else { b }, a, b)
    }

    #[inline(always)]
    fn greater(self, a: Self::V, b: Self::V) -> Self::V {
        each!(|a: f32, b| if a > b || a.is_nan() { a } else { b }, a, b)
    }

    #[inline(always)]
    fn min(self, a: Self::V, b: Self::V) -> Self::V {
        each!(|a, b| if a < b { a } else { b }, a, b)
    }
}

#[cfg(target_arch = "x86_64")]
pub(crate) use x86::{Avx2, Avx512};

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::{
        __m256, __m512, _CMP_UNORD_Q, _MM_HINT_T1, _mm_prefetch, _mm256_add_ps, _mm256_alignr_epi8,
        _mm256_and_ps, _mm256_blendv_ps, _mm256_castpd_ps, _mm256_castps_pd, _mm256_castps_si256,
        _mm256_castsi256_ps, _mm256_cmp_ps, _mm256_fmadd_ps, _mm256_loadu_ps, _mm256_max_ps, _mm256_min_ps,
        _mm256_mul_ps, _mm256_permute2f128_ps, _mm256_permute4x64_pd, _mm256_set1_ps, _mm256_shuffle_ps,
        _mm256_storeu_ps, _mm256_sub_ps, _mm256_unpackhi_ps, _mm256_unpacklo_ps, _mm512_add_ps,
        _mm512_alignr_epi32, _mm512_and_si512, _mm512_castps_si512, _mm512_castsi512_ps, _mm512_cmp_ps_mask,
        _mm512_fmadd_ps, _mm512_loadu_ps, _mm512_mask_blend_ps, _mm512_max_ps, _mm512_min_ps, _mm512_mul_ps,
        _mm512_permutex2var_ps, _mm512_set1_ps, _mm512_setr_epi32, _mm512_storeu_ps, _mm512_sub_ps,
    };
    use std::mem::MaybeUninit;

    use super::Lanes;

    /// Eight numbers at a time.
    #[derive(Clone, Copy)]
    pub(crate) struct Avx2(());

    impl Avx2 {
        /// The proof that the processor has AVX2 and FMA.
        pub(crate) fn detect() -> Option<Self> {
            (std::is_x86_feature_detected!("avx2") && std::is_x86_feature_detected!("fma"))
                .then_some(Self(()))
        }
    }

    /// Sixteen numbers at a time.
    #[derive(Clone, Copy)]
    pub(crate) struct Avx512(());

    impl Avx512 {
        /// The proof that the processor has AVX-512 F, and what comes with it.
        pub(crate) fn detect() -> Option<Self> {
            (std::is_x86_feature_detected!("avx512f") && Avx2::detect().is_some()).then_some(Self(()))
        }
    }

    /// What both have, by the names of the instructions.
    macro_rules! lanes {
        ($Self:ty, $V:ty, $width:literal, $splat:ident, $load:ident, $store:ident, $add:ident, $sub:ident,
         $mul:ident, $fma:ident, $max:ident, $greater:ident, $min:ident, $even:ident, $odd:ident, $zip:ident, $quarters:ident, $next:ident, $and:ident) => {
            impl Lanes for $Self {
                type V = $V;
                const WIDTH: usize = $width;
                const FUSES: bool = true;

                #[inline(always)]
                fn splat(self, x: f32) -> Self::V {
                    // SAFETY: a value of this type is the proof that the instruction is there.
                    unsafe { $splat(x) }
                }

                #[inline(always)]
                fn load(self, from: &[f32]) -> Self::V {
                    assert!(from.len() >= Self::WIDTH);
                    // SAFETY: as in `splat`; so many numbers are there, at any alignment.
                    unsafe { $load(from.as_ptr()) }
                }

                #[inline(always)]
                fn prefetch(self, soon: &[f32]) {
                    for line in soon.chunks(16) {
                        // SAFETY: it reads nothing that the program could see, from a place that is there.
                        unsafe { _mm_prefetch::<_MM_HINT_T1>(line.as_ptr().cast()) }
                    }
                }

                #[inline(always)]
                fn even(self, a: Self::V, b: Self::V) -> Self::V {
                    // SAFETY: as in `splat`.
                    unsafe { $even(a, b) }
                }

                #[inline(always)]
                fn odd(self, a: Self::V, b: Self::V) -> Self::V {
                    // SAFETY: as in `splat`.
                    unsafe { $odd(a, b) }
                }

                #[inline(always)]
                fn zip(self, a: Self::V, b: Self::V) -> [Self::V; 2] {
                    // SAFETY: as in `splat`.
                    unsafe { $zip(a, b) }
                }

                #[inline(always)]
                fn quarters(self, x: [Self::V; 4]) -> [Self::V; 4] {
                    // SAFETY: as in `splat`.
                    unsafe { $quarters(x) }
                }

                #[inline(always)]
                fn next(self, a: Self::V, b: Self::V) -> Self::V {
                    // SAFETY: as in `splat`.
                    unsafe { $next(a, b) }
                }

                #[inline(always)]
                fn and(self, a: Self::V, b: Self::V) -> Self::V {
                    // SAFETY: as in `splat`.
                    unsafe { $and(a, b) }
                }

                #[inline(always)]
                fn write(self, x: Self::V, to: &mut [MaybeUninit<f32>]) {
                    assert!(to.len() >= Self::WIDTH);
                    // SAFETY: as in `splat`; there is room for so many numbers, at any alignment.
                    unsafe { $store(to.as_mut_ptr().cast(), x) }
                }

                #[inline(always)]
                fn add(self, a: Self::V, b: Self::V) -> Self::V {
                    // SAFETY: as in `splat`.
                    unsafe { $add(a, b) }
                }

                #[inline(always)]
                fn sub(self, a: Self::V, b: Self::V) -> Self::V {
                    // SAFETY: as in `splat`.
                    unsafe { $sub(a, b) }
                }

                #[inline(always)]
                fn mul(self, a: Self::V, b: Self::V) -> Self::V {
                    // SAFETY: as in `splat`.
                    unsafe { $mul(a, b) }
                }

                #[inline(always)]
                fn fma(self, a: Self::V, b: Self::V, c: Self::V) -> Self::V {
                    // SAFETY: as in `splat`.
                    unsafe { $fma(a, b, c) }
                }

                #[inline(always)]
                fn max(self, a: Self::V, b: Self::V) -> Self::V {
                    // SAFETY: as in `splat`.
                    unsafe { $max(a, b) }
                }

                #[inline(always)]
                fn greater(self, a: Self::V, b: Self::V) -> Self::V {
                    // SAFETY: as in `splat`.
                    unsafe { $greater(a, b) }
                }

                #[inline(always)]
                fn min(self, a: Self::V, b: Self::V) -> Self::V {
                    // SAFETY: as in `splat`.
                    unsafe { $min(a, b) }
                }
            }
        };
    }

    #[target_feature(enable = "avx2")]
    #[inline]
    fn greater_of_8(a: __m256, b: __m256) -> __m256 {
        // `max` gives `b` where one of them is no number.
        _mm256_blendv_ps(_mm256_max_ps(a, b), a, _mm256_cmp_ps::<_CMP_UNORD_Q>(a, a))
    }

    #[target_feature(enable = "avx512f")]
    #[inline]
    fn greater_of_16(a: __m512, b: __m512) -> __m512 {
        _mm512_mask_blend_ps(_mm512_cmp_ps_mask::<_CMP_UNORD_Q>(a, a), _mm512_max_ps(a, b), a)
    }

    #[target_feature(enable = "avx2")]
    #[inline]
    fn even_of_8(a: __m256, b: __m256) -> __m256 {
        // Within each half: 0 2 8 10 | 4 6 12 14; then the pairs in their order.
        let mixed = _mm256_shuffle_ps::<0b10_00_10_00>(a, b);
        _mm256_castpd_ps(_mm256_permute4x64_pd::<0b11_01_10_00>(_mm256_castps_pd(mixed)))
    }

    #[target_feature(enable = "avx2")]
    #[inline]
    fn odd_of_8(a: __m256, b: __m256) -> __m256 {
        let mixed = _mm256_shuffle_ps::<0b11_01_11_01>(a, b);
        _mm256_castpd_ps(_mm256_permute4x64_pd::<0b11_01_10_00>(_mm256_castps_pd(mixed)))
    }

    #[target_feature(enable = "avx2")]
    #[inline]
    fn zip_8(a: __m256, b: __m256) -> [__m256; 2] {
        // 0 8 1 9 | 4 12 5 13 and 2 10 3 11 | 6 14 7 15; then the halves in their order.
        let (low, high) = (_mm256_unpacklo_ps(a, b), _mm256_unpackhi_ps(a, b));
        [_mm256_permute2f128_ps::<0x20>(low, high), _mm256_permute2f128_ps::<0x31>(low, high)]
    }

    /// Fewer moves between halves than by `even_of_8` and `odd_of_8`.
    #[target_feature(enable = "avx2")]
    #[inline]
    fn quarters_of_8([a, b, c, d]: [__m256; 4]) -> [__m256; 4] {
        // Four numbers each: 0 and 4, 1 and 5, 2 and 6, 3 and 7; then four by four are turned in each half.
        let (first, second) = (_mm256_permute2f128_ps::<0x20>(a, c), _mm256_permute2f128_ps::<0x31>(a, c));
        let (third, fourth) = (_mm256_permute2f128_ps::<0x20>(b, d), _mm256_permute2f128_ps::<0x31>(b, d));
        let (low, high) = (_mm256_unpacklo_ps(first, second), _mm256_unpackhi_ps(first, second));
        let (more_low, more_high) = (_mm256_unpacklo_ps(third, fourth), _mm256_unpackhi_ps(third, fourth));
        [
            _mm256_shuffle_ps::<0b01_00_01_00>(low, more_low),
            _mm256_shuffle_ps::<0b11_10_11_10>(low, more_low),
            _mm256_shuffle_ps::<0b01_00_01_00>(high, more_high),
            _mm256_shuffle_ps::<0b11_10_11_10>(high, more_high),
        ]
    }

    #[target_feature(enable = "avx2")]
    #[inline]
    fn next_of_8(a: __m256, b: __m256) -> __m256 {
        let (middle, a) = (_mm256_permute2f128_ps::<0x21>(a, b), _mm256_castps_si256(a));
        _mm256_castsi256_ps(_mm256_alignr_epi8::<4>(_mm256_castps_si256(middle), a))
    }

    #[target_feature(enable = "avx512f")]
    #[inline]
    fn next_of_16(a: __m512, b: __m512) -> __m512 {
        let (a, b) = (_mm512_castps_si512(a), _mm512_castps_si512(b));
        _mm512_castsi512_ps(_mm512_alignr_epi32::<1>(b, a))
    }

    #[target_feature(enable = "avx512f")]
    #[inline]
    fn quarters_of_16([a, b, c, d]: [__m512; 4]) -> [__m512; 4] {
        let (even, more_even) = (even_of_16(a, b), even_of_16(c, d));
        let (odd, more_odd) = (odd_of_16(a, b), odd_of_16(c, d));
        [
            even_of_16(even, more_even),
            even_of_16(odd, more_odd),
            odd_of_16(even, more_even),
            odd_of_16(odd, more_odd),
        ]
    }

    /// `_mm512_and_ps` asks for more than AVX-512 F.
    #[target_feature(enable = "avx512f")]
    #[inline]
    fn and_of_16(a: __m512, b: __m512) -> __m512 {
        _mm512_castsi512_ps(_mm512_and_si512(_mm512_castps_si512(a), _mm512_castps_si512(b)))
    }

    #[target_feature(enable = "avx512f")]
    #[inline]
    fn even_of_16(a: __m512, b: __m512) -> __m512 {
        let places = _mm512_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30);
        _mm512_permutex2var_ps(a, places, b)
    }

    #[target_feature(enable = "avx512f")]
    #[inline]
    fn odd_of_16(a: __m512, b: __m512) -> __m512 {
        let places = _mm512_setr_epi32(1, 3, 5, 7, 9, 11, 13, 15, 17, 19, 21, 23, 25, 27, 29, 31);
        _mm512_permutex2var_ps(a, places, b)
    }

    #[target_feature(enable = "avx512f")]
    #[inline]
    fn zip_16(a: __m512, b: __m512) -> [__m512; 2] {
        let low = _mm512_setr_epi32(0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
        let high = _mm512_setr_epi32(8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31);
        [_mm512_permutex2var_ps(a, low, b), _mm512_permutex2var_ps(a, high, b)]
    }

    lanes!(
        Avx2,
        __m256,
        8,
        _mm256_set1_ps,
        _mm256_loadu_ps,
        _mm256_storeu_ps,
        _mm256_add_ps,
        _mm256_sub_ps,
        _mm256_mul_ps,
        _mm256_fmadd_ps,
        _mm256_max_ps,
        greater_of_8,
        _mm256_min_ps,
        even_of_8,
        odd_of_8,
        zip_8,
        quarters_of_8,
        next_of_8,
        _mm256_and_ps
    );
    lanes!(
        Avx512,
        __m512,
        16,
        _mm512_set1_ps,
        _mm512_loadu_ps,
        _mm512_storeu_ps,
        _mm512_add_ps,
        _mm512_sub_ps,
        _mm512_mul_ps,
        _mm512_fmadd_ps,
        _mm512_max_ps,
        greater_of_16,
        _mm512_min_ps,
        even_of_16,
        odd_of_16,
        zip_16,
        quarters_of_16,
        next_of_16,
        and_of_16
    );
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::isa::{Isa, Work};

    struct Moves;

    impl Work for Moves {
        type Result = [Vec<f32>; 4];

        #[inline(always)]
        fn run<L: Lanes, const ROWS: usize, const VECTORS: usize>(self, lanes: L) -> Self::Result {
            let numbers: Vec<f32> = (0..64u8).map(f32::from).collect();
            let (a, b) = (lanes.load(&numbers), lanes.load(&numbers[L::WIDTH..]));
            let kept = |x| {
                let mut kept = vec![0.0; L::WIDTH];
                lanes.store(x, &mut kept);
                kept
            };
            let [low, high] = lanes.zip(a, b);
            [kept(lanes.even(a, b)), kept(lanes.odd(a, b)), kept(low), kept(high)]
        }
    }

    struct Interleaved;

    impl Work for Interleaved {
        type Result = Vec<f32>;

        #[inline(always)]
        fn run<L: Lanes, const ROWS: usize, const VECTORS: usize>(self, lanes: L) -> Vec<f32> {
            let mut kept = vec![0.0; 8 * L::WIDTH];
            let mut from = [lanes.zero(); 8];
            for (row, from) in (0u8..).zip(&mut from) {
                let numbers: Vec<f32> = (0..16).map(|at| f32::from(at * 8 + row)).collect();
                *from = lanes.load(&numbers);
            }
            for (x, to) in interleave(lanes, from).into_iter().zip(kept.chunks_mut(L::WIDTH)) {
                lanes.store(x, to);
            }
            kept
        }
    }

    #[test]
    #[expect(clippy::float_cmp, reason = "whole numbers that are only moved")]
    fn eight_rows_become_steps_of_eight() {
        for isa in Isa::available() {
            let kept = isa.run(Interleaved);
            assert!(kept.iter().zip(0u8..).all(|(&x, at)| x == f32::from(at)), "{isa:?}: {kept:?}");
        }
    }

    #[test]
    fn numbers_are_moved_alike_by_all() {
        for isa in Isa::available() {
            let [even, odd, low, high] = isa.run(Moves);
            let width = even.len() as f32;
            for (at, (&even, &odd)) in even.iter().zip(&odd).enumerate() {
                assert_eq!((even, odd), (2.0 * at as f32, 2.0 * at as f32 + 1.0), "{isa:?}");
            }
            for (at, pair) in low.iter().chain(&high).collect::<Vec<_>>().chunks(2).enumerate() {
                assert_eq!(pair, [&(at as f32), &(at as f32 + width)], "{isa:?}");
            }
        }
    }
}
