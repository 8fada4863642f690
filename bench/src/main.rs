//! This layer side by side with others: `cargo xtask bench`.
//!
//! An app and what drives it are processes of this one binary: `bench run …` starts `bench serve …` on a core of its own, beside a
//! private Redis, and writes `docs/bench.md` and `docs/bench.svg`.

mod aims;
mod apps;
mod contract;
mod http;
mod instructions;
mod load;
mod measure;
mod proxy;
mod redis;
mod report;
mod results;
mod run;
mod scenario;

use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};

use crate::apps::App;
use crate::contract::Size;
use crate::measure::Core;
use crate::redis::Redis;
use crate::results::{Cell, Results};
use crate::run::Effort;
use crate::scenario::SCENARIOS;

const USAGE: &str = "\
cargo xtask bench [--quick] [--only NAME,NAME,…] [--apps NAME,NAME,…] [--seconds N]

  --quick   one short round of each scenario: shows that all works, and roughly how fast; writes no document
  --only    these scenarios, or `memory`, or `instructions`; what an earlier run found of the others stays in the table
  --apps    these apps
  --seconds how long each app is driven in each round";

fn main() -> Result<()> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    match words.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        ["serve", app, redis] => apps::serve(app, redis.parse()?),
        ["drive", what, redis, requests] => instructions::drive(what, redis.parse()?, requests.parse()?),
        ["run", options @ ..] => bench(&Options::parse(options)?),
        _ => bail!("{USAGE}"),
    }
}

#[derive(Default)]
struct Options {
    quick: bool,
    only: Vec<String>,
    apps: Vec<String>,
    seconds: Option<f64>,
}

impl Options {
    fn parse(words: &[&str]) -> Result<Self> {
        let mut options = Self::default();
        let mut words = words.iter();
        while let Some(word) = words.next() {
            let mut list = || -> Result<Vec<String>> {
                let names = words.next().with_context(|| format!("{word} needs names"))?;
                Ok(names.split(',').map(str::to_owned).collect())
            };
            match *word {
                "--quick" => options.quick = true,
                "--only" => options.only = list()?,
                "--apps" => options.apps = list()?,
                "--seconds" => options.seconds = Some(list()?.concat().parse()?),
                _ => bail!("`{word}` is not understood\n\n{USAGE}"),
            }
        }
        let known = |name: &str| name == "memory" || name == "instructions" || SCENARIOS.iter().any(|s| s.name == name);
        if let Some(unknown) = options.only.iter().find(|name| !known(name)) {
            let names = SCENARIOS.iter().map(|scenario| scenario.name).collect::<Vec<_>>().join(", ");
            bail!("no scenario is called {unknown}; there are: {names}, memory, instructions");
        }
        Ok(options)
    }

    fn wants(&self, name: &str) -> bool {
        self.only.is_empty() || self.only.iter().any(|only| only == name)
    }
}

fn bench(options: &Options) -> Result<()> {
    let apps = run::apps(&options.apps)?;
    let mut effort = if options.quick { Effort::QUICK } else { Effort::FULL };
    if let Some(seconds) = options.seconds {
        effort.time = Duration::try_from_secs_f64(seconds)?;
    }
    let started = Instant::now();
    measure::pin_ourselves(Core::Redis)?;
    let settings = redis::hash_settings(&redis::cluster_configuration()?);
    let redis = Redis::start(&settings)?;
    let (far, far_round_trip) = run::far_from(&redis)?;
    println!(
        "Redis {} at {}; far: {far_round_trip:.0} µs",
        redis.info()?.text("redis_version").unwrap_or("?"),
        redis.address
    );
    let file = root().join("bench/target/results.json");
    let mut results = Results::load(&file)?;
    for scenario in SCENARIOS.iter().filter(|scenario| options.wants(scenario.name)) {
        println!("{}", scenario.title);
        let cells = run::run(*scenario, &apps, &redis, far, &effort)?;
        for app in &apps {
            if let Some(Cell::Figures(f)) = cells.get(app.name) {
                println!(
                    "  {:<16} {:>7.0}/s  p50 {:>5.0}  p99 {:>6.0} µs  app {:>6.1}  Redis {:>6.1} µs  {:>5.2} commands  {:>6.0} in {:>6.0} out",
                    app.name, f.per_second, f.p50, f.p99, f.app_cpu, f.redis_cpu, f.commands, f.bytes_in, f.bytes_out
                );
            }
        }
        results.scenarios.entry(scenario.name.to_owned()).or_default().extend(cells);
    }
    if options.wants("memory") {
        println!("memory in Redis per session");
        // What is in Redis is the same with a near cache.
        for app in apps.iter().filter(|app| app.keeps_sessions && !app.near_cache) {
            weigh(app, app.name, &settings, &mut results);
            if app.name == apps::LAYER {
                weigh(app, report::LAYER_BY_DEFAULT, &[], &mut results);
            }
        }
    }
    if options.wants("instructions") {
        println!("instructions of the layer itself");
        for (name, title) in instructions::COUNTED {
            match instructions::count(name, redis.address) {
                Ok(count) => {
                    println!("  {count:>6}  {title}");
                    results.instructions.insert((*name).to_owned(), count);
                }
                Err(error) => println!("  {title}: {error:#}"),
            }
        }
    }
    results.date = measure::today()?;
    results.versions = measure::versions();
    results.versions.insert("Redis".to_owned(), redis.info()?.text("redis_version").unwrap_or("unknown").to_owned());
    results.far_round_trip = far_round_trip;
    results.machine = measure::machine();
    if !options.quick {
        results.save(&file)?;
        report::write(&results, &root().join("docs"))?;
        println!("written: docs/bench.md, docs/bench.svg");
    }
    println!("took {:.1} minutes", started.elapsed().as_secs_f64() / 60.0);
    Ok(())
}

/// All sizes at the same time, each in a Redis of its own: most of it is waiting until nothing is left of the creation.
fn weigh(app: &App, name: &str, settings: &[(String, String)], results: &mut Results) {
    let sizes = [Size::Small, Size::Kib1, Size::Kib16];
    let weighed = thread::scope(|scope| {
        let threads = sizes.map(|size| scope.spawn(move || run::weigh(app, size, settings)));
        threads.map(|thread| thread.join().unwrap_or_else(|_| Err(anyhow!("it panicked"))))
    });
    for (size, bytes) in sizes.iter().zip(weighed) {
        match bytes {
            Ok(bytes) => {
                println!("  {name:<16} {:>5}: {bytes:.0} bytes", size.name());
                results.memory.entry(name.to_owned()).or_default().insert(size.name().to_owned(), bytes);
            }
            Err(error) => println!("  {name:<16} {:>5}: {error:#}", size.name()),
        }
    }
}

/// The project's root.
fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("bench is in the project").to_owned()
}
