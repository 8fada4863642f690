//! The document and the chart that a run leaves behind.

use std::fmt::Write;
use std::path::Path;

use anyhow::{Context, Result};

use crate::aims;
use crate::apps::{APPS, App, HAND_WRITTEN};
use crate::instructions::COUNTED;
use crate::results::{Cell, Figures, Results};
use crate::scenario::{SCENARIOS, Scenario};

/// What people have to say about the figures; the rest of the document writes itself.
const NOTES: &str = include_str!("../notes.md");

/// In the file of results: the layer with a Redis that has no settings.
pub(crate) const LAYER_BY_DEFAULT: &str = "layer, Redis by default";

pub(crate) fn write(results: &Results, folder: &Path) -> Result<()> {
    let write = |name: &str, text: String| {
        let file = folder.join(name);
        std::fs::write(&file, text).with_context(|| format!("cannot write {}", file.display()))
    };
    write("bench.md", document(results))?;
    write("bench.svg", chart(results))
}

fn document(results: &Results) -> String {
    let mut text = String::new();
    let versions: Vec<_> = results.versions.iter().map(|(name, version)| format!("{name} {version}")).collect();
    let _ = write!(
        text,
        "# Side by side\n\n\
         Written by `cargo xtask bench` on {}, on {}; {}.\n\n\
         The same app, with the same routes, once for each way to keep sessions. App on one core; Redis and what sends the requests share \
         another. Each scenario runs in rounds in which every app has its turn, and gives medians of them. Every answer is checked, and \
         what was written last is read back at the end; where one answer was wrong, there is no figure. *hand-written* is what one would \
         write with a Redis client and one JSON blob per session (`GET`, and `SET EX` to change it), unsigned and unguarded: the limit of \
         what keeps one blob. How each is wired, and the page that says so, stands in `bench/src/apps/`.\n\n\
         ![throughput as a ratio to hand-written](bench.svg)\n\n",
        results.date,
        results.machine,
        versions.join(", ")
    );
    let near: Vec<_> = SCENARIOS.iter().filter(|scenario| !scenario.far).collect();
    let far: Vec<_> = SCENARIOS.iter().filter(|scenario| scenario.far).collect();
    let _ = writeln!(text, "## Throughput, as a ratio to hand-written\n\n{}", {
        overview(results, &near, |figures, hand| format!("{:.2}", figures.per_second / hand.per_second))
    });
    let _ = writeln!(text, "## Processor time of the app per request, as a ratio to hand-written\n\n{}", {
        overview(results, &near, |figures, hand| format!("{:.2}", figures.app_cpu / hand.app_cpu))
    });
    for scenario in &near {
        details(&mut text, results, scenario);
    }
    let _ = writeln!(
        text,
        "## Redis half a millisecond away, each way\n\nRound trips at the median: the time of an answer, divided by the {:.2} ms that a \
         question to Redis and its answer take.\n\n{}",
        results.far_round_trip / 1000.0,
        overview(results, &far, |figures, _| format!("{:.2}", figures.p50 / results.far_round_trip))
    );
    memory(&mut text, results);
    instructions(&mut text, results);
    let _ = writeln!(text, "## What was aimed at\n\n{}", aims::table(results));
    text.push_str(NOTES);
    text
}

/// One row per scenario, one column per app.
fn overview(results: &Results, scenarios: &[&Scenario], figure: impl Fn(&Figures, &Figures) -> String) -> String {
    let mut text = head(&["scenario"].into_iter().chain(APPS.iter().map(|app| app.title)).collect::<Vec<_>>());
    for scenario in scenarios {
        let hand = results.figures(scenario.name, HAND_WRITTEN);
        let _ = write!(text, "| {} |", scenario.title);
        for app in APPS {
            let shown = match (results.figures(scenario.name, app.name), hand) {
                (Some(figures), Some(hand)) => figure(figures, hand),
                _ => missing(results, scenario, app).to_owned(),
            };
            let _ = write!(text, " {shown} |");
        }
        text.push('\n');
    }
    text
}

