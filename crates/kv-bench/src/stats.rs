//! Medians and how sure they are.

/// A median with its 95 % interval.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Spread {
    pub(crate) median: f64,
    pub(crate) low: f64,
    pub(crate) high: f64,
}

impl Spread {
    /// Of a sample that is not empty.
    pub(crate) fn of(mut sample: Vec<f64>) -> Option<Self> {
        sample.sort_by(f64::total_cmp);
        let median = median(&sample)?;
        let margin = interval_rank(sample.len());
        let (low, high) = (*sample.get(margin)?, *sample.get(sample.len() - 1 - margin)?);
        Some(Self { median, low, high })
    }
}

/// The median of a sorted sample.
fn median(sorted: &[f64]) -> Option<f64> {
    let upper = *sorted.get(sorted.len() / 2)?;
    if sorted.len() % 2 == 1 {
        return Some(upper);
    }
    Some(f64::midpoint(*sorted.get(sorted.len() / 2 - 1)?, upper))
}

/// How many values may be left out at each end so that the rest covers the median with 95 %
/// confidence, whatever the distribution: the binomial rule. Nothing may below six values.
fn interval_rank(len: usize) -> usize {
    // The last k for which P(X <= k) for X ~ Binomial(len, 1/2) does not pass 2.5 %.
    let mut term = 0.5_f64.powi(i32::try_from(len).unwrap_or(i32::MAX));
    let mut below = 0.0;
    for k in 0..len / 2 {
        below += term;
        if below > 0.025 {
            return k.saturating_sub(1);
        }
        #[allow(clippy::cast_precision_loss, reason = "rounds are few")]
        let step = (len - k) as f64 / (k + 1) as f64;
        term *= step;
    }
    0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_interval_follows_the_binomial_rule() {
        // From tables of the sign test: leave out 0 of 5, 0 of 6, 1 of 9, 2 of 12, 5 of 20.
        for (len, rank) in [(5, 0), (6, 0), (9, 1), (12, 2), (20, 5)] {
            assert_eq!(interval_rank(len), rank, "{len}");
        }
    }

    #[test]
    fn a_median_lies_within_its_interval() {
        let spread = Spread::of((1..=9).map(f64::from).collect()).unwrap();
        assert_eq!(spread, Spread { median: 5.0, low: 2.0, high: 8.0 });
        assert_eq!(Spread::of(vec![1.0, 2.0]).unwrap().median, 1.5);
        assert_eq!(Spread::of(Vec::new()), None);
    }
}
