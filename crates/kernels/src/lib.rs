//! Matrix products and convolutions in single precision.
//!
//! Weights are laid out once, as the innermost loop reads them ([`Matrix`], [`Filters`]); a request then gives rows or
//! images, and gets its result in one pass: bias, a second summand and bounds are applied before a sum is stored
//! ([`Finish`]). Nothing else is laid out but what a core has in its nearest cache.
//!
//! Instructions are chosen when the program runs ([`Isa`]): AVX-512, AVX2 with FMA, or what any processor has. Each kernel
//! is written once for all of them, and tests hold all that the machine has against sums written plainly.
//!
//! What is done to single numbers, rows and gates besides is plain Rust that a compiler makes vectors of, for the same sets
//! of instructions ([`gelus`], [`softmax`], [`normalise`], [`lstm_gates`]).
//!
//! Large work is divided between the threads of the rayon pool that the caller is in.

mod attention;
mod cells;
mod column;
mod compiled;
mod convolution;
mod isa;
mod lanes;
mod matrix;
mod pool;
mod rows;
mod stack;
mod team;
mod threads;
mod tile;
mod vector;

pub use attention::attention;
pub use cells::{Gates, lstm_gates};
pub use convolution::{Filters, Layer, Separable, Span};
pub use isa::Isa;
pub use matrix::{Matrix, View};
pub use pool::{maxima, means};
pub use rows::{Normal, normalise, softmax};
pub use stack::products;
pub use team::join;
pub use threads::share;
pub use tile::Finish;
pub use vector::{erfs, exps, gelus, sigmoids, tanhs};
