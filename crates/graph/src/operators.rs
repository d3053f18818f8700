//! The operators that this crate runs, as a list for people and programs.

use crate::ops;

/// An operator that this crate runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct OperatorInfo {
    /// Its domain; the ONNX domain is written `ai.onnx`.
    pub domain: &'static str,
    /// Its name, such as `Conv`.
    pub name: &'static str,
    /// The oldest version of the domain whose form of it runs; the forms of all later ones do too.
    pub since: u8,
    /// The element types of its main input, in words.
    pub types: &'static str,
}

/// All operators that this crate runs, by domain and name.
///
/// A node may still be refused for a form that is not supported; [`Model::graph`](crate::Model::graph) says.
pub fn operators() -> Vec<OperatorInfo> {
    let of_domain = |&(domain, families): &(&'static str, &'static [ops::Family])| {
        let domain = if domain.is_empty() { "ai.onnx" } else { domain };
        let entries = families.iter().flat_map(|family| family.iter());
        entries.map(move |&ops::Entry { name, since, types, .. }| OperatorInfo { domain, name, since, types })
    };
    let mut all: Vec<OperatorInfo> = ops::DOMAINS.iter().flat_map(of_domain).collect();
    all.sort_unstable();
    all
}
