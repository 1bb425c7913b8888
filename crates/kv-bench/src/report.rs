//! The report: JSON for programs, a page with a table and a chart for people.

use std::fmt::Write as _;
use std::path::Path;

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use crate::backends::ALL;
use crate::chart;
use crate::measure::Row;
use crate::{scaling, target};

/// What was measured, each backend in one run.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct Report {
    pub(crate) machine: String,
    pub(crate) rows: Vec<Row>,
    pub(crate) memory: Vec<scaling::Row>,
}

impl Report {
    /// What the page in this folder shows; nothing if there is none.
    pub(crate) fn of_page(folder: &Path) -> Result<Self> {
        let path = folder.join(ROWS);
        if !path.exists() {
            return Ok(Self::default());
        }
        let text =
            std::fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
        serde_json::from_str(&text).with_context(|| format!("{} is no report", path.display()))
    }

    /// Takes the rows of one backend in place of those it had.
    pub(crate) fn replace(&mut self, backend: &str, rows: Vec<Row>) {
        self.machine = machine();
        self.rows.retain(|row| row.backend != backend);
        self.rows.extend(rows);
        let place = |row: &Row| ALL.iter().position(|name| *name == row.backend);
        self.rows.sort_by_key(place);
    }

    pub(crate) fn write_json(&self, path: &Path) -> Result<()> {
        let text = serde_json::to_string_pretty(self)?;
        std::fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))
    }

    /// Writes `performance.md` and one chart for each backend beside it.
    pub(crate) fn write_page(&self, folder: &Path) -> Result<()> {
        let images = folder.join("performance");
        std::fs::create_dir_all(&images)?;
        self.write_json(&folder.join(ROWS))?;
        let mut page = String::from(HEAD);
        writeln!(page, "Measured on: {}.\n", self.machine)?;
        for backend in self.backends() {
            let rows: Vec<&Row> = self.rows.iter().filter(|row| row.backend == backend).collect();
            std::fs::write(images.join(format!("{backend}.svg")), chart::draw(backend, &rows)?)?;
            page.push_str(&section(backend, &rows)?);
            if backend == "mem" {
                page.push_str(&memory_section(&self.memory)?);
            }
        }
        let path = folder.join("performance.md");
        std::fs::write(&path, page).with_context(|| format!("cannot write {}", path.display()))
    }

    fn backends(&self) -> Vec<&str> {
        let mut names: Vec<&str> = self.rows.iter().map(|row| row.backend.as_str()).collect();
        names.dedup();
        names
    }
}

/// Beside the page: what it is made of, so that one backend can be measured again.
const ROWS: &str = "performance/rows.json";

const HEAD: &str = "\
# Performance

Written by `cargo xtask bench`. Every backend beside its raw client: same server, same work, in turn
within one run, in many short rounds. *Control* is the raw client beside itself: what it differs from 1 by is
noise of the machine. **The ratios are the claim**: throughput of the store over that of the raw client, the
median of paired rounds with its 95 % interval. The absolute numbers are this machine's.

*Target*: on a server, for get, put, compare-and-set, delete and list with 1 and 64 tasks, the interval
reaches 0.97 of the raw client's throughput and the median latency is at most 1.05 of its; watch latency
1.1. On sled 0.8 for get, and with 64 writers no slower than raw. Round trips are those a caller waits
for, counted by the time an operation takes over a link of 40 ms.

\"The same work\" has the same outcome for the caller: a put tells the version it made, a delete whether
the key was there, a list has keys and values. The raw subjects are in `crates/kv-bench/src/raw`.

";

fn section(backend: &str, rows: &[&Row]) -> Result<String> {
    let mut text = format!("## {backend}\n\n![ratios on {backend}](performance/{backend}.svg)\n\n");
    text.push_str("| workload | tasks | bytes | ratio | 95 % | p50 ratio | target | round trips raw, store | raw/s | store/s | raw p50 µs | store p50 µs | raw p99 µs | store p99 µs |\n");
    text.push_str("|---|--:|--:|--:|---|--:|---|---|--:|--:|--:|--:|--:|--:|\n");
    for row in rows {
        writeln!(
            text,
            "| {} | {} | {} | **{:.2}** | {:.2}–{:.2} | {:.2} | {} | {} | {:.0} | {:.0} | {:.0} | {:.0} | {:.0} | {:.0} |",
            row.workload,
            row.concurrency,
            row.value_bytes,
            row.ratio,
            row.ratio_low,
            row.ratio_high,
            row.latency_ratio,
            target::of(row).map_or("", |met| if met { "met" } else { "**missed**" }),
            round_trips(row),
            row.raw_ops_per_s,
            row.store_ops_per_s,
            row.raw_p50_us,
            row.store_p50_us,
            row.raw_p99_us,
            row.store_p99_us,
        )?;
    }
    text.push('\n');
    text.push_str(target::remarks(backend));
    text.push('\n');
    Ok(text)
}

fn round_trips(row: &Row) -> String {
    match (row.raw_round_trips, row.store_round_trips) {
        (Some(raw), Some(store)) => format!("{raw:.1}, {store:.1}"),
        _ => String::new(),
    }
}

fn memory_section(rows: &[scaling::Row]) -> Result<String> {
    let mut text = String::from(
        "### Scaling in memory\n\nThrough `Arc<dyn Store>`, beside a map behind one lock that knows versions and nothing else. \
         Nothing but the store is in the way here, so this is what its layer costs.\n\n\
         | work | tasks | map/s | store/s | store, ns per operation |\n|---|--:|--:|--:|--:|\n",
    );
    for row in rows {
        let scaling::Row { work, tasks, map_ops_per_s, store_ops_per_s, store_ns_per_op } = row;
        let name = work.name();
        writeln!(
            text,
            "| {name} | {tasks} | {map_ops_per_s:.0} | {store_ops_per_s:.0} | {store_ns_per_op:.0} |"
        )?;
    }
    text.push('\n');
    Ok(text)
}

/// The machine, in a few words.
fn machine() -> String {
    let cores = std::thread::available_parallelism().map_or(0, std::num::NonZero::get);
    let model = std::fs::read_to_string("/proc/cpuinfo").ok().and_then(|text| {
        let line = text.lines().find(|line| line.starts_with("model name"))?;
        Some(line.split_once(':')?.1.trim().to_owned())
    });
    let model = model.unwrap_or_else(|| std::env::consts::ARCH.to_owned());
    format!("{cores} cores of {model}, {}", std::env::consts::OS)
}
