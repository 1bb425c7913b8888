//! One group of writes: carried out on a stage, applied as one batch, flushed once, then shown.

use std::collections::VecDeque;
use std::ops::Bound;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use kv_backend::{Clock, Timestamp};
use kv_core::{DeleteCause, Error, ErrorKind, Result};
use tokio::time::Instant;

use crate::client::Client;
use crate::commit::{Committer, Failure, Purge, RETRY, Request};
use crate::config::Durability;
use crate::lock::{Fences, Frozen};
use crate::record::space;
use crate::space::Room;
use crate::stage::{HistoryBounds, Prepared, Stage, look_up};
use crate::txn::{Outcome, Write, carry_out};
use crate::view::MAX_BEHIND;

/// A group is full when it writes so much: short of a segment of the log, so that one flush never
/// covers more than sled keeps apart.
const MAX_BYTES: usize = 1 << 20;

/// How many expired entries go in one group.
const MAX_EXPIRED: usize = 1024;

/// How many entries of a deleted subtree are removed in one group.
const MAX_PURGED: usize = 512;

/// History is let go in steps of this many changes: each step reads them first.
const TRIM_STEP: u64 = 64;

/// The most bytes of history: keys, values before and after each change.
const MAX_HISTORY_WEIGHT: u64 = 64 << 20;

type Answers = Vec<(Request, Result<Outcome>)>;

impl Committer {
    /// Removes what a process that died left behind: its session keys, and what expired meanwhile. And
    /// reserves numbers, so that none of the last process's is given out again.
    pub(crate) fn take_over(&mut self) -> Result<()> {
        loop {
            let client = self.view.client()?;
            let now = self.locks.clock().now();
            let room = self.room(&client)?;
            let mut stage = stage!(self, client, now, room);
            let mut gone = look_up(&client, space::SESSION, 0, u64::MAX, MAX_EXPIRED)?;
            gone.extend(look_up(&client, space::EXPIRY, 0, whole_millis(now), MAX_EXPIRED)?);
            let found = gone.len();
            let gone = stage.indexed(gone)?;
            stage.room().take_for_deletes(gone.len())?;
            for (name, live) in gone {
                stage.delete(&name, live, DeleteCause::Expired)?;
            }
            let prepared = stage.prepare();
            self.commit(prepared)?;
            if found == 0 {
                break;
            }
        }
        self.flush()?;
        self.counter.reserved(self.meta.ceiling);
        Ok(())
    }

    /// Carries out the first requests, `max` at most. An error means that nothing can be written any
    /// more.
    pub(crate) fn group(&mut self, requests: &mut VecDeque<Request>, max: usize) -> Result<()> {
        let client = self.view.client()?;
        let room = match self.room(&client) {
            Ok(room) => room,
            Err(error) => {
                let failure = Failure::of(&error);
                requests.drain(..).for_each(|request| request.answer(Err(failure.unknown().not_applied())));
                return Ok(());
            }
        };
        let locks = Arc::clone(&self.locks);
        let now = locks.clock().now();
        let due = self.next_expiry()?.is_some_and(|first| first <= now);
        let mut stage = stage!(self, client, now, room);
        let mut expiry_put_off = None;
        // A subtree can be deleted only where nothing else is on the stage.
        let tree_first =
            requests.front().is_some_and(|first| matches!(first.write, Write::DeleteTree { .. }));
        if !tree_first {
            if due && !expire(&mut stage, now)? {
                // Without space they stay for now.
                expiry_put_off = Some(now.after(RETRY));
            }
            purge(&mut stage, room, &mut self.purge)?;
        }

        let fenced = requests.iter().take(max).any(|request| !matches!(request.fence, Fences::None));
        // A fence must hold until the write is visible: else the next holder could look in between.
        let frozen = fenced.then(|| locks.freeze());
        let mut answers = Answers::new();
        while answers.len() < max && stage.bytes() < MAX_BYTES {
            let Some(request) = requests.pop_front() else { break };
            if request.is_abandoned() {
                continue;
            }
            let is_tree = matches!(request.write, Write::DeleteTree { .. });
            if is_tree && !stage.is_empty() {
                requests.push_front(request);
                break;
            }
            if !is_held(&request.fence, frozen.as_ref()) {
                answers.push((request, Err(ErrorKind::NotHeld.into())));
                continue;
            }
            match carry_out(&request.write, &mut stage) {
                Ok(result) => answers.push((request, result)),
                Err(error) => {
                    drop(stage);
                    drop(frozen);
                    return self.one_by_one(requests, answers, request, error);
                }
            }
            if is_tree {
                break;
            }
        }

        let done = match trim(&mut stage, room, self.view.pins().oldest(), self.config.history as u64) {
            Ok(()) if stage.is_empty() && !self.counter.is_low() => Ok(()),
            Ok(()) => {
                let prepared = stage.prepare();
                self.commit(prepared)
            }
            Err(error) => Err(error),
        };
        if expiry_put_off.is_some() {
            self.next_expiry = Some(expiry_put_off);
        }
        drop(frozen);
        self.answer(answers, &done);
        done
    }

