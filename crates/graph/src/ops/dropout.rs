//! `Dropout`: nothing at inference, elements left out by chance in training.

use std::hash::{BuildHasher, Hasher, RandomState};

use super::arithmetic::multiply;
use super::cast::cast;
use super::{ALL, Built, Entry, Inputs, Outputs, operator};
use crate::load::Node;
use crate::tensor::{Fault, Tensor, check_size, fault};
use crate::value::DType;

/// The operators of this family.
pub(super) const OPERATORS: &[Entry] = &[Entry::new("Dropout", 1, ALL, build).random()];

fn build(node: &Node<'_>) -> Built {
    // Before opset 10 the mask has the type of the input.
    let mask_of_truths = node.opset() >= 10;
    let mask_used = node.output_used(1);
    let seed = node.has("seed").then(|| node.int("seed", 0));
    operator(move |inputs| {
        let ratio = ratio(inputs)?;
        let x = inputs.take(0)?;
        let (dtype, shape) = (x.dtype(), x.shape().to_vec());
        let count = check_size(&shape)?;
        let (x, kept) = match ratio {
            None => {
                if !mask_used {
                    return Ok(x.into());
                }
                (x, vec![1; count])
            }
            Some(ratio) => {
                let mut generator = Twister::new(seed.unwrap_or_else(any_seed));
                let kept: Vec<u8> = (0..count).map(|_| u8::from(generator.unit() >= ratio)).collect();
                (left(x, &kept, ratio)?, kept)
            }
        };
        let mask = Tensor::from_bools(&shape, kept);
        Ok(Outputs::Many(vec![x, if mask_of_truths { mask } else { cast(mask, dtype)? }]))
    })
}

/// How many elements are left out, or `None` when none is: outside of training, and when the ratio is zero.
fn ratio(inputs: &mut Inputs<'_>) -> Result<Option<f64>, Fault> {
    let mut number = |index: usize, default: f64| match inputs.optional(index) {
        Some(tensor) => match tensor.to_f64s()?[..] {
            [number] => Ok(number),
            _ => Err(Fault(format!("one number is needed, not {}", tensor.describe()))),
        },
        None => Ok(default),
    };
    let (ratio, training) = (number(1, 0.5)?, number(2, 0.0)?);
    if training == 0.0 || ratio == 0.0 {
        return Ok(None);
    }
    if !(0.0..1.0).contains(&ratio) {
        fault!("the ratio of dropout is {ratio}");
    }
    Ok(Some(ratio))
}

/// The elements that are kept, larger by as much as is left out, so that their sum is the same on average.
fn left(x: Tensor, kept: &[u8], ratio: f64) -> Result<Tensor, Fault> {
    let (dtype, shape) = (x.dtype(), x.shape().to_vec());
    let wide = if dtype == DType::F64 { DType::F64 } else { DType::F32 };
    if !matches!(dtype, DType::F64 | DType::F32 | DType::F16 | DType::BF16) {
        fault!("floating-point tensors are needed, not {dtype}");
    }
    let factors = kept.iter().map(|&kept| f64::from(kept) / (1.0 - ratio)).collect();
    let factors = cast(Tensor::from_items(&shape, factors), wide)?;
    cast(Tensor::Dense(multiply(cast(x, wide)?.float()?, factors.float()?)?), dtype)
}

/// A seed where the file gives none.
fn any_seed() -> i64 {
    RandomState::new().build_hasher().finish().cast_signed()
}

/// The Mersenne Twister (Matsumoto and Nishimura 1998), which ONNX's reference uses: a seed gives the same
/// mask here and there.
struct Twister {
    state: Vec<u32>,
    next: usize,
}

/// The length of the state.
const WORDS: usize = 624;
/// How far apart the words are of which a new one is made.
const MIDDLE: usize = 397;

impl Twister {
    fn new(seed: i64) -> Self {
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "the low bits are the seed"
        )]
        let mut word = seed as u32;
        let mut state = Vec::with_capacity(WORDS);
        for index in (1u32..).take(WORDS) {
            state.push(word);
            word = 1_812_433_253u32.wrapping_mul(word ^ (word >> 30)).wrapping_add(index);
        }
        Self { state, next: WORDS }
    }

    fn word(&mut self) -> u32 {
        if self.next == WORDS {
            for at in 0..WORDS {
                let joined = (self.state[at] & 0x8000_0000) | (self.state[(at + 1) % WORDS] & 0x7fff_ffff);
                let twisted = if joined & 1 == 1 { 0x9908_b0df } else { 0 };
                self.state[at] = self.state[(at + MIDDLE) % WORDS] ^ (joined >> 1) ^ twisted;
            }
            self.next = 0;
        }
        let mut word = self.state[self.next];
        self.next += 1;
        word ^= word >> 11;
        word ^= (word << 7) & 0x9d2c_5680;
        word ^= (word << 15) & 0xefc6_0000;
        word ^ (word >> 18)
    }

    /// A number from 0 up to 1 with 53 bits.
    fn unit(&mut self) -> f64 {
        let (high, low) = (self.word() >> 5, self.word() >> 6);
        (f64::from(high) * 67_108_864.0 + f64::from(low)) / 9_007_199_254_740_992.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_twister_is_that_of_its_authors() {
        let mut twister = Twister::new(5489);
        assert_eq!([twister.word(), twister.word()], [3_499_211_612, 581_869_302]);
        // The ten thousandth number is the one that the standard of C++ names.
        assert_eq!((2..10_000).map(|_| twister.word()).last(), Some(4_123_659_995));
    }
}
