//! Watches: in the order of versions, without doubles, complete where the store declares it, and after
//! every gap the whole state.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use super::findings::Findings;
use crate::history::{Answer, Call, Client, Event, History, Note};

/// The state of one watch as the checker follows it.
#[derive(Default)]
struct Followed {
    /// The version of the last event of each key.
    last: HashMap<String, u64>,
    /// Every version that was delivered.
    delivered: BTreeSet<u64>,
    /// Set between a Resync and its Synced: the keys that were named.
    resync: Option<BTreeSet<String>>,
    /// The greatest version up to the last Resync: changes before it may have been merged.
    whole_since: Option<u64>,
    greatest: u64,
}

pub(super) fn check(history: &History, findings: &mut Findings) {
    let mut watches: BTreeMap<(Client, u32), Followed> = BTreeMap::new();
    for noted in &history.notes {
        match &noted.note {
            Note::Watched { watch, event } => {
                let name = (noted.client, *watch);
                let followed = watches.entry(name).or_default();
                follow(followed, event, &format!("watch {watch} of {:?}", noted.client), noted.at, findings);
            }
            Note::Settled { watch, differences } => {
                for difference in differences {
                    findings.add(
                        "watch does not tell the state",
                        noted.at,
                        format!("watch {watch} of {:?}: {difference}", noted.client),
                    );
                }
            }
            _ => {}
        }
    }
    if history.promises.watch_complete {
        check_complete(history, &watches, findings);
    }
}

fn follow(followed: &mut Followed, event: &Event, name: &str, at: u64, findings: &mut Findings) {
    match event {
        Event::Resync => {
            if followed.resync.is_some() {
                // A second gap while the first is being told.
                followed.resync = Some(BTreeSet::new());
                return;
            }
            followed.resync = Some(BTreeSet::new());
        }
        Event::Synced => {
            if let Some(named) = followed.resync.take() {
                followed.last.retain(|key, _| named.contains(key));
                followed.whole_since = None;
            }
            followed.whole_since.get_or_insert(followed.greatest);
        }
        Event::Put { key, seen } => {
            let resync = followed.resync.as_mut();
            let in_resync = resync.is_some();
            if let Some(named) = resync
                && !named.insert(key.clone())
            {
                findings.add("watch doubles", at, format!("{name}: {key} twice in one state"));
            }
            progress(followed, key, seen.version, in_resync, name, at, findings);
        }
        Event::Delete { key, version } => {
            if let Some(version) = version {
                progress(followed, key, *version, false, name, at, findings);
            }
        }
    }
}

fn progress(
    followed: &mut Followed,
    key: &str,
    version: u64,
    in_resync: bool,
    name: &str,
    at: u64,
    findings: &mut Findings,
) {
    if let Some(last) = followed.last.get(key).copied() {
        if version < last {
            let rule = if in_resync { "resync goes back" } else { "watch in disorder" };
            findings.add(rule, at, format!("{name}: {key} at version {version}, after {last}"));
        } else if version == last && !in_resync {
            findings.add("watch doubles", at, format!("{name}: {key} at version {version} again"));
        }
    }
    followed.last.insert(key.to_owned(), version);
    followed.delivered.insert(version);
    followed.greatest = followed.greatest.max(version);
}

/// Of the writes that were acknowledged, none whose version lies between the last state that was told
/// and the last event is missing.
fn check_complete(history: &History, watches: &BTreeMap<(Client, u32), Followed>, findings: &mut Findings) {
    let mut written: Vec<(u64, &str, u64)> = Vec::new();
    for op in &history.ops {
        if let (Call::Put { key, .. }, Some(Answer::Put { version })) = (&op.call, &op.answer)
            && key.starts_with("reg/")
        {
            written.push((*version, key, op.end_or_never()));
        }
    }
    for ((client, watch), followed) in watches {
        let Some(since) = followed.whole_since else { continue };
        for (version, key, at) in &written {
            if *version > since && *version < followed.greatest && !followed.delivered.contains(version) {
                findings.add(
                    "watch misses a change",
                    *at,
                    format!(
                        "watch {watch} of {client:?}: nothing of {key} at version {version}, though it told \
                         of version {}",
                        followed.greatest
                    ),
                );
            }
        }
    }
}
