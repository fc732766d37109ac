//! Latencies, in HDR histograms.

/// Three significant digits from a microsecond to ten minutes.
pub struct Latencies(hdrhistogram::Histogram<u64>);

impl Default for Latencies {
    fn default() -> Self {
        Self(hdrhistogram::Histogram::new_with_bounds(1_000, 600_000_000_000, 3).expect("bounds that are in order"))
    }
}

impl Latencies {
    pub fn record(&mut self, nanos: u64) {
        self.0.saturating_record(nanos);
    }

    /// Operations that were due at `first` and every `interval` after it, and were never begun: at `end` they have
    /// waited so long at least. Leaving them out would make a server look quick that stood still (coordinated omission).
    pub fn record_overdue(&mut self, first: u64, interval: u64, end: u64) {
        for due in (first..end).step_by(interval.max(1) as usize) {
            self.record(end - due);
        }
    }

    /// In milliseconds, with `share` of all latencies at or below; none if nothing was recorded.
    pub fn quantile_ms(&self, share: f64) -> Option<f64> {
        (!self.0.is_empty()).then(|| self.0.value_at_quantile(share) as f64 / 1e6)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn near(found: Option<f64>, expected: f64) -> bool {
        found.is_some_and(|found| (found / expected - 1.0).abs() < 0.002)
    }

    #[test]
    fn quantiles_are_those_of_what_was_recorded() {
        let mut latencies = Latencies::default();
        assert_eq!(latencies.quantile_ms(0.5), None);
        (1..=1000).for_each(|ms| latencies.record(ms * 1_000_000));
        assert!(near(latencies.quantile_ms(0.5), 500.0), "{:?}", latencies.quantile_ms(0.5));
        assert!(near(latencies.quantile_ms(0.99), 990.0), "{:?}", latencies.quantile_ms(0.99));
        assert!(near(latencies.quantile_ms(1.0), 1000.0), "{:?}", latencies.quantile_ms(1.0));
    }

    #[test]
    fn operations_that_a_stall_held_up_count_with_the_time_they_waited() {
        // 1,000 a second for a second, answered in 1 ms each; then the server stands still for a second.
        let mut latencies = Latencies::default();
        (0..1000).for_each(|_| latencies.record(1_000_000));
        latencies.record_overdue(1_000_000_000, 1_000_000, 2_000_000_000);
        assert_eq!(latencies.0.len(), 2000);
        assert!(near(latencies.quantile_ms(0.75), 500.0), "{:?}", latencies.quantile_ms(0.75));
        assert!(near(latencies.quantile_ms(0.99), 980.0), "{:?}", latencies.quantile_ms(0.99));
    }
}
