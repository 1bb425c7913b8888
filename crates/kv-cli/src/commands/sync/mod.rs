//! `kv diff` and `kv sync`: two stores, key by key in their order, so that memory does not grow with
//! them.

mod apply;
mod pair;
mod steps;

use serde::Serialize;

use self::apply::Apply;
use self::pair::Pair;
use self::steps::Step;
use super::import::count;
use crate::cli::{Diff, Sync};
use crate::exit::{self, Failure};
use crate::output::{Format, JsonItems, Output, for_reader, say};
use crate::progress::Progress;
use crate::session::Session;

/// How many keys are in which state.
#[derive(Debug, Default, Serialize)]
struct Counts {
    make: u64,
    change: u64,
    delete: u64,
    same: u64,
    refused: u64,
    /// Of the values to be copied.
    bytes: u64,
}

impl Counts {
    /// What there is to do, with deletes or without.
    fn to_do(&self) -> u64 {
        self.make + self.change + self.delete
    }
}

/// A line about one key.
#[derive(Serialize)]
struct JsonStep<'s> {
    action: &'static str,
    key: &'s str,
    #[serde(skip_serializing_if = "Option::is_none")]
    bytes: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    why: Option<&'s str>,
}

/// Shows steps on standard output as they are found, or on standard error what cannot be done alone.
struct Shown {
    out: Output,
    items: Option<JsonItems>,
    all: bool,
}

impl Shown {
    fn begin(format: Option<Format>, all: bool) -> Result<Self, Failure> {
        let mut out = Output::stdout();
        let items = match format {
            Some(format @ (Format::Json | Format::Jsonl)) if all => Some(JsonItems::begin(format, &mut out)?),
            _ => None,
        };
        Ok(Self { out, items, all })
    }

    fn step(
        &mut self,
        action: &'static str,
        key: &str,
        bytes: Option<usize>,
        why: Option<&str>,
    ) -> Result<(), Failure> {
        if !self.all {
            if let Some(why) = why {
                say(&format!("kv: refused {key:?}: {why}"));
            }
            return Ok(());
        }
        if let Some(items) = &mut self.items {
            return items.item(&mut self.out, &JsonStep { action, key, bytes, why });
        }
        let sign = match action {
            "make" => '+',
            "change" => '~',
            "delete" => '-',
            _ => '!',
        };
        let more = match (why, bytes) {
            (Some(why), _) => format!("  {why}"),
            (None, Some(bytes)) => format!("  {bytes} bytes"),
            (None, None) => String::new(),
        };
        self.out.line(&format!("{sign} {}{more}", for_reader(key)))
    }

    fn end(mut self) -> Result<(), Failure> {
        if let Some(items) = self.items {
            items.end(&mut self.out)?;
        }
        self.out.flush()
    }
}

/// Compares all of it; what only the destination has counts where it is to be deleted.
async fn compare(pair: &Pair, delete: bool, mut shown: Shown) -> Result<Counts, Failure> {
    let mut steps = pair.steps().await?;
    let mut counts = Counts::default();
    let mut progress = Progress::begin("compared", !shown.all);
    while let Some(step) = steps.next().await? {
        match &step {
            Step::Same => counts.same += 1,
            Step::Make(entry) | Step::Change(entry, _) => {
                let (key, bytes) = (entry.key.as_str(), entry.value.len());
                if let Some(why) = pair.too_large(bytes) {
                    counts.refused += 1;
                    shown.step("refuse", key, Some(bytes), Some(&why))?;
                } else {
                    let action = match step {
                        Step::Make(_) => {
                            counts.make += 1;
                            "make"
                        }
                        _ => {
                            counts.change += 1;
                            "change"
                        }
                    };
                    counts.bytes += bytes as u64;
                    shown.step(action, key, Some(bytes), None)?;
                }
            }
            Step::Delete(key, _) if delete => {
                counts.delete += 1;
                shown.step("delete", key.as_str(), None, None)?;
            }
            Step::Delete(..) => {}
        }
        progress.done(0);
    }
    drop(progress);
    shown.end()?;
    Ok(counts)
}

