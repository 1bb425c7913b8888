//! A watch of all register keys with their state, noted event by event. When everything stands still
//! its state is compared with a list.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use kv_any::kv_core::{Prefix, StoreExt, WatchEvent, WatchOptions, WatchTarget};

use super::caller::{Caller, seen};
use super::work::Work;
use crate::history::{Event, Note, Seen, now};

/// How long the last events may take to arrive after everything stands still.
const SETTLE: Duration = Duration::from_secs(30);

pub(super) async fn run(work: Arc<Work>, caller: Caller) -> Result<()> {
    let prefix: Prefix = "reg".parse()?;
    let mut watch_number = 0;
    'opened: loop {
        watch_number += 1;
        let options = WatchOptions::default().with_initial();
        let Ok(mut watch) = caller.store().watch_with(WatchTarget::below(prefix.clone()), options).await
        else {
            tokio::time::sleep(Duration::from_millis(200)).await;
            continue;
        };
        let mut state = BTreeMap::new();
        let mut fresh = None;
        let mut settle_by = None;
        loop {
            match tokio::time::timeout(Duration::from_millis(100), watch.next()).await {
                Ok(Some(Ok(event))) => {
                    let event = note_of(&event)?;
                    fold(&mut state, &mut fresh, &event);
                    let note = Note::Watched { watch: watch_number, event };
                    caller.recorder().note(caller.client(), now(), note)?;
                }
                // An outage ends no watch; what ends one is told, and a new one begins with the state.
                Ok(Some(Err(_)) | None) => continue 'opened,
                Err(_) => {
                    if !work.settled.load(Ordering::Relaxed) {
                        continue;
                    }
                    let by = *settle_by.get_or_insert_with(|| Instant::now() + SETTLE);
                    let differences = differences(&caller, &state).await?;
                    if differences.is_empty() || Instant::now() > by {
                        let note = Note::Settled { watch: watch_number, differences };
                        return caller.recorder().note(caller.client(), now(), note);
                    }
                }
            }
        }
    }
}

fn note_of(event: &WatchEvent) -> Result<Event> {
    Ok(match event {
        WatchEvent::Put(entry) => Event::Put { key: entry.key.to_string(), seen: seen(entry)? },
        WatchEvent::Delete(deleted) => Event::Delete {
            key: deleted.key.to_string(),
            version: deleted.version.map(kv_any::kv_core::Version::get),
        },
        WatchEvent::Resync => Event::Resync,
        WatchEvent::Synced => Event::Synced,
        other => bail!("an event that the campaign does not know: {other:?}"),
    })
}

type State = BTreeMap<String, Seen>;

/// The fold that docs/semantics.md describes, written a second time: the store's own is under test.
fn fold(state: &mut State, fresh: &mut Option<State>, event: &Event) {
    match event {
        Event::Resync => *fresh = Some(State::new()),
        Event::Synced => {
            if let Some(fresh) = fresh.take() {
                *state = fresh;
            }
        }
        Event::Put { key, seen } => {
            fresh.as_mut().unwrap_or(state).insert(key.clone(), *seen);
        }
        Event::Delete { key, .. } => {
            fresh.as_mut().unwrap_or(state).remove(key);
        }
    }
}

async fn differences(caller: &Caller, state: &State) -> Result<Vec<String>> {
    let entries = match caller.store().entries("reg").await {
        Ok(entries) => entries,
        Err(error) => return Ok(vec![format!("no list: {error}")]),
    };
    let mut differences = Vec::new();
    let mut listed = State::new();
    for entry in &entries {
        listed.insert(entry.key.to_string(), seen(entry)?);
    }
    for (key, seen) in &listed {
        if state.get(key) != Some(seen) {
            differences.push(format!("{key}: the list has {seen:?}, the watch {:?}", state.get(key)));
        }
    }
    for key in state.keys().filter(|key| !listed.contains_key(*key)) {
        differences.push(format!("{key}: the watch has it, the list does not"));
    }
    differences.truncate(10);
    Ok(differences)
}
