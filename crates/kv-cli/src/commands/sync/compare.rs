//! What a copy would do, counted and shown before anything is changed.

use kv_core::{Entry, Key};
use serde::Serialize;

use super::pair::Pair;
use super::steps::Step;
use crate::exit::Failure;
use crate::output::{Format, JsonItems, Output, for_reader, say};
use crate::progress::{Progress, Unfinished};

/// What may be done to the destination.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rules {
    /// Delete what only the destination has.
    pub(super) delete: bool,
    /// Put another value where the destination has one.
    pub(super) overwrite: bool,
    /// Let a copy expire when what it was copied from would.
    pub(super) keep_ttl: bool,
}

/// How many keys are in which state.
#[derive(Debug, Default, Serialize)]
pub(super) struct Counts {
    pub(super) make: u64,
    pub(super) change: u64,
    pub(super) delete: u64,
    pub(super) same: u64,
    pub(super) refused: u64,
    /// Of the values to be copied.
    pub(super) bytes: u64,
}

impl Counts {
    /// What there is to do, with deletes or without.
    pub(super) fn to_do(&self) -> u64 {
        self.make + self.change + self.delete
    }
}

/// A line about one key.
#[derive(Serialize)]
pub(super) struct JsonStep<'s> {
    action: &'static str,
    key: &'s str,
    /// The key in the source, where that is another.
    #[serde(skip_serializing_if = "Option::is_none")]
    from: Option<&'s str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    bytes: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    why: Option<&'s str>,
}

/// Shows steps on standard output as they are found, or on standard error what cannot be done alone.
pub(super) struct Shown {
    out: Output,
    items: Option<JsonItems>,
    all: bool,
    /// What is said if the comparison is broken off.
    broken_off: &'static str,
}

impl Shown {
    pub(super) fn begin(format: Option<Format>, all: bool) -> Result<Self, Failure> {
        let mut out = Output::stdout();
        let items = match format {
            Some(format @ (Format::Json | Format::Jsonl)) if all => Some(JsonItems::begin(format, &mut out)?),
            _ => None,
        };
        Ok(Self { out, items, all, broken_off: "nothing was changed" })
    }

    pub(super) fn step(&mut self, step: &JsonStep<'_>) -> Result<(), Failure> {
        let JsonStep { action, key, bytes, why, .. } = *step;
        if !self.all {
            if let Some(why) = why {
                say(&format!("kv: refused {key:?}: {why}"));
            }
            return Ok(());
        }
        if let Some(items) = &mut self.items {
            return items.item(&mut self.out, step);
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

    pub(super) fn end(mut self) -> Result<(), Failure> {
        if let Some(items) = self.items {
            items.end(&mut self.out)?;
        }
        self.out.flush()
    }
}

impl<'s> JsonStep<'s> {
    pub(super) fn new(step: &'s Step) -> Self {
        let copy = |action, entry: &'s Entry, to: &'s Key| Self {
            action,
            key: to.as_str(),
            from: Some(entry.key.as_str()).filter(|from| *from != to.as_str()),
            bytes: Some(entry.value.len()),
            why: None,
        };
        let other =
            |action, key: &'s Key| Self { action, key: key.as_str(), from: None, bytes: None, why: None };
        match step {
            Step::Make(entry, to) => copy("make", entry, to),
            Step::Change(entry, to, _) => copy("change", entry, to),
            Step::Delete(key, _) => other("delete", key),
            Step::Same(_, _, key) => other("same", key),
            Step::Refuse(key, why) => Self { why: Some(why), ..other("refuse", key) },
        }
    }
}

/// Compares all of it; what only the destination has counts where it is to be deleted.
pub(super) async fn compare(pair: &Pair, rules: Rules, mut shown: Shown) -> Result<Counts, Failure> {
    let mut steps = pair.steps().await?;
    let mut counts = Counts::default();
    let mut progress = Progress::begin("compared", !shown.all);
    let unfinished = Unfinished::begin(shown.broken_off);
    while let Some(step) = steps.next().await? {
        progress.done(0);
        let refused = match &step {
            Step::Refuse(_, why) => Some(why.clone()),
            Step::Change(..) if !rules.overwrite => {
                Some("another value is there; --overwrite replaces it".to_owned())
            }
            Step::Make(entry, _) | Step::Change(entry, ..) => pair.refusal(entry),
            Step::Delete(..) | Step::Same(..) => None,
        };
        if let Some(why) = refused {
            counts.refused += 1;
            shown.step(&JsonStep { action: "refuse", why: Some(&why), ..JsonStep::new(&step) })?;
            continue;
        }
        match &step {
            Step::Same(..) => {
                counts.same += 1;
                continue;
            }
            Step::Delete(..) if !rules.delete => continue,
            Step::Delete(..) => counts.delete += 1,
            Step::Change(entry, ..) => {
                counts.change += 1;
                counts.bytes += entry.value.len() as u64;
            }
            Step::Make(entry, _) => {
                counts.make += 1;
                counts.bytes += entry.value.len() as u64;
            }
            Step::Refuse(..) => {}
        }
        shown.step(&JsonStep::new(&step))?;
    }
    drop(progress);
    unfinished.finish();
    shown.end()?;
    Ok(counts)
}

/// For the comparison at the end, of which only the counts matter.
pub(super) fn at_the_end() -> Shown {
    let broken_off = "all was done, and whether others changed something meanwhile was not looked at";
    Shown { out: Output::stdout(), items: None, all: false, broken_off }
}
