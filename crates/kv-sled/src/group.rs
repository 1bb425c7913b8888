//! One group of writes: carried out on a stage, applied as one batch, flushed once, then shown.

use std::collections::VecDeque;
use std::ops::Bound;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use kv_backend::{Clock, Timestamp};
use kv_core::{DeleteCause, Error, ErrorKind, Result, Version};
use tokio::time::Instant;

use crate::client::{Client, SEGMENT};
use crate::commit::{Committer, Failure, Purge, RETRY, Request};
use crate::config::Durability;
use crate::lock::{Fences, Frozen};
use crate::open::CLEAN_EVERY;
use crate::record::space;
use crate::space::Room;
use crate::stage::{HistoryBounds, Indexed, Prepared, Stage, look_up, no_space};
use crate::txn::{Outcome, Write, carry_out};
use crate::view::MAX_BEHIND;

/// A group is full when it writes so much: short of a segment of the log, so that one flush never
/// covers more than sled keeps apart.
const MAX_BYTES: usize = 1 << 20;

/// How many expired entries go in one group.
pub(crate) const MAX_EXPIRED: usize = 1024;

/// How many entries of a deleted subtree are removed in one group.
const MAX_PURGED: usize = 512;

/// History is let go in steps of this many changes: each step reads them first.
const TRIM_STEP: u64 = 64;

