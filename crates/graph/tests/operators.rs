//! The page of the operators says what the code runs.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use stoker_graph::{OperatorInfo, operators};

/// The rows of all tables under a domain's heading: domain, operator, opset, types.
fn rows(page: &str) -> BTreeSet<[String; 4]> {
    let mut domain = String::new();
    let mut rows = BTreeSet::new();
    for line in page.lines() {
        if let Some(heading) = line.strip_prefix("## ") {
            heading.clone_into(&mut domain);
        }
        let cells: Vec<&str> = line.trim_matches('|').split('|').map(str::trim).collect();
        if let ([operator, since, types, _], false) = (cells.as_slice(), domain.is_empty())
            && since.parse::<u8>().is_ok()
        {
            rows.insert([domain.clone(), (*operator).to_owned(), (*since).to_owned(), (*types).to_owned()]);
        }
    }
    rows
}

#[test]
fn the_page_lists_what_runs() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/operators.md");
    let written = rows(&std::fs::read_to_string(path).unwrap_or_default());
    let row = |&OperatorInfo { domain, name, since, types }: &OperatorInfo| {
        [domain.to_owned(), name.to_owned(), since.to_string(), types.to_owned()]
    };
    let known: BTreeSet<[String; 4]> = operators().iter().map(row).collect();
    let missing: Vec<_> = known.difference(&written).collect();
    let gone: Vec<_> = written.difference(&known).collect();
    assert!(
        missing.is_empty() && gone.is_empty(),
        "docs/operators.md lacks {missing:?} and should not have {gone:?}: run e2e/conformance/onnx --write-docs"
    );
}

#[test]
fn no_operator_is_listed_twice() {
    let mut counts: BTreeMap<(&str, &str), usize> = BTreeMap::new();
    for operator in operators() {
        *counts.entry((operator.domain, operator.name)).or_default() += 1;
    }
    let twice: Vec<_> = counts.into_iter().filter(|&(_, count)| count > 1).collect();
    assert!(twice.is_empty(), "{twice:?}");
}

#[test]
fn opsets_and_types_are_given() {
    for operator in operators() {
        assert!(operator.since > 0 && !operator.types.is_empty(), "{operator:?}");
        // The cells of a table hold them.
        assert!(!operator.types.contains('|'), "{operator:?}");
    }
    let add = operators().into_iter().find(|operator| operator.name == "Add").unwrap();
    assert_eq!((add.domain, add.since), ("ai.onnx", 1));
}
