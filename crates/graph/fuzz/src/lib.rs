//! What the fuzz targets are made of; `e2e/fuzz` runs them.
//!
//! `load` gives files to the loader and runs what it takes. `differential` makes small graphs and compares
//! the answers with those of ONNX Runtime, which runs in a process of its own: [`peer`].
//!
//! What the crate's test `findings` needs too is in its folder.

#[path = "../../tests/replay/agreement.rs"]
pub mod agreement;
#[path = "../../tests/replay/dice.rs"]
pub mod dice;
#[path = "../../tests/replay/hostile.rs"]
pub mod hostile;
pub mod mutate;
pub mod peer;
pub mod random_graph;
pub mod tally;
pub mod wire;
