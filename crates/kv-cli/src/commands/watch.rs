//! `kv watch`: changes as JSON lines, each written as it happens.

use std::io::{self, IsTerminal};

use kv_core::{
    DeleteCause, Error, ErrorKind, ListOptions, Operation, Power, Prefix, StoreExt, Version, WatchEvent,
    WatchFilter, WatchOptions, WatchTarget,
};
use serde::Serialize;

use super::shown;
use crate::cli::Watch;
use crate::exit::Failure;
use crate::output::{Format, JsonEntry, Output, say};
use crate::reader;
use crate::session::Session;

#[derive(Serialize)]
#[serde(tag = "event", rename_all = "lowercase")]
enum JsonEvent<'e> {
    Put(JsonEntry<'e>),
    Delete {
        key: &'e str,
        #[serde(skip_serializing_if = "Option::is_none")]
        version: Option<u64>,
        cause: &'static str,
        #[serde(skip_serializing_if = "Option::is_none")]
        previous: Option<JsonEntry<'e>>,
    },
    Resync,
    Synced,
}

impl<'e> JsonEvent<'e> {
    /// `None` for a kind of event this version does not know.
    fn new(event: &'e WatchEvent) -> Option<Self> {
        Some(match event {
            WatchEvent::Put(entry) => Self::Put(JsonEntry::full(entry)),
            WatchEvent::Delete(deletion) => Self::Delete {
                key: deletion.key.as_str(),
                version: deletion.version.map(|version| version.get()),
                cause: match deletion.cause {
                    DeleteCause::Deleted => "deleted",
                    DeleteCause::Expired => "expired",
                    _ => "unknown",
                },
                previous: deletion.previous.as_ref().map(JsonEntry::full),
            },
            WatchEvent::Resync => Self::Resync,
            WatchEvent::Synced => Self::Synced,
            _ => return None,
        })
    }
}

pub(crate) async fn run(session: &Session, args: Watch) -> Result<(), Failure> {
    let watch = begin(session, &args).await?;
    tokio::select! {
        biased;
        done = write(watch, args.count) => done,
        () = reader::gone() => Err(Failure::BrokenPipe),
    }
}

/// Begins the watch that was asked for.
pub(super) async fn begin(session: &Session, args: &Watch) -> Result<kv_core::Watch, Failure> {
    if session.output() == Some(Format::Table) {
        return Err(Failure::Usage("watch writes JSON lines; leave out --output".to_owned()));
    }
    let target: WatchTarget = if args.key {
        super::key(&args.target, Operation::Watch)?.into()
    } else {
        super::prefix(&args.target, Operation::Watch)?.into()
    };
    let mut options = WatchOptions::default().with_filter(match (args.puts, args.deletes) {
        (true, _) => WatchFilter::Puts,
        (_, true) => WatchFilter::Deletes,
        (false, false) => WatchFilter::All,
    });
    if args.initial {
        options = options.with_initial();
    }
    if let Some(version) = args.from {
        options = options.with_from(version);
    }
    options.timeout = session.timeout();
    let store = session.store().await?;
    if session.is_for_one_process() {
        say(&alone(args.from.is_some() || args.initial));
    }
    if let Some(from) = args.from {
        from_the_future(session, from).await?;
    }
    let watch = store.watch_with(target.clone(), options);
    let watch = session.request(Operation::Watch, target.path(), watch).await?;
    if io::stderr().is_terminal() {
        say(&match &target {
            WatchTarget::Prefix(prefix) => {
                format!("kv: watching what is below {}; --key watches one key", shown(prefix))
            }
            other => format!("kv: watching {:?}", other.path()),
        });
    }
    Ok(watch)
}

/// The next event. Cancel-safe.
pub(super) async fn next(watch: &mut kv_core::Watch) -> Result<WatchEvent, Failure> {
    Ok(watch.next().await.unwrap_or_else(|| Err(ended_silently()))?)
}

/// Writes this many events, or all there will be.
async fn write(mut watch: kv_core::Watch, mut left: Option<u64>) -> Result<(), Failure> {
    let mut out = Output::stdout();
    while left != Some(0) {
        let event = next(&mut watch).await?;
        let Some(line) = JsonEvent::new(&event) else {
            say("kv: warning: the store sent an event this kv does not know");
            continue;
        };
        out.json(&line)?;
        // Whoever reads this acts on it now.
        out.flush()?;
        left = left.map(|left| left - 1);
    }
    Ok(())
}

/// What to expect of a watch on a store that no other process can change meanwhile.
fn alone(shows_something: bool) -> String {
    let rest = if shows_something { "after that " } else { "" };
    format!(
        "kv: warning: while kv watches, no other process can use this store, so {rest}it shows nothing but \
         keys that expire; to see what others change use a server: etcd, Consul or ZooKeeper"
    )
}

/// Says so when a watch begins after a version the store has not reached: a version of another store,
/// most likely. What follows then depends on whether the store keeps a history.
async fn from_the_future(session: &Session, from: Version) -> Result<(), Failure> {
    let mut options = ListOptions::default().with_keys_only().with_limit(1);
    options.timeout = session.timeout();
    let root = Prefix::root();
    let store = session.store().await?;
    let history = store.capabilities().has(Power::WatchHistory);
    let listing = store.list_with(&root, options);
    let listing = session.request(Operation::List, "", listing).await?;
    if let Some(now) = listing.as_of().filter(|now| *now < from) {
        say(&format!("kv: warning: {}", still_to_come(now, from, history)));
    }
    Ok(())
}

fn still_to_come(now: Version, from: Version, history: bool) -> String {
    let then = match history {
        true => "nothing is shown until then",
        false => {
            "this store keeps no history to begin in, so a resync and everything there is are shown first, then \
             the changes"
        }
    };
    format!("the store is at version {now}, and version {from} is still to come: {then}")
}

fn ended_silently() -> Error {
    Error::new(ErrorKind::Internal)
        .with_operation(Operation::Watch)
        .with_detail("the watch ended without saying why")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_follows_a_version_to_come_is_told_as_the_store_does_it() {
        let told = |history| still_to_come(Version::new(1), Version::new(9), history);
        assert_eq!(
            told(true),
            "the store is at version 1, and version 9 is still to come: nothing is shown until then"
        );
        assert!(told(false).contains("a resync and everything there is are shown first"), "{}", told(false));
        assert!(!told(false).contains("nothing is shown"), "{}", told(false));
    }
}