    /// Answers a group that was carried out, or that failed as a whole.
    fn answer(&self, answers: Answers, done: &Result<()>) {
        let failure = done.as_ref().err().map(Failure::of);
        for (request, result) in answers {
            let Some(failure) = &failure else {
                if let (Write::DeleteTree { prefix }, Ok(_)) = (&request.write, &result) {
                    self.locks.remove_tree(prefix);
                }
                request.answer(result);
                continue;
            };
            // What was refused was refused on the ground of writes that may not be.
            let error = failure.unknown();
            request.answer(Err(if result.is_ok() { error } else { error.not_applied() }));
        }
    }

    /// After a write spoilt the stage: each for itself, so that one damaged entry fails one write.
    fn one_by_one(
        &mut self,
        requests: &mut VecDeque<Request>,
        before: Answers,
        spoiler: Request,
        error: Error,
    ) -> Result<()> {
        if before.is_empty() {
            spoiler.answer(Err(error.not_applied()));
            return Ok(());
        }
        let mut again: VecDeque<Request> = before.into_iter().map(|(request, _)| request).collect();
        again.push_back(spoiler);
        while !again.is_empty() {
            if let Err(error) = self.group(&mut again, 1) {
                again.append(requests);
                *requests = again;
                return Err(error);
            }
        }
        Ok(())
    }

    /// Applies a group, makes it as durable as promised, shows it and publishes it.
    fn commit(&mut self, prepared: Prepared) -> Result<()> {
        let Prepared { batch, meta, before, changes, doomed } = prepared;
        let client = self.view.client()?;
        self.view.hide(before);
        client.apply(batch)?;
        // Numbers that are not reserved yet may not be seen before they are.
        let reserving = meta.version > self.counter.ceiling();
        if !matches!(self.config.durability, Durability::Interval(_)) || reserving {
            self.flush()?;
            self.counter.reserved(meta.ceiling);
        } else {
            self.dirty.get_or_insert_with(Instant::now);
        }
        self.view.show(&meta, doomed.clone());
        let version_before = std::mem::replace(&mut self.meta, meta).version;
        self.next_expiry = None;
        let mut count = changes.len() as u64;
        self.hub.publish(changes).wake();
        if let Some(doomed) = doomed {
            self.doomed = doomed;
            // A subtree that is new among them: it was alone in its group.
            if let Some(new) = self.doomed.last().filter(|doomed| doomed.last > version_before) {
                count = new.last - new.up_to;
                // Without watches only as many as the log holds, and one to begin it behind.
                let wanted = if self.hub.watches() > 0 { count } else { self.config.history as u64 + 1 };
                let skipped = count.saturating_sub(wanted);
                new.publish(&client, &self.hub, &mut self.namespaces, skipped)?;
            }
        }
        self.counts.changes.fetch_add(count, Ordering::Relaxed);
        client.reclaim();
        Ok(())
    }

