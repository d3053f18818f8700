//! Is a cache of predictions worth its lookups?
//!
//! Each lookup costs time, each hit saves a run of the model. Over windows of lookups the share of hits, the time of a
//! lookup and the time of a run are averaged with exponential weights. The cache loses in a window after which
//! `hit share * run < lookup`. After some windows of loss in a row it is switched off, and tried again after a pause
//! that doubles each time, so that a cache that never helps costs ever less.

use std::time::Duration;

/// When a cache is switched off and tried again.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Settings {
    /// Lookups of one window.
    pub window: u64,
    /// Weight of the newest window in the averages, in (0, 1].
    pub weight: f64,
    /// Windows of loss in a row after which the cache is switched off. The first ones of a trial find it empty, so one
    /// alone says little.
    pub patience: u32,
    /// How long it is off the first time.
    pub first_pause: Duration,
    /// How long it is off at most. Each pause is twice the one before, until a trial is won.
    pub longest_pause: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            window: 1024,
            weight: 0.3,
            patience: 4,
            first_pause: Duration::from_secs(60),
            longest_pause: Duration::from_secs(3600),
        }
    }
}

/// What a cache costs and saves, averaged over windows.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Balance {
    /// Share of the lookups that were hits, 0 to 1.
    pub hit_share: f64,
    /// Time of a lookup, with all that the cache adds to a request, in seconds.
    pub lookup: f64,
    /// Time of a run of the model, in seconds; `None` until one was seen.
    pub run: Option<f64>,
}

impl Balance {
    /// True when lookups take more time than hits save. While no run was seen nothing is known against the cache.
    pub fn is_loss(&self) -> bool {
        self.run.is_some_and(|run| self.hit_share * run < self.lookup)
    }
}

/// The cache was switched off.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct SwitchedOff {
    /// Why.
    pub balance: Balance,
    /// For how long.
    pub pause: Duration,
}

/// Sums of the window that is being filled.
#[derive(Clone, Copy, Debug, Default)]
struct Window {
    lookups: u64,
    hits: u64,
    lookup_time: Duration,
    runs: u64,
    run_time: Duration,
}

/// Decides whether the cache is used. Times are since any fixed moment, and never go back.
#[derive(Clone, Debug)]
pub struct Worth {
    settings: Settings,
    window: Window,
    balance: Option<Balance>,
    losses: u32,
    pause: Duration,
    off_until: Option<Duration>,
}

impl Worth {
    /// Switched on, with nothing known.
    pub fn new(settings: Settings) -> Self {
        Self {
            settings,
            window: Window::default(),
            balance: None,
            losses: 0,
            pause: settings.first_pause,
            off_until: None,
        }
    }

    /// True when the cache is to be used at `now`. A pause that is over ends here: a trial begins, with nothing known.
    pub fn is_on(&mut self, now: Duration) -> bool {
        match self.off_until {
            Some(until) if now < until => false,
            Some(_) => {
                (self.off_until, self.balance, self.losses) = (None, None, 0);
                self.window = Window::default();
                true
            }
            None => true,
        }
    }

    /// Counts a lookup that took `time`. Says so when that switches the cache off.
    pub fn looked_up(&mut self, hit: bool, time: Duration, now: Duration) -> Option<SwitchedOff> {
        if self.off_until.is_some() {
            // One that began before the switch.
            return None;
        }
        self.window.lookups += 1;
        self.window.hits += u64::from(hit);
        self.window.lookup_time = self.window.lookup_time.saturating_add(time);
        if self.window.lookups < self.settings.window {
            return None;
        }
        let balance = self.end_window();
        if !balance.is_loss() {
            (self.losses, self.pause) = (0, self.settings.first_pause);
            return None;
        }
        self.losses += 1;
        if self.losses < self.settings.patience {
            return None;
        }
        let pause = self.pause;
        self.off_until = Some(now.saturating_add(pause));
        self.pause = pause.saturating_mul(2).min(self.settings.longest_pause);
        Some(SwitchedOff { balance, pause })
    }

    /// Counts a run of the model that a hit would have saved.
    pub fn ran(&mut self, time: Duration) {
        self.window.runs += 1;
        self.window.run_time = self.window.run_time.saturating_add(time);
    }

    /// Takes the window into the averages and begins the next.
    fn end_window(&mut self) -> Balance {
        let Window { lookups, hits, lookup_time, runs, run_time } = std::mem::take(&mut self.window);
        let mean = |time: Duration, count: u64| time.as_secs_f64() / count.max(1) as f64;
        let newest = Balance {
            hit_share: hits as f64 / lookups.max(1) as f64,
            lookup: mean(lookup_time, lookups),
            run: (runs > 0).then(|| mean(run_time, runs)),
        };
        let blend = |old: f64, new: f64| old + self.settings.weight * (new - old);
        let balance = match self.balance {
            None => newest,
            Some(old) => Balance {
                hit_share: blend(old.hit_share, newest.hit_share),
                lookup: blend(old.lookup, newest.lookup),
                run: match (old.run, newest.run) {
                    (Some(old), Some(new)) => Some(blend(old, new)),
                    (old, new) => new.or(old),
                },
            },
        };
        self.balance = Some(balance);
        balance
    }
}

#[cfg(test)]
#[path = "caching/tests.rs"]
mod tests;