/// How soon more of the history is let go on a disk that is nearly full, where nobody writes.
const TRIM_PAUSE: Duration = Duration::from_millis(10);

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
            let sessions = look_up(&client, space::SESSION, 0, u64::MAX, MAX_EXPIRED)?;
            let found = !sessions.is_empty();
            if delete_some(&mut stage, sessions)? == 0 && found {
                return Err(no_space(
                    "the disk is full, and the session keys of the process before cannot be removed",
                ));
            }
            // What expired is seen by no get: without space it can stay for now.
            expire(&mut stage, now)?;
            let done = stage.is_empty();
            let prepared = stage.prepare();
            self.commit(prepared)?;
            if done {
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
                for request in requests.drain(..) {
                    self.reply(request, Err(failure.unknown().not_applied()));
                }
                return Ok(());
            }
        };
        let locks = Arc::clone(&self.locks);
        let now = locks.clock().now();
        let due = self.next_expiry()?.is_some_and(|first| first <= now);
        let mut stage = stage!(self, client, now, room);
        let mut expiry_put_off = None;
        if !requests.front().is_some_and(|first| first.write.goes_first()) {
            if due {
                expire(&mut stage, now)?;
                if stage.is_empty() {
                    // Without space they stay for now.
                    expiry_put_off = Some(now.after(RETRY));
                }
            }
            purge(&mut stage, room, &mut self.purge)?;
        }

        let fenced = requests.iter().take(max).any(|request| !matches!(request.fence, Fences::None));
        // A fence must hold until the write is visible: else the next holder could look in between.
        let frozen = fenced.then(|| locks.freeze());
        let mut answers = Answers::new();
        while answers.len() < max && stage.bytes() < MAX_BYTES && !stage.is_heavy() {
            let Some(request) = requests.pop_front() else { break };
            if request.is_abandoned() {
                continue;
            }
            let is_tree = matches!(request.write, Write::DeleteTree { .. });
            if request.write.goes_first() && !stage.is_empty() {
                requests.push_front(request);
                break;
            }
            if !is_held(&request.fence, frozen.as_ref()) {
                answers.push((request, Err(Error::not_held(None))));
                continue;
            }
            // Its end may have been carried out already: nobody would remove the key.
            let is_open = |session| match &frozen {
                Some(frozen) => frozen.is_open(session),
                None => locks.is_open(session),
            };
            if request.write.session().is_some_and(|session| !is_open(session)) {
                answers.push((request, Err(ErrorKind::Closed.into())));
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

        let trimmed = trim(&mut stage, room, self.view.pins().oldest(), self.config.history as u64);
        let let_go = trimmed.as_ref().is_ok_and(|some| *some);
        let done = match trimmed {
            Ok(_) if stage.is_empty() && !self.counter.is_low() => Ok(()),
            Ok(_) => {
                let prepared = stage.prepare();
                self.commit(prepared)
            }
            Err(error) => Err(error),
        };
        if expiry_put_off.is_some() {
            self.next_expiry = Some(expiry_put_off);
        }
        // On a disk that is nearly full history goes to its end, also where nobody writes, and so does
        // everywhere what is no history any more.
        let is_left = self.meta.floor < self.meta.horizon;
        self.trim_at = (is_left || (room.is_low() && self.meta.events > 0))
            .then(|| Instant::now() + if let_go { TRIM_PAUSE } else { RETRY });
        drop(frozen);
        self.answer(requests, answers, &done);
        done
    }

    /// Answers a group that was carried out, or that failed as a whole. What has more to do goes in
    /// front of the requests again.
    fn answer(&mut self, requests: &mut VecDeque<Request>, answers: Answers, done: &Result<()>) {
        let failure = done.as_ref().err().map(Failure::of);
        for (request, result) in answers {
            let Some(failure) = &failure else {
                if let (Write::DeleteTree { prefix }, Ok(_)) = (&request.write, &result) {
                    self.locks.remove_tree(prefix);
                }
                match result {
                    Ok(Outcome::More) => requests.push_front(request),
                    result => self.reply(request, result),
                }
                continue;
            };
            // What was refused was refused on the ground of writes that may not be.
            let error = failure.unknown();
            self.reply(request, Err(if result.is_ok() { error } else { error.not_applied() }));
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
            self.reply(spoiler, Err(error.not_applied()));
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
        let Prepared { batch, meta, before, changes, doomed, compacted } = prepared;
        let client = self.view.client()?;
        self.view.hide(before, meta.floor);
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
        if let Some(up_to) = compacted {
            self.hub.compact(up_to);
        }
        if let Some(doomed) = doomed {
            self.doomed = doomed;
            // A subtree that is new among them: it was alone in its group.
            if let Some((new, earlier)) =
                self.doomed.split_last().filter(|(doomed, _)| doomed.last > version_before)
            {
                count = new.last - new.up_to;
                // Without watches only as many as the log holds.
                let wanted = if self.hub.watches() > 0 { count } else { self.config.history as u64 };
                let skipped = count.saturating_sub(wanted);
                if skipped > 0 {
                    self.hub.lose_all(Version::new(new.up_to + skipped)).wake();
                }
                let told = new.publish(&client, earlier, &self.hub, &mut self.namespaces, skipped);
                if let Err(error) = told {
                    // They are gone, and durably so: who watches reads what is left instead.
                    tracing::error!(dir = %self.dir.display(), %error, "what a deleted subtree held cannot be told");
                    self.hub.lose_all(Version::new(new.last)).wake();
                }
            }
        }
        self.counts.changes.fetch_add(count, Ordering::Relaxed);
        client.reclaim();
        Ok(())
    }

    fn room(&mut self, client: &Client) -> Result<Room> {
        let room = Room::measure(&self.dir, client.log_len()?, &self.meta)?;
        let segments = client.log_len()?.div_ceil(SEGMENT as u64);
        if !room.is_low() || segments <= std::mem::replace(&mut self.segments, segments) {
            return Ok(room);
        }
        // The log became longer: sled cleans up in the background, and must not fall behind.
        std::thread::sleep(CLEAN_EVERY);
        Room::measure(&self.dir, client.log_len()?, &self.meta)
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
            $committer.config.small_tree,
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

/// Deletes what has expired, or some of it.
fn expire(stage: &mut Stage<'_>, now: Timestamp) -> Result<()> {
    let due = look_up(stage.client(), space::EXPIRY, 0, whole_millis(now), MAX_EXPIRED)?;
    delete_some(stage, due)?;
    Ok(())
}

/// Deletes entries that an index found and whose time is over, as many as there is space and memory
/// for. Returns how many were dealt with.
pub(crate) fn delete_some(stage: &mut Stage<'_>, found: Vec<Indexed>) -> Result<usize> {
    let mut count = 0;
    for entry in found {
        if stage.is_heavy() || stage.room().take_for_removals(1) == 0 {
            break;
        }
        if let Some((name, live)) = stage.indexed(entry)? {
            stage.delete(&name, live, DeleteCause::Expired)?;
        }
        count += 1;
    }
    Ok(count)
}

/// Removes some of what a deleted subtree left.
fn purge(stage: &mut Stage<'_>, room: Room, purge: &mut Purge) -> Result<()> {
    let Some(doomed) = stage.doomed().first().cloned() else { return Ok(()) };
    let max = if room.is_low() { stage.room().take_for_removals(MAX_PURGED) } else { MAX_PURGED };
    if max == 0 {
        purge.not_before = Some(Instant::now() + RETRY);
        return Ok(());
    }
    purge.not_before = None;
    let behind = purge.behind.take();
    let from = behind.clone().map_or(Bound::Unbounded, Bound::Excluded);
    let remains = doomed.remains(stage.client(), from, max)?;
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
/// a full disk nothing of it is kept. Returns whether some was let go.
fn trim(stage: &mut Stage<'_>, room: Room, pinned: Option<u64>, history: u64) -> Result<bool> {
    let bounds = if room.is_low() {
        HistoryBounds { events: 0, weight: 0 }
    } else {
        HistoryBounds { events: history, weight: MAX_HISTORY_WEIGHT }
    };
    let meta = stage.meta();
    let over = meta.events.saturating_sub(bounds.events);
    let worth_it = over >= TRIM_STEP || meta.weight > bounds.weight || meta.floor < meta.horizon;
    if !worth_it {
        return Ok(false);
    }
    let (events, floor, horizon) = (meta.events, meta.floor, meta.horizon);
    let wanted = 256 + 2 * stage.changes();
    let max = match room.is_low() {
        false => wanted,
        true if floor < horizon => stage.room().take_for_removals(wanted),
        true => stage.room().take_for_trims(wanted),
    };
    let pinned = pinned.filter(|pinned| over < MAX_BEHIND && *pinned >= stage.meta().horizon);
    stage.trim(bounds, max, stage.committed().min(pinned.unwrap_or(u64::MAX)))?;
    Ok(stage.meta().events < events)
}

/// Deadlines are on disk in milliseconds, rounded up: what is due at `now` is so at its millisecond.
fn whole_millis(now: Timestamp) -> u64 {
    u64::try_from(now.since_epoch().as_millis()).unwrap_or(u64::MAX)
}