    fn room(&self, client: &Client) -> Result<Room> {
        Room::measure(&self.dir, client.log_len()?, self.meta.bytes)
    }
}

/// A stage on what the committer has. A macro, as it borrows some of its fields and not others.
macro_rules! stage {
    ($committer:expr, $client:expr, $now:expr, $room:expr) => {
        Stage::new(
            &$client,
            &$committer.counter,
            &mut $committer.namespaces,
            $committer.doomed.clone(),
            $committer.meta.clone(),
            $now,
            $room,
        )
    };
}
use stage;

fn is_held(fence: &Fences, frozen: Option<&Frozen<'_>>) -> bool {
    match (fence, frozen) {
        (Fences::None, _) => true,
        (Fences::One(fence), Some(frozen)) => frozen.holds(fence),
        (Fences::One(_), None) | (Fences::Foreign, _) => false,
    }
}

/// Deletes what has expired. False if there is no space for it.
fn expire(stage: &mut Stage<'_>, now: Timestamp) -> Result<bool> {
    let due = look_up(stage.client(), space::EXPIRY, 0, whole_millis(now), MAX_EXPIRED)?;
    let due = stage.indexed(due)?;
    if stage.room().take_for_deletes(due.len()).is_err() {
        return Ok(false);
    }
    for (name, live) in due {
        stage.delete(&name, live, DeleteCause::Expired)?;
    }
    Ok(true)
}

/// Removes some of what a deleted subtree left.
fn purge(stage: &mut Stage<'_>, room: Room, purge: &mut Purge) -> Result<()> {
    let Some(doomed) = stage.doomed().first().cloned() else { return Ok(()) };
    if room.is_low() && stage.room().take_for_deletes(MAX_PURGED).is_err() {
        purge.not_before = Some(Instant::now() + RETRY);
        return Ok(());
    }
    purge.not_before = None;
    let behind = purge.behind.take();
    let from = behind.clone().map_or(Bound::Unbounded, Bound::Excluded);
    let remains = doomed.remains(stage.client(), from, MAX_PURGED)?;
    match remains.last() {
        Some((native, ..)) => purge.behind = Some(native.clone()),
        // Looked through once more from the beginning, in case a group in between came to nothing:
        // what is forgotten too early would live again.
        None if behind.is_some() => {}
        None => stage.undoom(&doomed),
    }
    for (native, record, stamp) in remains {
        stage.purge(&native, &record, stamp);
    }
    Ok(())
}

/// Keeps history within its bounds, but not what a list still needs, unless that is far too much. On
/// a full disk nothing of it is kept.
fn trim(stage: &mut Stage<'_>, room: Room, pinned: Option<u64>, history: u64) -> Result<()> {
    let bounds = if room.is_low() {
        HistoryBounds { events: 0, weight: 0 }
    } else {
        HistoryBounds { events: history, weight: MAX_HISTORY_WEIGHT }
    };
    let meta = stage.meta();
    let over = meta.events.saturating_sub(bounds.events);
    let worth_it = over >= TRIM_STEP || meta.weight > bounds.weight || meta.floor < meta.horizon;
    let max = if room.is_low() { 16 } else { 256 + 2 * stage.changes() };
    if !worth_it || room.is_low() && stage.room().take_for_deletes(max).is_err() {
        return Ok(());
    }
    let pinned = pinned.filter(|pinned| over < MAX_BEHIND && *pinned >= stage.meta().horizon);
    stage.trim(bounds, max, stage.committed().min(pinned.unwrap_or(u64::MAX)))
}

/// Deadlines are on disk in milliseconds, rounded up: what is due at `now` is so at its millisecond.
fn whole_millis(now: Timestamp) -> u64 {
    u64::try_from(now.since_epoch().as_millis()).unwrap_or(u64::MAX)
}
