//! One thing measured many times.

use serde::{Deserialize, Serialize};

use crate::numbers::short;

/// The results of one variant, in the order of the rounds; `None` is a run that failed.
///
/// Rounds are kept, failed ones too: ratios are taken pair by pair, from the same round of two series.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Series {
    /// What was measured: "u7s, slirp4netns: ready".
    pub label: String,
    /// Unit of the samples: "ms", "MB/s".
    pub unit: String,
    /// One sample a round.
    pub samples: Vec<Option<f64>>,
}

/// Median and quartiles of what succeeded; all NaN if nothing did.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Summary {
    /// A quarter of the samples is not greater.
    pub low: f64,
    /// The median.
    pub median: f64,
    /// A quarter of the samples is not smaller.
    pub high: f64,
    /// How many samples there are.
    pub count: usize,
}

impl Series {
    /// A series without samples.
    #[must_use]
    pub fn new(label: impl Into<String>, unit: impl Into<String>) -> Self {
        Self { label: label.into(), unit: unit.into(), samples: Vec::new() }
    }

    /// Adds a round; a value that is no number counts as failed.
    pub fn push(&mut self, sample: Option<f64>) {
        self.samples.push(sample.filter(|value| value.is_finite()));
    }

    /// How many rounds failed.
    #[must_use]
    pub fn failed(&self) -> usize {
        self.samples.iter().filter(|sample| sample.is_none()).count()
    }

    /// Median and quartiles.
    #[must_use]
    pub fn summary(&self) -> Summary {
        Summary::of(self.samples.iter().flatten().copied())
    }

    /// "12.3 (11.9–12.8)", with the failed runs if there are any; without the unit.
    #[must_use]
    pub fn text(&self) -> String {
        match self.failed() {
            0 => self.summary().text(),
            failed => format!("{}, {failed} of {} failed", self.summary().text(), self.samples.len()),
        }
    }
}

impl Summary {
    /// Of any numbers.
    #[must_use]
    pub fn of(samples: impl IntoIterator<Item = f64>) -> Self {
        let mut sorted: Vec<f64> = samples.into_iter().collect();
        sorted.sort_by(f64::total_cmp);
        let at = |part| quantile(&sorted, part);
        Self { low: at(0.25), median: at(0.5), high: at(0.75), count: sorted.len() }
    }

    /// "12.3 (11.9–12.8)".
    #[must_use]
    pub fn text(&self) -> String {
        if self.count == 0 {
            return "–".into();
        }
        format!("{} ({}–{})", short(self.median), short(self.low), short(self.high))
    }

    /// Distance of the quartiles as a part of the median: 0.05 is a quiet run.
    #[must_use]
    pub fn spread(&self) -> f64 {
        (self.high - self.low) / self.median
    }
}

/// How many times greater `above` is than `below`, pair by pair: median and quartiles of the quotients.
///
/// A pair of which one failed is left out.
#[must_use]
pub fn ratio(above: &Series, below: &Series) -> Summary {
    let pairs = above.samples.iter().zip(&below.samples);
    Summary::of(pairs.filter_map(|(above, below)| Some((*above)? / (*below)?)))
}

/// Linear between neighbours.
fn quantile(sorted: &[f64], part: f64) -> f64 {
    let last = sorted.len().saturating_sub(1);
    #[expect(clippy::cast_precision_loss, reason = "a count of samples")]
    let place = part * last as f64;
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "between 0 and the last index"
    )]
    let index = place.floor() as usize;
    match (sorted.get(index), sorted.get(index + 1)) {
        (Some(low), Some(high)) => low + (high - low) * place.fract(),
        (Some(only), None) => *only,
        _ => f64::NAN,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn series(samples: &[Option<f64>]) -> Series {
        Series { label: "x".into(), unit: "ms".into(), samples: samples.to_vec() }
    }

    #[test]
    fn median_and_quartiles() {
        let summary = Summary::of([4.0, 1.0, 3.0, 2.0, 5.0]);
        assert_eq!((summary.low, summary.median, summary.high), (2.0, 3.0, 4.0));
        assert_eq!(Summary::of([1.0, 2.0]).median, 1.5);
        assert_eq!(Summary::of([]).text(), "–");
        assert_eq!(series(&[Some(1.0), None]).text(), "1.00 (1.00–1.00), 1 of 2 failed");
    }

    #[test]
    fn a_ratio_is_taken_pair_by_pair() {
        let slow = series(&[Some(10.0), None, Some(40.0), Some(90.0)]);
        let fast = series(&[Some(1.0), Some(1.0), Some(2.0), None]);
        let summary = ratio(&slow, &fast);
        assert_eq!((summary.median, summary.count), (15.0, 2));
    }

    #[test]
    fn what_is_no_number_has_failed() {
        let mut series = series(&[]);
        series.push(Some(f64::NAN));
        assert_eq!(series.failed(), 1);
    }
}
