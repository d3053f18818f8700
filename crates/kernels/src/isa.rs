//! Which instructions the processor has, found when the program runs.

#![allow(unsafe_code)]

use std::sync::OnceLock;

#[cfg(target_arch = "x86_64")]
use crate::lanes::{Avx2, Avx512};
use crate::lanes::{Lanes, Plain};

/// A set of instructions that this processor has.
#[derive(Clone, Copy)]
pub struct Isa(Kind);

#[derive(Clone, Copy)]
enum Kind {
    Plain,
    #[cfg(target_arch = "x86_64")]
    Avx2(Avx2),
    #[cfg(target_arch = "x86_64")]
    Avx512(Avx512),
}

/// A piece of work that is written once for all sets of instructions.
///
/// `ROWS` times `VECTORS` vectors are as many sums as the registers hold beside what is added to them.
pub(crate) trait Work {
    /// What it gives.
    type Result;

    /// Does it. Must be `#[inline(always)]`.
    fn run<L: Lanes, const ROWS: usize, const VECTORS: usize>(self, lanes: L) -> Self::Result;
}

impl Isa {
    /// The best one, found once for the whole process.
    pub fn best() -> Self {
        static BEST: OnceLock<Isa> = OnceLock::new();
        *BEST.get_or_init(|| Self::available().first().copied().unwrap_or(Self::plain()))
    }

    /// All that this processor has, the best one first. The last one runs on any processor.
    pub fn available() -> Vec<Self> {
        let mut all = Vec::new();
        #[cfg(target_arch = "x86_64")]
        {
            all.extend(Avx512::detect().map(|lanes| Self(Kind::Avx512(lanes))));
            all.extend(Avx2::detect().map(|lanes| Self(Kind::Avx2(lanes))));
        }
        all.push(Self::plain());
        all
    }

    /// The one that runs on any processor.
    pub fn plain() -> Self {
        Self(Kind::Plain)
    }

    /// Its name.
    pub fn name(self) -> &'static str {
        match self.0 {
            Kind::Plain => "plain",
            #[cfg(target_arch = "x86_64")]
            Kind::Avx2(_) => "avx2",
            #[cfg(target_arch = "x86_64")]
            Kind::Avx512(_) => "avx512",
        }
    }

    /// How many rows and columns of sums the registers hold.
    pub(crate) fn tile(self) -> (usize, usize) {
        self.run(Tile)
    }

    /// Does a piece of work with these instructions.
    pub(crate) fn run<W: Work>(self, work: W) -> W::Result {
        match self.0 {
            Kind::Plain => work.run::<_, 4, 2>(Plain),
            #[cfg(target_arch = "x86_64")]
            // SAFETY: the value in it is the proof that the processor has them.
            Kind::Avx2(lanes) => unsafe { run_avx2(lanes, work) },
            #[cfg(target_arch = "x86_64")]
            // SAFETY: the same.
            Kind::Avx512(lanes) => unsafe { run_avx512(lanes, work) },
        }
    }
}

impl std::fmt::Debug for Isa {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str(self.name())
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
fn run_avx2<W: Work>(lanes: Avx2, work: W) -> W::Result {
    // Of 16 registers twelve are sums, two columns and one a row's number. Four rows by three vectors take all 16, and spill.
    work.run::<_, 6, 2>(lanes)
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx2,fma")]
fn run_avx512<W: Work>(lanes: Avx512, work: W) -> W::Result {
    work.run::<_, 8, 3>(lanes)
}

struct Tile;

impl Work for Tile {
    type Result = (usize, usize);

    #[inline(always)]
    fn run<L: Lanes, const ROWS: usize, const VECTORS: usize>(self, _lanes: L) -> (usize, usize) {
        (ROWS, VECTORS * L::WIDTH)
    }
}
