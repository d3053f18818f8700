//! Do the candidate's answers to copies of requests agree with stable's?

use crate::verdict::Verdict;

/// Pairs of answers that were compared.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Agreement {
    /// How many.
    pub compared: u64,
    /// Of these, the ones with the same labels.
    pub agreed: u64,
}

/// Natural logarithm of the odds against calling it too little by chance: a million to one.
const SURE: f64 = 13.8;

/// The verdict on a shadow step that wants `percent` of `wanted` or more pairs to agree.
///
/// Below the wanted share by chance is Inconclusive, below it for sure is Fail. Sure is Chernoff's bound for a binomial:
/// `P(share <= a) <= exp(-n KL(a, p))` at the wanted share p.
/// Source: Hoeffding, "Probability inequalities for sums of bounded random variables" (1963), theorem 1.
pub fn judge(agreement: Agreement, percent: u32, wanted: u64) -> Verdict {
    let Agreement { compared, agreed } = agreement;
    let figures =
        format!("{agreed} of {compared} compared answers agree with stable's, {percent} % are wanted");
    let wanted_share = f64::from(percent.min(100)) / 100.0;
    let share = if compared == 0 { 0.0 } else { agreed.min(compared) as f64 / compared as f64 };
    if share < wanted_share && compared > 0 && compared as f64 * divergence(share, wanted_share) >= SURE {
        return Verdict::Fail(figures);
    }
    if compared < wanted {
        return Verdict::Inconclusive(format!(
            "{compared} of the {wanted} answers that this step needs are compared"
        ));
    }
    if share < wanted_share {
        return Verdict::Inconclusive(format!("{figures}; more requests will show whether that is chance"));
    }
    Verdict::Pass(figures)
}

/// Kullback-Leibler divergence of Bernoulli(p) from Bernoulli(q). Infinite where q allows no disagreement and p has some.
fn divergence(p: f64, q: f64) -> f64 {
    let part = |p: f64, q: f64| if p <= 0.0 { 0.0 } else { p * (p / q).ln() };
    part(p, q) + part(1.0 - p, 1.0 - q)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_share_that_is_wanted_is_judged_and_chance_is_waited_out() {
        let cases = [
            // (compared, agreed, percent, wanted, verdict)
            (0, 0, 95, 50, "Inconclusive"),
            (49, 49, 95, 50, "Inconclusive"),
            (50, 50, 95, 50, "Pass"),
            (100, 95, 95, 50, "Pass"),
            (100, 93, 95, 50, "Inconclusive"),
            (1000, 900, 95, 50, "Fail"),
            (40, 10, 95, 50, "Fail"),
            (100, 99, 100, 50, "Fail"),
            (100, 100, 100, 50, "Pass"),
            // More agreed than compared: counts that lie are not better than all.
            (10, 20, 95, 50, "Inconclusive"),
        ];
        for (compared, agreed, percent, wanted, verdict) in cases {
            let found = judge(Agreement { compared, agreed }, percent, wanted);
            assert_eq!(found.word(), verdict, "{agreed} of {compared} at {percent} %: {}", found.because());
        }
    }
}
