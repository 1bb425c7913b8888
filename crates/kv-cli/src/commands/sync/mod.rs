//! `kv diff`, `kv sync` and `kv mv`: two places, key by key in their order, so that memory does not grow
//! with them.

mod apply;
mod clear;
mod compare;
mod mv;
mod pair;
mod steps;

use kv_core::{Operation, Prefix};

use self::apply::Apply;
use self::compare::{Counts, JsonStep, Rules, Shown, at_the_end, compare};
pub(crate) use self::mv::run as mv;
use self::pair::Pair;
use self::steps::Step;
use super::import::count;
use crate::cli::{Diff, Sync};
use crate::exit::{self, Failure};
use crate::output::{Format, Output, say};
use crate::session::Session;

/// The prefixes that are compared: the same on both sides, or those of `--prefix-map`.
fn prefixes(prefix: &str, map: Option<&str>) -> Result<(Prefix, Prefix), Failure> {
    match map {
        Some(map) => pair::mapped(map),
        None => {
            let prefix = super::prefix(prefix, Operation::List)?;
            Ok((prefix.clone(), prefix))
        }
    }
}

pub(crate) async fn diff(session: &Session, args: Diff) -> Result<(), Failure> {
    let places = prefixes(&args.prefix, args.prefix_map.as_deref())?;
    let pair = Pair::open(session, args.source, args.destination, places, false, false).await?;
    // Nothing is put, so that neither a name nor a size is refused.
    let mut steps = pair.steps().await?;
    let mut shown = Shown::begin(session.output(), true)?;
    let mut counts = Counts::default();
    while let Some(step) = steps.next().await? {
        match &step {
            Step::Same(..) => {
                counts.same += 1;
                continue;
            }
            Step::Make(..) | Step::Refuse(..) => counts.make += 1,
            Step::Change(..) => counts.change += 1,
            Step::Delete(..) => counts.delete += 1,
        }
        shown.step(&JsonStep::new(&step))?;
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
    let places = prefixes(&args.prefix, args.prefix_map.as_deref())?;
    let pair = Pair::open(session, args.source, args.destination, places, true, args.keep_ttl).await?;
    let rules = Rules { delete: args.delete, overwrite: true, keep_ttl: args.keep_ttl };
    // All of it before the first change: what cannot be copied is told while it costs nothing.
    let plan = compare(&pair, rules, Shown::begin(session.output(), args.plan)?).await?;
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
    let done = apply.all(&pair, rules).await?;
    // What was written is looked at once more: others write too.
    let left =
        if done.total() == 0 { Counts::default() } else { compare(&pair, rules, at_the_end()).await? };
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
