//! Generated files are as `stoker crd --out crds` writes them.

use std::collections::BTreeSet;
use std::path::Path;

use stoker_operator::run::crd;

#[test]
fn crds_are_not_stale() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("crds");
    let files = crd::files().unwrap();
    for crd::File { name, text } in &files {
        let stored = std::fs::read_to_string(folder.join(name)).unwrap_or_default();
        assert!(stored == *text, "crds/{name} is stale; run: cargo run -- crd --out crds");
    }
    let wanted: BTreeSet<_> = files.into_iter().map(|file| file.name).collect();
    let there = std::fs::read_dir(folder).unwrap();
    let there: BTreeSet<_> =
        there.map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned()).collect();
    assert_eq!(there, wanted, "crds/ holds generated files only");
}
