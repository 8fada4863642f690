//! What was aimed at, beside what was measured.

use std::fmt::Write;

use crate::apps::{HAND_WRITTEN, LAYER, LAYER_NEAR_CACHE, NONE, TOWER_SESSIONS};
use crate::instructions::NEAR_CACHE;
use crate::results::{Figures, Results};
use crate::scenario::SCENARIOS;

#[derive(Clone, Copy)]
enum Bound {
    AtMost(f64),
    AtLeast(f64),
}
use Bound::{AtLeast, AtMost};

#[derive(Clone, Copy)]
enum Figure {
    Throughput,
    AppCpu,
    /// Bytes to and from Redis.
    Bytes,
    Commands,
    RoundTrips,
}
use Figure::{AppCpu, Bytes, Commands, RoundTrips, Throughput};

/// One scenario with one app, as a ratio to another, or by itself.
struct Aim(&'static str, &'static str, Figure, Option<&'static str>, Bound);

const NEAR: &str = LAYER_NEAR_CACHE;
const BARE: Option<&str> = Some(NONE);
const HAND: Option<&str> = Some(HAND_WRITTEN);

const AIMS: &[Aim] = &[
    Aim("untouched", LAYER, Commands, None, AtMost(0.0)),
    Aim("untouched", LAYER, AppCpu, BARE, AtMost(1.05)),
    Aim("untouched", LAYER, Throughput, BARE, AtLeast(0.97)),
    Aim("anonymous", LAYER, Commands, None, AtMost(0.0)),
    Aim("anonymous", LAYER, AppCpu, BARE, AtMost(1.05)),
    Aim("anonymous", LAYER, Throughput, BARE, AtLeast(0.97)),
    Aim("read", NEAR, Commands, None, AtMost(0.0)),
    Aim("read", NEAR, AppCpu, HAND, AtMost(0.7)),
    Aim("read-16k", NEAR, AppCpu, HAND, AtMost(0.35)),
    Aim("read", NEAR, Throughput, BARE, AtLeast(0.85)),
    Aim("read", NEAR, Throughput, HAND, AtLeast(1.8)),
    Aim("read", LAYER, AppCpu, HAND, AtMost(1.15)),
    Aim("read", LAYER, Throughput, HAND, AtLeast(0.95)),
    Aim("read", LAYER, Throughput, Some(TOWER_SESSIONS), AtLeast(1.25)),
    Aim("write", LAYER, Throughput, HAND, AtLeast(1.0)),
    Aim("blind", LAYER, Commands, None, AtMost(1.0)),
    Aim("blind", LAYER, AppCpu, HAND, AtMost(0.8)),
    Aim("blind", LAYER, Throughput, HAND, AtLeast(1.1)),
    Aim("blind-16k", LAYER, AppCpu, HAND, AtMost(0.3)),
    Aim("blind-16k", LAYER, Throughput, HAND, AtLeast(3.5)),
    Aim("blind-16k", LAYER, Bytes, HAND, AtMost(0.1)),
    Aim("mix", NEAR, Commands, None, AtMost(0.3)),
    Aim("mix", NEAR, Throughput, HAND, AtLeast(1.6)),
    Aim("write", NEAR, Throughput, Some(LAYER), AtLeast(0.9)),
    Aim("blind", NEAR, Throughput, Some(LAYER), AtLeast(0.9)),
    Aim("far-read-1", LAYER, RoundTrips, None, AtMost(1.2)),
    Aim("far-read-4", LAYER, RoundTrips, None, AtMost(1.2)),
    Aim("far-read-1", NEAR, RoundTrips, None, AtMost(0.1)),
    Aim("far-read-4", NEAR, RoundTrips, None, AtMost(0.1)),
    Aim("far-write-1", LAYER, RoundTrips, None, AtMost(2.2)),
    Aim("far-write-4", LAYER, RoundTrips, None, AtMost(2.2)),
    Aim("far-blind-1", LAYER, RoundTrips, None, AtMost(1.2)),
    Aim("far-blind-4", LAYER, RoundTrips, None, AtMost(1.2)),
];

/// Bytes in Redis per session, by its size.
const MEMORY: &[(&str, &str, f64)] = &[("small", "three short attributes", 320.0), ("1k", "1 KiB in 8", 1450.0)];

const INSTRUCTIONS: &[(&str, &str, f64)] =
    &[("untouched", "a request that does not look at its session", 3000.0), (NEAR_CACHE, "read, near cache", 15_000.0)];

/// A table of all of them.
pub(crate) fn table(results: &Results) -> String {
    let mut text = "| what was aimed at | aim | measured |\n|---|---:|---:|\n".to_owned();
    let mut row = |what: String, aim: Bound, measured: Option<f64>, digits: usize| {
        let (word, bound) = match aim {
            AtMost(bound) => ("at most", bound),
            AtLeast(bound) => ("at least", bound),
        };
        let shown = measured.map_or(String::new(), |measured| {
            // As it is shown: what is missed by less than anybody can see is not missed.
            let rounded = format!("{measured:.digits$}");
            let value: f64 = rounded.parse().unwrap_or(measured);
            let met = match aim {
                AtMost(bound) => value <= bound,
                AtLeast(bound) => value >= bound,
            };
            if met { rounded } else { format!("**missed: {rounded}**") }
        });
        let _ = writeln!(text, "| {what} | {word} {bound:.digits$} | {shown} |");
    };
    for aim in AIMS {
        row(aim.what(), aim.4, aim.measured(results), 2);
    }
    for (size, title, most) in MEMORY {
        let bytes = results.memory.get(LAYER).and_then(|sizes| sizes.get(*size).copied());
        row(format!("memory in Redis, {title}: bytes"), AtMost(*most), bytes, 0);
    }
    for (name, title, most) in INSTRUCTIONS {
        row(format!("instructions, {title}"), AtMost(*most), results.instructions.get(*name).map(|n| *n as f64), 0);
    }
    text
}

impl Aim {
    fn what(&self) -> String {
        let Self(scenario, app, figure, to, _) = self;
        let title = SCENARIOS.iter().find(|s| s.name == *scenario).map_or(*scenario, |s| s.title);
        let near = if *app == NEAR { ", near cache" } else { "" };
        let figure = match figure {
            Throughput => "throughput",
            AppCpu => "processor time of the app",
            Bytes => "bytes to and from Redis",
            Commands => "commands",
            RoundTrips => "round trips, Redis half a millisecond away",
        };
        let to = match *to {
            Some(NONE) => ", to no session at all",
            Some(HAND_WRITTEN) => ", to hand-written",
            Some(LAYER) => ", to the same without it",
            Some(other) => &format!(", to {other}"),
            None => "",
        };
        format!("{title}{near}: {figure}{to}")
    }

    fn measured(&self, results: &Results) -> Option<f64> {
        let Self(scenario, app, figure, to, _) = self;
        let of = |figures: &Figures| match figure {
            Throughput => figures.per_second,
            AppCpu => figures.app_cpu,
            Bytes => figures.bytes_in + figures.bytes_out,
            Commands => figures.commands,
            RoundTrips => figures.p50 / results.far_round_trip,
        };
        let value = of(results.figures(scenario, app)?);
        match to {
            Some(to) => Some(value / of(results.figures(scenario, to)?)),
            None => Some(value),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::results::Cell;

    #[test]
    fn an_aim_is_met_or_missed_by_what_is_shown() {
        let figures = |per_second, app_cpu| Cell::Figures(Figures { per_second, app_cpu, ..Figures::default() });
        let read = [(HAND_WRITTEN, figures(100.0, 10.0)), (NEAR, figures(179.6, 7.1))];
        let read = read.into_iter().map(|(name, cell)| (name.to_owned(), cell)).collect();
        let results = Results { scenarios: [("read".to_owned(), read)].into(), ..Results::default() };
        let text = table(&results);
        let read = "read, 1 KiB in 8, near cache";
        for row in [
            format!("| {read}: throughput, to hand-written | at least 1.80 | 1.80 |"),
            format!("| {read}: processor time of the app, to hand-written | at most 0.70 | **missed: 0.71** |"),
            format!("| {read}: throughput, to no session at all | at least 0.85 |  |"),
        ] {
            assert!(text.lines().any(|line| line == row), "{row} is not in\n{text}");
        }
    }

    #[test]
    fn every_aim_names_a_scenario() {
        for Aim(scenario, ..) in AIMS {
            assert!(SCENARIOS.iter().any(|s| s.name == *scenario), "{scenario}");
        }
    }
}
