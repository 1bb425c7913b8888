//! Reading the past: reads at a revision, and the changes of a key since the last compaction.

use std::collections::VecDeque;
use std::time::Duration;

use async_trait::async_trait;
use kv_backend::Deadline;
use kv_core::{
    CallOptions, Entry, Error, ErrorKind, History, Key, KeyVersion, ListOptions, Listing, Operation, Prefix,
    Result, Version, VersionsOptions,
};

use crate::client::error::{self, BACKEND};
use crate::client::{Change, Range, Read, Record, WatchRequest};
use crate::env::Env;
use crate::store::{EtcdStore, about};
use crate::{ops, record};

/// The revision of a store to which nothing was written yet.
const FIRST: i64 = 1;
/// How often a server is asked whether it has told everything: it does not answer while it has not.
const ASK_AGAIN: Duration = Duration::from_millis(50);
/// How often the versions of a key are begun anew because of a compaction.
const ATTEMPTS: usize = 3;

/// The revision that a version stands for.
fn revision(version: Version) -> Result<i64> {
    let future = || Error::invalid_argument(format!("the version {version} is yet to come"));
    // Before every write is the store to which nothing was written yet.
    i64::try_from(version.get()).map(|revision| revision.max(FIRST)).map_err(|_| future())
}

/// What a failure to read at a revision means.
async fn told(env: &Env, deadline: Deadline, name: &[u8], at: i64, failed: Error) -> Error {
    if error::is_future(&failed) {
        return Error::invalid_argument(format!("the version {at} is yet to come")).with_source(failed);
    }
    if error::compacted(&failed) {
        // Where it cannot be told the refusal stands all the same.
        let oldest = oldest(env, deadline, name).await.ok().map(record::version);
        return Error::new(ErrorKind::Compacted { oldest }).with_source(failed);
    }
    failed
}

/// The revision before which history is gone, as the server tells it to a watch that begins before it:
/// to be asked only where some is gone.
async fn oldest(env: &Env, deadline: Deadline, name: &[u8]) -> Result<i64> {
    match changes(env, deadline, name, FIRST, Until::Compacted, Some(0)).await? {
        Told::Compacted(oldest) => Ok(oldest),
        Told::Changes(_) => Err(error::nonsense("changes that were compacted away")),
    }
}

/// How the end of what a server has to tell is known.
#[derive(Clone, Copy)]
enum Until {
    /// By the last change, which is the one at this revision.
    Revision(i64),
    /// By the server's word that it has told everything.
    Told,
    /// By the server's word that some is gone.
    Compacted,
}

/// What a server told of the past of a key.
enum Told {
    /// Nothing: history before this revision is gone.
    Compacted(i64),
    Changes(VecDeque<Change>),
}

/// The newest `limit` changes of a key from a revision on.
async fn changes(
    env: &Env,
    deadline: Deadline,
    name: &[u8],
    start: i64,
    until: Until,
    limit: Option<usize>,
) -> Result<Told> {
    let request = WatchRequest { id: 1, range: Range::one(name), start, puts: true, deletes: true };
    let (mut out, mut incoming) = env.client.open_watch(deadline, &request).await?;
    let mut changes = VecDeque::new();
    loop {
        let next = async { Ok(tokio::time::timeout(ASK_AGAIN, incoming.next()).await) };
        let answer = match deadline.run(next).await? {
            Ok(answer) => answer.map_err(|(error, _)| error)?,
            Err(_) => {
                out.progress().await;
                continue;
            }
        };
        if let Some(oldest) = answer.compacted {
            return Ok(Told::Compacted(oldest));
        }
        if answer.cancelled {
            return Err(error::watch_refused(&answer.reason).0);
        }
        let told = answer.changes?;
        crate::client::check_changes(&request.range, &told)?;
        let is_end = match until {
            Until::Told => !answer.created && told.is_empty(),
            Until::Compacted => !told.is_empty(),
            Until::Revision(last) => told.iter().any(|change| change.record.version >= last),
        };
        for change in told {
            changes.push_back(change);
            if limit.is_some_and(|limit| changes.len() > limit) {
                changes.pop_front();
            }
        }
        if is_end {
            return Ok(Told::Changes(changes));
        }
    }
}

/// Whether a server of this version answers the question whether it has told everything only when it has.
fn tells_the_end(version: &str) -> bool {
    let numbers: Vec<u32> = version.split(['.', '-', '+']).map_while(|number| number.parse().ok()).collect();
    match numbers[..] {
        [3, 4, patch, ..] => patch >= 25,
        [3, 5, patch, ..] => patch >= 8,
        [major, minor, ..] => (major, minor) > (3, 5),
        _ => false,
    }
}

/// What a change left of a key, if it was an entry's.
fn key_version(env: &Env, change: Change) -> Option<KeyVersion> {
    if !change.deleted {
        return record::entry(&env.namespace, change.record).map(KeyVersion::put);
    }
    let was_lock = change.previous.as_ref().is_some_and(record::is_lock);
    (!was_lock).then(|| KeyVersion::deleted(record::version(change.record.version)))
}

async fn read_at(env: &Env, deadline: Deadline, name: &str, at: i64) -> Result<Option<Record>> {
    let mut read = Read::new(Range::one(name));
    read.revision = at;
    Ok(env.client.read(deadline, &read).await?.records.into_iter().next())
}

