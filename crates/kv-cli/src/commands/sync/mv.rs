//! `kv mv`: copies, compares, and only then deletes at the old place. Broken off anywhere, it has lost
//! nothing, and the same command goes on.

use kv_core::Operation;
use serde::Serialize;

use super::apply::{Apply, Done};
use super::clear::Clear;
use super::compare::{Counts, Rules, Shown, at_the_end, compare};
use super::pair::Pair;
use crate::cli::Mv;
use crate::commands::{self, import::count};
use crate::exit::{self, Failure};
use crate::output::{Format, Output, say};
use crate::session::Session;

#[derive(Serialize)]
struct Moved {
    moved: u64,
    #[serde(flatten)]
    done: Done,
}

pub(crate) async fn run(session: &Session, args: Mv) -> Result<(), Failure> {
    let from = commands::key(&args.source, Operation::List)?;
    let to = commands::key(&args.destination, Operation::Put)?;
    if from.as_prefix().covers_prefix(&to.as_prefix()) || to.as_prefix().covers_prefix(&from.as_prefix()) {
        return Err(Failure::Usage(format!("mv: {from:?} and {to:?} lie within each other")));
    }
    let pair = Pair::within(session, &from, &to).await?;
    // A moved key goes when it would have gone.
    let rules = Rules { delete: args.delete, overwrite: args.overwrite, keep_ttl: true };
    let plan = compare(&pair, rules, Shown::begin(session.output(), args.plan)?).await?;
    let Counts { make, change, delete, same, refused, bytes } = plan;
    if make + change + same + refused == 0 {
        return Err(Failure::NotFound(format!("mv: there is nothing at or below {from:?}")));
    }
    if args.plan {
        return Err(Failure::Incomplete {
            message: format!(
                "to make {make}, to change {change}, to delete {delete}, refused {refused}, there already {same}; \
                 {bytes} bytes to copy, then {} to delete at the old place",
                count(make + change + same, "key")
            ),
            code: exit::CONFLICT,
        });
    }
    if refused > 0 && !args.skip_refused {
        let message = format!(
            "{} cannot be moved, listed above, and nothing was changed; --skip-refused moves the rest",
            count(refused, "key")
        );
        return Err(Failure::Incomplete { message, code: exit::OTHER });
    }
    let done = Apply::begin(plan.to_do()).all(&pair, rules).await?;
    let moved = Clear::begin(make + change + same).all(&pair).await?;
    // What is left is looked at once more: others write too.
    let left = compare(&pair, Rules { delete: false, ..rules }, at_the_end()).await?;
    let left = left.make + left.change + left.same + left.refused;

    let mut out = Output::stdout();
    match session.output() {
        Some(Format::Json | Format::Jsonl) => out.json(&Moved { moved, done })?,
        Some(Format::Table) | None => out.line(&format!(
            "moved {}, {} bytes; made {}, changed {}, deleted {}, there already {same}",
            count(moved, "key"),
            done.bytes,
            done.made,
            done.changed,
            done.deleted
        ))?,
    }
    out.flush()?;
    let refused = refused + done.refused;
    if left > refused {
        let message = format!(
            "{} left at the old place: others changed them meanwhile; run it once more",
            count(left - refused, "key")
        );
        return Err(Failure::Incomplete { message, code: exit::CONFLICT });
    }
    if refused > 0 {
        let words = format!("{} stayed at the old place, listed above", count(refused, "key"));
        if !args.skip_refused {
            return Err(Failure::Incomplete { message: words, code: exit::OTHER });
        }
        say(&format!("kv: {words}"));
    }
    Ok(())
}
