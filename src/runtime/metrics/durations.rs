//! How long something took, each time it was done.

use std::time::Duration;

use hdrhistogram::Histogram;

/// Durations from a microsecond to two weeks, with two digits.
#[derive(Clone, Debug)]
pub struct Durations(Histogram<u64>);

/// Durations as a Prometheus histogram has them.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Buckets {
    /// How many were at most as long as each of the bounds.
    pub cumulative: Vec<u64>,
    /// How many there were.
    pub count: u64,
    /// All of them together, in seconds.
    pub sum: f64,
}

impl Default for Durations {
    fn default() -> Self {
        // Invariant: these bounds are valid.
        Self(Histogram::new_with_bounds(1, 1 << 40, 2).expect("valid bounds"))
    }
}

impl Durations {
    /// It took so long.
    pub fn record(&mut self, elapsed: Duration) {
        let micros = u64::try_from(elapsed.as_micros()).unwrap_or(u64::MAX);
        self.0.saturating_record(micros.max(1));
    }

    /// It took `micros` microseconds, `times` times.
    pub fn record_micros(&mut self, micros: u64, times: u64) {
        self.0.saturating_record_n(micros, times);
    }

    /// How often it took how many microseconds.
    pub fn recorded(&self) -> impl Iterator<Item = (u64, u64)> {
        let steps = self.0.iter_recorded();
        steps.map(|step| (step.value_iterated_to(), step.count_since_last_iteration()))
    }

    /// Milliseconds that `percent` percent of the times were enough.
    pub fn percentile_ms(&self, percent: f64) -> f64 {
        self.0.value_at_percentile(percent) as f64 / 1000.0
    }

    /// The same with these upper bounds, in seconds and in ascending order. Each duration counts as
    /// the longest that two digits do not tell from it.
    pub fn buckets(&self, bounds: &[f64]) -> Buckets {
        let mut buckets = Buckets {
            cumulative: vec![0; bounds.len()],
            ..Buckets::default()
        };
        for (micros, times) in self.recorded() {
            let seconds = micros as f64 / 1e6;
            let first = bounds.partition_point(|bound| *bound < seconds);
            buckets.cumulative[first..]
                .iter_mut()
                .for_each(|it| *it += times);
            buckets.count += times;
            buckets.sum += seconds * times as f64;
        }
        buckets
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_hold_what_is_not_longer_than_their_bound() {
        let mut durations = Durations::default();
        for millis in [4, 4, 40, 4_000] {
            durations.record(Duration::from_millis(millis));
        }
        let buckets = durations.buckets(&[0.001, 0.01, 0.1, 1.0]);
        assert_eq!(buckets.cumulative, [0, 2, 3, 3]);
        assert_eq!(buckets.count, 4);
        assert!((buckets.sum - 4.048).abs() < 0.05, "{}", buckets.sum);
    }

    #[test]
    fn what_was_recorded_elsewhere_counts_as_if_it_were_here() {
        let (mut here, mut there) = (Durations::default(), Durations::default());
        there.record(Duration::from_millis(40));
        for (micros, times) in there.recorded() {
            here.record_micros(micros, times);
        }
        assert_eq!(here.percentile_ms(100.0), there.percentile_ms(100.0));
    }
}
