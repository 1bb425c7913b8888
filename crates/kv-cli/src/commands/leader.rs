//! `kv elect KEY`: who leads, now or from now on.

use kv_core::{Error, ErrorKind, Key, Operation};
use kv_recipes::{Election, Leader};
use serde::Serialize;

use crate::cli::Elect;
use crate::exit::Failure;
use crate::output::{Format, JsonValue, Output, bytes_words, say};
use crate::reader;
use crate::session::Session;

#[derive(Serialize)]
struct JsonElection<'l> {
    key: &'l str,
    /// `null` for a vacancy.
    leader: Option<JsonLeader<'l>>,
}

#[derive(Serialize)]
struct JsonLeader<'l> {
    /// Under `value`, or `base64` where it is not text, as everywhere.
    #[serde(flatten)]
    identity: JsonValue<'l>,
    term: u64,
    /// Missing until it has proclaimed something in this term.
    #[serde(skip_serializing_if = "Option::is_none")]
    proclaimed: Option<JsonValue<'l>>,
    /// What else the server knows of it.
    #[serde(skip_serializing_if = "Option::is_none")]
    native: Option<&'l str>,
}

impl<'l> JsonLeader<'l> {
    fn new(leader: &'l Leader) -> Self {
        Self {
            identity: JsonValue::new(&leader.identity),
            term: leader.term.get(),
            proclaimed: leader.proclaimed.as_deref().map(JsonValue::new),
            native: leader.native.as_deref(),
        }
    }
}

/// Tells who leads, and with `--watch` each change.
pub(crate) async fn run(session: &Session, args: Elect) -> Result<(), Failure> {
    let key = super::key(&args.key, Operation::LockHolder)?;
    let election = Election::new(session.store().await?.clone(), key.clone())?;
    if session.is_for_one_process() {
        say(
            "kv: warning: while kv looks, no other process can use this store, so that nobody leads; for several \
             processes use a server: etcd, Consul or ZooKeeper",
        );
    }
    let mut out = Output::stdout();
    if args.watch {
        return tokio::select! {
            biased;
            done = follow(session, &election, &mut out, args.count) => done,
            () = reader::gone() => Err(Failure::BrokenPipe),
        };
    }
    let leader = session.in_time(Operation::LockHolder, election.leader());
    let leader = session.request(Operation::LockHolder, key.as_str(), leader).await?;
    let leader = leader.ok_or_else(|| Failure::NotFound(format!("elect {key:?}: nobody leads")))?;
    show(session, &mut out, &key, Some(&leader))
}

async fn follow(
    session: &Session,
    election: &Election,
    out: &mut Output,
    mut left: Option<u64>,
) -> Result<(), Failure> {
    let key = election.key();
    let mut leaders = session.request(Operation::WatchLock, key.as_str(), election.observe()).await?;
    while left != Some(0) {
        let leader = leaders.next().await.unwrap_or_else(|| Err(ended_silently()))?;
        show(session, out, key, leader.as_ref())?;
        left = left.map(|left| left - 1);
    }
    Ok(())
}

fn show(session: &Session, out: &mut Output, key: &Key, leader: Option<&Leader>) -> Result<(), Failure> {
    match session.output() {
        Some(Format::Json | Format::Jsonl) => {
            out.json(&JsonElection { key: key.as_str(), leader: leader.map(JsonLeader::new) })?;
        }
        Some(Format::Table) | None => out.line(&leader.map_or_else(|| "nobody".to_owned(), words))?,
    }
    // Whoever reads this acts on it now.
    out.flush()
}

fn words(leader: &Leader) -> String {
    let proclaimed = leader.proclaimed.as_deref().map(|value| format!(": {}", bytes_words(value)));
    let identity = if leader.identity.is_empty() {
        "somebody without a name".into()
    } else {
        bytes_words(&leader.identity)
    };
    format!("{identity} (term {}){}", leader.term, proclaimed.unwrap_or_default())
}

fn ended_silently() -> Error {
    Error::new(ErrorKind::Internal)
        .with_operation(Operation::WatchLock)
        .with_detail("the watch ended without saying why")
}
