//! Labels of what belongs to a ModelDeployment.

use std::collections::BTreeMap;

use stoker_api::names::{labels, parts};

/// Labels of everything that belongs to a ModelDeployment.
pub fn of_deployment(name: &str) -> BTreeMap<String, String> {
    BTreeMap::from([
        (labels::MANAGED_BY.to_owned(), labels::STOKER.to_owned()),
        (labels::DEPLOYMENT.to_owned(), name.to_owned()),
    ])
}

/// Labels of what belongs to one of its revisions.
pub fn of_revision(name: &str, revision: &str) -> BTreeMap<String, String> {
    let mut labels = of_deployment(name);
    labels.insert(labels::REVISION.to_owned(), revision.to_owned());
    labels
}

/// What selects the pods of a revision.
pub fn selector(name: &str, revision: &str) -> BTreeMap<String, String> {
    BTreeMap::from([
        (labels::PART.to_owned(), parts::SERVER.to_owned()),
        (labels::DEPLOYMENT.to_owned(), name.to_owned()),
        (labels::REVISION.to_owned(), revision.to_owned()),
    ])
}

/// The selector of lists: everything of a ModelDeployment.
pub fn query(name: &str) -> String {
    format!("{}={name}", labels::DEPLOYMENT)
}
