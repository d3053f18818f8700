//! After a promotion: stable is still compared with the previous revision, and goes back to it by itself.

use super::advance::why;
use super::{Next, Pin, Reason, Said, Standing};
use crate::verdict::Verdict;

impl Next<'_> {
    /// No run is under way: looks after the guard, if there is one, and says where things stand.
    pub(super) fn watch_over(&mut self) -> Said {
        let Some(stable) = self.state.stable.clone() else { return self.rest() };
        let Some(guard) = self.state.guard.clone() else {
            // The routers cut it while its promotion was being written.
            return match self.seen.cut.filter(|_| self.state.previous.is_some()) {
                Some(because) => self.go_back(because),
                None => self.rest(),
            };
        };
        if self.state.previous.is_none() {
            // Nobody to compare with or to return to: it was taken away by hand.
            self.state.guard = None;
            return self.rest();
        }
        let pods = self.seen.pods.get(&stable).cloned().unwrap_or_default();
        if let Some(because) = self.harm(&pods, guard.restarts) {
            return self.go_back(&because);
        }
        if self.seen.unverified.is_none() {
            let spent = (guard.spent + self.seen.elapsed).min(guard.lasts);
            // Whoever looks harmful when the time is over stays guarded until that is settled.
            if spent >= guard.lasts && !self.is_doubtful() {
                self.state.guard = None;
                let message =
                    format!("{stable} did no harm for {} s and has all the traffic", guard.lasts.as_secs());
                self.note(Reason::GuardPassed, &stable, message);
                return self.rest();
            }
            if let Some(guard) = &mut self.state.guard {
                guard.spent = spent;
            }
        }
        let (standing, sentence) = self.rest();
        let left = guard.lasts.saturating_sub(guard.spent).as_secs();
        let how_long = if guard.spent >= guard.lasts && self.is_doubtful() {
            format!("guarded beyond its {} s, since harm is not ruled out", guard.lasts.as_secs())
        } else {
            format!("guarded for {left} s more")
        };
        let verdict = self.seen.verdict.map_or("no verdict yet", Verdict::because);
        (standing, format!("{sentence}; {how_long}: {verdict}"))
    }

    /// Whether there are signs of harm that are no alarm yet.
    fn is_doubtful(&self) -> bool {
        matches!(self.seen.verdict, Some(Verdict::Doubtful(_)))
    }

    /// Stable does harm: back to the previous revision, or to the one that is known to be good.
    fn go_back(&mut self, because: &str) -> Said {
        let (standing, sentence) = self.rest();
        if !self.wish.enforce && self.seen.cut.is_none() {
            let sentence = format!(
                "{sentence}; harm in its guard: {because}; rollback.mode is Observe: nothing is taken back"
            );
            return (standing.max(Standing::Holding), sentence);
        }
        let Some(previous) = self.state.previous.as_ref().map(|(revision, _)| revision.clone()) else {
            return (standing, sentence);
        };
        if self.state.alone {
            return if self.may_serve(&previous) {
                self.exchange(previous, because)
            } else {
                (standing, sentence)
            };
        }
        let ready = self.seen.pods.get(&previous).filter(|pods| pods.ready > 0 || pods.wanted == 0);
        if ready.is_some() {
            self.back_to(&previous, because);
            return self.rest();
        }
        let good =
            self.wish.known_good.clone().filter(|good| self.is_lost(&previous) && self.may_serve(good));
        if let Some(good) = good {
            let how = format!("the previous revision is gone, so {good} takes over");
            let why = format!("{good} is known to be good");
            self.fall_back(good, because, &how, &why);
            return self.advance();
        }
        let pods = self.seen.pods.get(&previous).cloned().unwrap_or_default();
        let sentence = format!(
            "{sentence}; harm in its guard: {because}; it is not taken back yet: {previous} has no ready pod to take over{}",
            why(&pods)
        );
        (standing.max(Standing::Holding), sentence)
    }

    /// Whether a revision can never serve again: what its pods were made from is gone.
    fn is_lost(&self, revision: &str) -> bool {
        !self.seen.revisions.contains(revision) && !self.seen.pods.contains_key(revision)
    }

    fn may_serve(&self, revision: &str) -> bool {
        self.state.stable.as_deref() != Some(revision) && self.seen.revisions.contains(revision)
    }

    /// Only the table and names change: the previous revision's pods are there.
    fn back_to(&mut self, previous: &str, because: &str) {
        let Some(bad) = self.state.stable.replace(previous.to_owned()) else { return };
        self.state.previous = None;
        self.state.guard = None;
        self.state.took = None;
        self.remember_rejected(&bad, because);
        // One to the revision that goes now is over.
        self.end_refill();
        self.give_way(&bad);
        let traffic = self.gone_back(&format!("{previous} has all the traffic again"));
        let message = format!("{bad}, in its guard: {because}; {traffic}");
        self.note(Reason::RolledBack, &bad, message);
    }

    /// A revision without pods is started; the bad one serves until it is ready, or until its pods must make room.
    pub(super) fn fall_back(&mut self, good: String, because: &str, how: &str, why: &str) {
        let Some(bad) = self.state.stable.clone() else { return };
        self.state.guard = None;
        self.state.previous = None;
        self.remember_rejected(&bad, because);
        let message = format!("{bad}, in its guard: {because}; {how}");
        self.note(Reason::RolledBack, &bad, message);
        let instead_of = self.seen.target.to_owned();
        let because = format!("{bad} did harm and {why}");
        self.state.pin = (good != instead_of).then(|| Pin { revision: good.clone(), instead_of, because });
        self.start(good);
        if let Some(run) = &mut self.state.run {
            run.direct = true;
        }
    }
}
