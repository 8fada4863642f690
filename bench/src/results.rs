//! The figures, and the file that keeps them, so that a run of a few scenarios can add to an earlier one.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

/// Everything that is known, by name of scenario and app.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct Results {
    pub(crate) date: String,
    pub(crate) machine: String,
    pub(crate) versions: BTreeMap<String, String>,
    /// How long a question to the far Redis takes, in microseconds.
    pub(crate) far_round_trip: f64,
    pub(crate) scenarios: BTreeMap<String, BTreeMap<String, Cell>>,
    /// Bytes in Redis per session, by app and size of the session.
    pub(crate) memory: BTreeMap<String, BTreeMap<String, f64>>,
    /// Instructions of the layer itself, by what it does.
    pub(crate) instructions: BTreeMap<String, u64>,
}

/// One scenario with one app.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Cell {
    /// Medians over the rounds.
    Figures(Figures),
    /// The first answer that was not what it must be.
    Wrong(String),
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Figures {
    pub(crate) per_second: f64,
    /// Microseconds.
    pub(crate) p50: f64,
    pub(crate) p99: f64,
    /// Microseconds on a core per request.
    pub(crate) app_cpu: f64,
    pub(crate) redis_cpu: f64,
    /// Commands sent to Redis per request.
    pub(crate) commands: f64,
    /// Bytes that Redis received and sent per request.
    pub(crate) bytes_in: f64,
    pub(crate) bytes_out: f64,
}

impl Figures {
    /// Figure by figure. At least one round.
    pub(crate) fn medians(rounds: &[Self]) -> Self {
        let median = |figure: fn(&Self) -> f64| {
            let mut figures: Vec<f64> = rounds.iter().map(figure).collect();
            figures.sort_unstable_by(f64::total_cmp);
            (figures[(figures.len() - 1) / 2] + figures[figures.len() / 2]) / 2.0
        };
        Self {
            per_second: median(|f| f.per_second),
            p50: median(|f| f.p50),
            p99: median(|f| f.p99),
            app_cpu: median(|f| f.app_cpu),
            redis_cpu: median(|f| f.redis_cpu),
            commands: median(|f| f.commands),
            bytes_in: median(|f| f.bytes_in),
            bytes_out: median(|f| f.bytes_out),
        }
    }
}

impl Results {
    /// What an earlier run left, if there was one.
    pub(crate) fn load(file: &Path) -> Result<Self> {
        match fs::read(file) {
            Ok(json) => serde_json::from_slice(&json).with_context(|| format!("{} is damaged", file.display())),
            Err(_) => Ok(Self::default()),
        }
    }

    pub(crate) fn save(&self, file: &Path) -> Result<()> {
        fs::write(file, serde_json::to_string_pretty(self)? + "\n")
            .with_context(|| format!("cannot write {}", file.display()))
    }

    pub(crate) fn figures(&self, scenario: &str, app: &str) -> Option<&Figures> {
        match self.scenarios.get(scenario)?.get(app)? {
            Cell::Figures(figures) => Some(figures),
            Cell::Wrong(_) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_of_each_figure_is_taken_by_itself() {
        let round = |per_second, p50| Figures { per_second, p50, ..Figures::default() };
        let medians = Figures::medians(&[round(3.0, 10.0), round(1.0, 30.0), round(2.0, 20.0)]);
        assert_eq!((medians.per_second, medians.p50), (2.0, 20.0));
        assert_eq!(Figures::medians(&[round(1.0, 0.0), round(2.0, 0.0)]).per_second, 1.5);
    }
}