fn missing(results: &Results, scenario: &Scenario, app: &App) -> &'static str {
    match results.scenarios.get(scenario.name).and_then(|cells| cells.get(app.name)) {
        Some(Cell::Wrong(_)) => "wrong answer",
        _ => "",
    }
}

/// How visitors are, and what is set for them.
const CROWD: &str = "\
Here many sessions share the 32 connections: each is visited once in a pass and rests for at least two seconds until the next, all are
evenly spread over the ten requests, and the fourth pass is measured (the first starts the sessions). 32 users who never pause would
each write every few milliseconds, and of somebody who has just written nothing is read from memory: they must see what they wrote,
also on another node. Visitors pause. A near cache must have room for all of them, so it is set to 100,000 sessions and 256 MiB, in all
scenarios (10,000 and 64 MiB by default). Such a round takes long, so there are three instead of five.";

fn details(text: &mut String, results: &Results, scenario: &Scenario) {
    let _ = writeln!(text, "## {}\n", scenario.title);
    if scenario.requests.of_a_crowd() {
        let _ = writeln!(text, "{CROWD}\n");
    }
    text.push_str(&head(&[
        "",
        "requests/s",
        "p50 µs",
        "p99 µs",
        "app CPU µs",
        "Redis CPU µs",
        "commands",
        "bytes to Redis",
        "bytes from Redis",
    ]));
    for app in APPS {
        if let Some(f) = results.figures(scenario.name, app.name) {
            let _ = writeln!(
                text,
                "| {} | {:.0} | {:.0} | {:.0} | {:.1} | {:.1} | {:.2} | {:.0} | {:.0} |",
                app.title, f.per_second, f.p50, f.p99, f.app_cpu, f.redis_cpu, f.commands, f.bytes_in, f.bytes_out
            );
        } else if let Some(Cell::Wrong(why)) =
            results.scenarios.get(scenario.name).and_then(|cells| cells.get(app.name))
        {
            let _ = writeln!(text, "| {} | wrong answer: {} |||||||||", app.title, why.replace('|', "/"));
        }
    }
    text.push('\n');
}

fn memory(text: &mut String, results: &Results) {
    let _ = writeln!(
        text,
        "## Memory in Redis per session\n\nBytes, with the hash settings of `redis/redis.conf` for all; over 10,000 sessions.\n"
    );
    text.push_str(&head(&["", "3 short attributes", "1 KiB in 8", "16 KiB in 64"]));
    let titles = APPS.iter().map(|app| (app.name, app.title));
    for (name, title) in titles.chain([(LAYER_BY_DEFAULT, "session-layer, with Redis' own hash settings")]) {
        if let Some(sizes) = results.memory.get(name) {
            let bytes = |size| sizes.get(size).map_or(String::new(), |bytes: &f64| format!("{bytes:.0}"));
            let _ = writeln!(text, "| {title} | {} | {} | {} |", bytes("small"), bytes("1k"), bytes("16k"));
        }
    }
    text.push('\n');
}

fn instructions(text: &mut String, results: &Results) {
    let _ = writeln!(
        text,
        "## Instructions of the layer itself\n\nCounted under callgrind, without those of the same request past the layer; the MAC in software.\n"
    );
    text.push_str(&head(&["", "instructions"]));
    for (name, title) in COUNTED {
        if let Some(count) = results.instructions.get(*name) {
            let _ = writeln!(text, "| {title} | {count} |");
        }
    }
    text.push('\n');
}

fn head(titles: &[&str]) -> String {
    let mut text = format!("| {} |\n|---|", titles.join(" | "));
    text.push_str(&"---:|".repeat(titles.len() - 1));
    text.push('\n');
    text
}

/// By app, in their order; each can be told from its neighbours, and from a white or black page.
const COLOURS: [&str; 7] = ["#9aa0a6", "#5f6368", "#1a73e8", "#0097a7", "#0b8043", "#e8710a", "#a142f4"];

