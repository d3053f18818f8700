//! Which cuts hold, by (uid of the route, run, revision). The first one that is known stays.

use std::collections::BTreeMap;

use stoker_api::exchange::KnownCut;
use stoker_api::route::Cut;

/// Most cuts that are kept for one route: as many as its status holds.
pub const LARGEST: usize = 16;
/// Longest reason, in bytes.
pub const LONGEST_REASON: usize = 1024;
/// Longest name of a revision or a router, in bytes.
pub const LONGEST_NAME: usize = 253;

/// The cuts that a router obeys.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Latches(BTreeMap<String, BTreeMap<(u64, String), Cut>>);

impl Latches {
    /// Keeps a cut; says whether it is new. One that no table could be about, or that is one too many, is not kept.
    pub fn add(&mut self, uid: &str, cut: Cut) -> bool {
        let is_name = |text: &str| !text.is_empty() && text.len() <= LONGEST_NAME;
        if !is_name(&cut.revision) || cut.by.len() > LONGEST_NAME || cut.because.len() > LONGEST_REASON {
            return false;
        }
        let of_route = self.0.entry(uid.to_owned()).or_default();
        let key = (cut.run, cut.revision.clone());
        if of_route.contains_key(&key) || of_route.len() >= LARGEST {
            return false;
        }
        of_route.insert(key, cut);
        true
    }

    /// Whether a revision is cut in a run.
    pub fn holds(&self, uid: &str, run: u64, revision: &str) -> bool {
        self.of(uid, run).any(|cut| cut.revision == revision)
    }

    /// The cuts of a run.
    pub fn of(&self, uid: &str, run: u64) -> impl Iterator<Item = &Cut> {
        let of_route = self.0.get(uid).into_iter().flatten();
        of_route.filter(move |((of, _), _)| *of == run).map(|(_, cut)| cut)
    }

    /// The revisions that are cut in a run, with their bad answers in parts per million; 0 where nobody counted them.
    pub fn revisions(&self, uid: &str, run: u64) -> BTreeMap<&str, u32> {
        self.of(uid, run).map(|cut| (cut.revision.as_str(), cut.bad_ppm.unwrap_or(0))).collect()
    }

    /// All cuts with their routes.
    pub fn all(&self) -> impl Iterator<Item = KnownCut> {
        let all = self.0.iter().flat_map(|(uid, cuts)| cuts.values().map(move |cut| (uid, cut)));
        all.map(|(uid, cut)| KnownCut { uid: uid.clone(), cut: cut.clone() })
    }

    /// Forgets routes that are gone, and runs below the one that is served. `run` gives that of a uid: `None` when the
    /// route is gone.
    pub fn forget(&mut self, run: impl Fn(&str) -> Option<u64>) {
        self.0.retain(|uid, cuts| {
            let Some(served) = run(uid) else { return false };
            cuts.retain(|(of, revision), _| {
                let ended = *of < served;
                if ended {
                    tracing::info!(uid, revision, run = *of, now = served, "a new run ended the cut");
                }
                !ended
            });
            !cuts.is_empty()
        });
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A cut that says who made it.
    pub(crate) fn cut(run: u64, revision: &str, by: &str) -> Cut {
        let at = "2026-01-02T03:04:05Z";
        serde_json::from_value(
            serde_json::json!({"run": run, "revision": revision, "because": "it failed", "by": by, "at": at}),
        )
        .unwrap()
    }

    #[test]
    fn the_first_one_stays_and_only_a_higher_run_ends_it() {
        let mut latches = Latches::default();
        assert!(latches.add("u", cut(3, "b", "first")));
        assert!(!latches.add("u", cut(3, "b", "second")));
        assert!(latches.add("u", cut(3, "c", "first")));
        assert!(latches.add("u", cut(5, "b", "ahead")));
        assert!(latches.add("v", cut(1, "b", "other")));
        assert_eq!(latches.of("u", 3).next().map(|cut| cut.by.as_str()), Some("first"));
        assert_eq!(latches.revisions("u", 3).into_keys().collect::<Vec<_>>(), ["b", "c"]);
        assert!(!latches.holds("u", 4, "b") && !latches.holds("w", 3, "b"));

        let runs = |u: u64| move |uid: &str| (uid == "u").then_some(u);
        // A restored table of a lower run ends nothing; that the other route is gone does.
        latches.forget(runs(2));
        assert!(latches.holds("u", 3, "b") && !latches.holds("v", 1, "b"));
        latches.forget(runs(4));
        assert!(!latches.holds("u", 3, "b"));
        assert!(latches.holds("u", 5, "b"), "made by routers that are ahead");
        latches.forget(runs(6));
        assert_eq!(latches, Latches::default());
    }

    #[test]
    fn what_is_kept_is_bounded() {
        let mut latches = Latches::default();
        let added = (0..100).filter(|number| latches.add("u", cut(1, &format!("r{number}"), "x"))).count();
        assert_eq!(added, LARGEST);
        assert!(!latches.add("v", cut(1, &"r".repeat(254), "x")));
        assert!(!latches.add("v", Cut { because: "x".repeat(1025), ..cut(1, "r", "x") }));
        assert!(!latches.add("v", cut(1, "", "x")));
        assert_eq!(latches.all().count(), LARGEST);
    }
}