impl EtcdStore {
    async fn get_at(&self, key: &Key, at: Version, options: CallOptions) -> Result<Option<Entry>> {
        let env = self.env();
        env.check_open()?;
        let (deadline, at) = (env.deadline(options.timeout), revision(at)?);
        let name = env.namespace.native(key);
        match read_at(env, deadline, &name, at).await {
            Ok(found) => Ok(found.and_then(|found| record::entry(&env.namespace, found))),
            Err(failed) => Err(told(env, deadline, name.as_bytes(), at, failed).await),
        }
    }

    async fn list_at(&self, prefix: &Prefix, at: Version, options: ListOptions) -> Result<Listing> {
        let env = self.env();
        env.capabilities.admit_list_at(prefix.as_str(), &options)?;
        env.check_open()?;
        let (deadline, at) = (env.deadline(options.timeout), revision(at)?);
        match ops::list(env, prefix, options, at).await {
            Ok(listing) => Ok(listing),
            Err(failed) => {
                let below = Range::below(&env.namespace.native_prefix(prefix));
                Err(told(env, deadline, &below.start, at, failed).await)
            }
        }
    }

    async fn versions(&self, key: &Key, options: VersionsOptions) -> Result<Vec<KeyVersion>> {
        let env = self.env();
        env.check_open()?;
        let deadline = env.deadline(options.timeout);
        let name = env.namespace.native(key);
        let page = env.client.read(deadline, &Read::new(Range::one(name.as_str()))).await?;
        let present = page.records.into_iter().next();
        let until = match &present {
            Some(record) => Until::Revision(record.version),
            None => {
                let version = env.client.version(deadline).await?;
                if !tells_the_end(&version) {
                    let reason = format!(
                        "the versions of a key that is absent: etcd {version} does not say when it has told \
                         everything (3.4.25 and 3.5.8 do)"
                    );
                    return Err(Error::unsupported(reason));
                }
                Until::Told
            }
        };
        let (mut start, mut base) = (FIRST, None);
        for _ in 0..ATTEMPTS {
            match changes(env, deadline, name.as_bytes(), start, until, options.limit).await? {
                Told::Changes(changes) => {
                    let changes = changes.into_iter().filter_map(|change| key_version(env, change));
                    let base = base.and_then(|record| record::entry(&env.namespace, record));
                    let all: Vec<_> = base.map(KeyVersion::put).into_iter().chain(changes).collect();
                    let skipped = options.limit.map_or(0, |limit| all.len().saturating_sub(limit));
                    return Ok(all.into_iter().skip(skipped).collect());
                }
                Told::Compacted(oldest) => {
                    base = match read_at(env, deadline, &name, oldest).await {
                        // Compacted again meanwhile: the next round is told.
                        Err(error) if error::compacted(&error) => continue,
                        found => found?,
                    };
                    if let (Some(base), Some(present)) = (&base, &present)
                        && base.version == present.version
                    {
                        let entry = record::entry(&env.namespace, base.clone());
                        let only = entry.map(KeyVersion::put).filter(|_| options.limit != Some(0));
                        return Ok(only.into_iter().collect());
                    }
                    start = oldest.saturating_add(1);
                }
            }
        }
        Err(Error::new(ErrorKind::Compacted { oldest: None })
            .with_detail("history is compacted faster than it can be read"))
    }

    async fn compact(&self, up_to: Version, options: CallOptions) -> Result<Version> {
        let env = self.env();
        env.check_open()?;
        let (deadline, up_to) = (env.deadline(options.timeout), revision(up_to)?);
        // A name of ours, whether it exists or not.
        let below = env.namespace.native_prefix(&Prefix::root());
        let name = Range::below(&below).start;
        let compacted = if up_to > FIRST {
            env.client.compact(deadline, up_to).await
        } else {
            // There is nothing before it, and the answer is what such a compaction would be given.
            let mut read = Read::new(Range::one(name.as_slice()));
            read.revision = FIRST;
            env.client.read(deadline, &read).await.map(drop)
        };
        match compacted {
            Ok(()) => Ok(record::version(up_to)),
            Err(failed) if error::compacted(&failed) => {
                let oldest = oldest(env, deadline, &name).await.map_err(Error::not_applied)?;
                Ok(record::version(oldest))
            }
            Err(failed) if error::is_future(&failed) => {
                Err(Error::invalid_argument(format!("the version {up_to} is yet to come"))
                    .with_source(failed))
            }
            Err(failed) => Err(failed),
        }
    }
}

#[async_trait]
impl History for EtcdStore {
    async fn get_at_with(&self, key: &Key, at: Version, options: CallOptions) -> Result<Option<Entry>> {
        self.get_at(key, at, options).await.map_err(about(Operation::GetAt, key.as_str()))
    }

    async fn list_at_with(&self, prefix: &Prefix, at: Version, options: ListOptions) -> Result<Listing> {
        self.list_at(prefix, at, options).await.map_err(about(Operation::ListAt, prefix.as_str()))
    }

    async fn versions_with(&self, key: &Key, options: VersionsOptions) -> Result<Vec<KeyVersion>> {
        self.versions(key, options).await.map_err(about(Operation::Versions, key.as_str()))
    }

    async fn compact_with(&self, up_to: Version, options: CallOptions) -> Result<Version> {
        let compacted = self.compact(up_to, options).await;
        compacted.map_err(|error| error.with_operation(Operation::Compact).with_backend(BACKEND))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn old_servers_are_told_by_their_version() {
        for version in ["3.4.25", "3.5.8", "3.5.16", "3.6.0", "3.6.12-rc.1", "4.0.0"] {
            assert!(tells_the_end(version), "{version}");
        }
        for version in ["3.4.24", "3.5.7", "3.3.99", "", "x"] {
            assert!(!tells_the_end(version), "{version}");
        }
    }
}
