//! Simulated rollouts through the real decision code: how often a good candidate is taken back, how soon a bad one is.
//!
//! Requests and their faults are drawn; everything that decides is the product's: the plan and its machine
//! ([`stoker_decide::rollout`]), the operator's verdicts ([`stoker_decide::analysis`]) and the routers' detectors, which
//! add each other's increments ([`stoker_decide::harm`]). The same seed gives the same figures on every machine.
//!
//! - [`random`]: numbers from a seed, and how many of n attempts are bad.
//! - [`world`]: requests and faults: drift, incidents, errors that come in clumps.
//! - [`trial`]: one rollout.
//! - [`study`]: many of them, and the bounds that they must keep.
//! - [`bound`]: the exact upper bound of a probability from counts.

pub mod bound;
pub mod random;
pub mod study;
pub mod trial;
pub mod world;