pub(crate) async fn diff(session: &Session, args: Diff) -> Result<(), Failure> {
    let pair = Pair::open(session, args.source, args.destination, &args.prefix, false).await?;
    let mut steps = pair.steps().await?;
    let mut shown = Shown::begin(session.output(), true)?;
    let mut counts = Counts::default();
    while let Some(step) = steps.next().await? {
        match step {
            Step::Same => counts.same += 1,
            Step::Make(entry) => {
                counts.make += 1;
                shown.step("make", entry.key.as_str(), Some(entry.value.len()), None)?;
            }
            Step::Change(entry, _) => {
                counts.change += 1;
                shown.step("change", entry.key.as_str(), Some(entry.value.len()), None)?;
            }
            Step::Delete(key, _) => {
                counts.delete += 1;
                shown.step("delete", key.as_str(), None, None)?;
            }
        }
    }
    shown.end()?;
    let Counts { make, change, delete, same, .. } = counts;
    let words =
        format!("only in the first {make}, different {change}, only in the second {delete}, the same {same}");
    if counts.to_do() == 0 {
        say(&format!("kv: {words}"));
        return Ok(());
    }
    Err(Failure::Incomplete { message: words, code: exit::CONFLICT })
}

pub(crate) async fn run(session: &Session, args: Sync) -> Result<(), Failure> {
    let pair = Pair::open(session, args.source, args.destination, &args.prefix, true).await?;
    // All of it before the first change: what cannot be copied is told while it costs nothing.
    let plan = compare(&pair, args.delete, Shown::begin(session.output(), args.plan)?).await?;
    if args.plan {
        let Counts { make, change, delete, same, refused, bytes } = plan;
        let words = format!(
            "to make {make}, to change {change}, to delete {delete}, refused {refused}, the same {same}; \
             {bytes} bytes to copy"
        );
        if plan.to_do() + plan.refused == 0 {
            say(&format!("kv: {words}"));
            return Ok(());
        }
        return Err(Failure::Incomplete { message: words, code: exit::CONFLICT });
    }
    if plan.refused > 0 && !args.skip_refused {
        let message = format!(
            "{} cannot be copied, listed above, and nothing was changed; --skip-refused copies the rest",
            count(plan.refused, "key")
        );
        return Err(Failure::Incomplete { message, code: exit::OTHER });
    }
    let mut apply = Apply::begin(plan.to_do());
    let done = apply.all(&pair, args.delete, args.keep_ttl).await?;
    // What was written is looked at once more: others write too.
    let left =
        if done.total() == 0 { Counts::default() } else { compare(&pair, args.delete, silent()?).await? };
    let mut out = Output::stdout();
    match session.output() {
        Some(Format::Json | Format::Jsonl) => out.json(&done)?,
        Some(Format::Table) | None => out.line(&format!(
            "made {}, changed {}, deleted {}, {} bytes; {} were the same",
            done.made, done.changed, done.deleted, done.bytes, plan.same
        ))?,
    }
    out.flush()?;
    let refused = done.refused;
    let differ = left.to_do().saturating_sub(refused);
    if differ > 0 {
        let message =
            format!("{} differ again: others changed them meanwhile; run it once more", count(differ, "key"));
        return Err(Failure::Incomplete { message, code: exit::CONFLICT });
    }
    if refused > 0 && !args.skip_refused {
        let message = format!("{refused} refused, listed above; --skip-refused accepts that");
        return Err(Failure::Incomplete { message, code: exit::OTHER });
    }
    Ok(())
}

/// For a comparison of which only the counts matter.
fn silent() -> Result<Shown, Failure> {
    Ok(Shown { out: Output::stdout(), items: None, all: false })
}
