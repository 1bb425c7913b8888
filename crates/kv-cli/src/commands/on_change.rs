//! `kv watch PREFIX -- COMMAND`: a command for each change, one at a time.

use std::pin::pin;
use std::time::Duration;

use bytes::Bytes;
use kv_core::WatchEvent;

use super::watch;
use crate::child::{Group, Signals, number};
use crate::cli::Watch;
use crate::exit::{Failure, SIGNALLED};
use crate::output::say;
use crate::reader;
use crate::session::Session;

/// How long what a command left behind has between TERM and KILL.
const GRACE: Duration = Duration::from_secs(5);
/// What a shell reports of a command that Ctrl-C ended.
const INTERRUPTED: u8 = SIGNALLED + 2;

/// What tells a command which change it is for.
type Environment = [(&'static str, String); 3];

/// Runs the command until the watch ends, a signal does, or it has run often enough. Changes that
/// come meanwhile wait in the store, which tells them all anew where there are too many.
pub(crate) async fn run(session: &Session, args: Watch) -> Result<u8, Failure> {
    let mut signals = Signals::listen()?;
    let mut watch = tokio::select! {
        biased;
        signal = signals.next() => return Err(Failure::Signal(number(signal))),
        watch = watch::begin(session, &args) => watch?,
    };
    let mut gone = pin!(reader::gone());
    let mut left = args.count;
    while left != Some(0) {
        let event = tokio::select! {
            biased;
            signal = signals.next() => return Err(Failure::Signal(number(signal))),
            () = &mut gone => return Err(Failure::BrokenPipe),
            event = watch::next(&mut watch) => event?,
        };
        let Some((what, environment, input)) = described(event) else { continue };
        match one(&args, environment, input, &mut signals).await? {
            0 => {}
            INTERRUPTED => return Err(Failure::Signal(INTERRUPTED - SIGNALLED)),
            code => say(&format!("kv: the command ended with code {code} for {what}; the watch goes on")),
        }
        left = left.map(|left| left - 1);
    }
    Ok(0)
}

/// Runs the command for one change and returns its exit code. Afterwards nothing of it is left.
async fn one(
    args: &Watch,
    environment: Environment,
    input: Bytes,
    signals: &mut Signals,
) -> Result<u8, Failure> {
    let mut group = Group::spawn(&args.command, environment, Some(input))?;
    let mut signalled = None;
    let code = loop {
        tokio::select! {
            biased;
            code = group.leader() => break code,
            signal = signals.next() => {
                group.signal(signal);
                signalled = Some(signal);
            }
        }
    };
    group.end(GRACE).await;
    match signalled {
        Some(signal) => Err(Failure::Signal(number(signal))),
        None => Ok(code),
    }
}

/// A change in words, in the environment of the command, and its value; `None` for a kind of event
/// this version does not know.
fn described(event: WatchEvent) -> Option<(String, Environment, Bytes)> {
    let (name, key, version, value) = match event {
        WatchEvent::Put(entry) => ("put", Some(entry.key), Some(entry.version), entry.value),
        WatchEvent::Delete(deletion) => ("delete", Some(deletion.key), deletion.version, Bytes::new()),
        WatchEvent::Resync => ("resync", None, None, Bytes::new()),
        WatchEvent::Synced => ("synced", None, None, Bytes::new()),
        _ => return None,
    };
    let what = key.as_ref().map_or_else(|| name.to_owned(), |key| format!("{name} {key:?}"));
    let key = key.map(|key| key.as_str().to_owned()).unwrap_or_default();
    let version = version.map(|version| version.to_string()).unwrap_or_default();
    Some((what, [("KV_EVENT", name.to_owned()), ("KV_KEY", key), ("KV_VERSION", version)], value))
}
