//! Times that were measured, and what is said of them.

use std::time::Duration;

use serde_json::{Value, json};

/// Times in microseconds.
#[derive(Debug, Default)]
pub(crate) struct Samples(Vec<f64>);

impl Samples {
    pub(crate) fn add(&mut self, time: Duration) {
        self.0.push(time.as_secs_f64() * 1e6);
    }

    pub(crate) fn take(&mut self, others: Samples) {
        self.0.extend(others.0);
    }

    /// The usual percentiles, in microseconds.
    pub(crate) fn told(mut self) -> Value {
        self.0.sort_by(f64::total_cmp);
        json!({
            "count": self.0.len(),
            "p50": self.at(50, 100), "p99": self.at(99, 100), "p999": self.at(999, 1000), "max": self.0.last(),
        })
    }

    /// The smallest time that `part` of `whole` do not exceed.
    fn at(&self, part: usize, whole: usize) -> Option<f64> {
        self.0.get((self.0.len() * part).div_ceil(whole).checked_sub(1)?).copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_of_the_sorted_times() {
        let mut samples = Samples::default();
        for micros in (1..=1000).rev() {
            samples.add(Duration::from_micros(micros));
        }
        let told = samples.told();
        for (name, expected) in [("p50", 500.0), ("p99", 990.0), ("p999", 999.0), ("max", 1000.0)] {
            assert!((told[name].as_f64().unwrap() - expected).abs() < 1e-6, "{told}");
        }
        assert!(Samples::default().told()["p50"].is_null());
    }
}