/// Bars of throughput as a ratio to hand-written, one group per scenario.
fn chart(results: &Results) -> String {
    const WIDTH: f64 = 900.0;
    const LEFT: f64 = 350.0;
    const BAR: f64 = 11.0;
    // What is longer is cut off, and ends in a point.
    const LARGEST: f64 = 5.0;
    let scale = (WIDTH - LEFT - 60.0) / LARGEST;
    let mut bars = String::new();
    let mut y = 66.0;
    for scenario in SCENARIOS.iter().filter(|scenario| !scenario.far) {
        let Some(hand) = results.figures(scenario.name, HAND_WRITTEN) else { continue };
        let top = y;
        for (app, colour) in APPS.iter().zip(COLOURS) {
            let Some(figures) = results.figures(scenario.name, app.name) else { continue };
            let ratio = figures.per_second / hand.per_second;
            let length = ratio.min(LARGEST) * scale;
            let _ = writeln!(
                bars,
                r#"<rect x="{LEFT}" y="{y}" width="{length:.1}" height="{}" fill="{colour}"/>"#,
                BAR - 2.0
            );
            let mut x = LEFT + length;
            if ratio > LARGEST {
                let half = (BAR - 2.0) / 2.0;
                let _ = writeln!(bars, r#"<path d="M{x:.1} {y}l8 {half}l-8 {half}z" fill="{colour}"/>"#);
                x += 8.0;
            }
            let (x, at) = (x + 4.0, y + BAR - 3.0);
            let _ = writeln!(bars, r#"<text class="small" x="{x:.1}" y="{at}">{ratio:.2}</text>"#);
            y += BAR;
        }
        let at = f64::midpoint(top, y) + 4.0;
        let _ = writeln!(bars, r#"<text x="{}" y="{at}" text-anchor="end">{}</text>"#, LEFT - 10.0, scenario.title);
        y += 12.0;
    }
    let mut legend = String::new();
    let (mut x, mut line) = (10.0, 14.0);
    for (app, colour) in APPS.iter().zip(COLOURS) {
        let width = 30.0 + 7.0 * app.title.len() as f64;
        if x + width > WIDTH {
            (x, line) = (10.0, line + 18.0);
        }
        let _ = writeln!(legend, r#"<rect x="{x}" y="{line}" width="10" height="10" fill="{colour}"/>"#);
        let _ = writeln!(legend, r#"<text x="{}" y="{}">{}</text>"#, x + 14.0, line + 9.0, app.title);
        x += width;
    }
    let one = LEFT + scale;
    format!(
        r##"<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {y}" font-family="sans-serif" font-size="12" role="img" aria-label="Throughput as a ratio to hand-written">
<style>text {{ fill: #202124 }} .small {{ font-size: 9px }} line {{ stroke: #5f6368 }} @media (prefers-color-scheme: dark) {{ text {{ fill: #e8eaed }} line {{ stroke: #bdc1c6 }} }}</style>
{legend}{bars}<line x1="{one}" y1="56" x2="{one}" y2="{}" stroke-dasharray="3 3"/>
</svg>
"##,
        y - 8.0
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn results() -> Results {
        let figures = |per_second| Cell::Figures(Figures { per_second, app_cpu: 10.0, ..Figures::default() });
        let read = [(HAND_WRITTEN, figures(100.0)), ("layer", figures(150.0)), ("none", Cell::Wrong("no".into()))];
        let read = read.into_iter().map(|(name, cell)| (name.to_owned(), cell)).collect();
        Results { scenarios: [("read".to_owned(), read)].into(), far_round_trip: 1000.0, ..Results::default() }
    }

    #[test]
    fn the_table_has_ratios_and_no_figure_for_a_wrong_answer() {
        let text = document(&results());
        let row = text.lines().find(|line| line.starts_with("| read, 1 KiB in 8 |")).unwrap();
        assert!(row.starts_with("| read, 1 KiB in 8 | wrong answer | 1.00 | 1.50 |"), "{row}");
        assert!(text.contains("Visitors pause."));
    }

    #[test]
    fn the_chart_shows_what_there_is() {
        let chart = chart(&results());
        assert!(chart.contains(">1.50</text>") && chart.contains("read, 1 KiB in 8") && !chart.contains("blind"));
    }
}
