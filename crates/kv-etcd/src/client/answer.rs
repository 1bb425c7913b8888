//! Whether an answer can be true: a server may send anything, and what it says is taken as data only
//! where it fits what was asked.

use std::collections::HashSet;

use kv_core::Result;

use super::wire::{Change, Name, Order, Range, Read, Record};
use crate::error::nonsense;

/// The revision of a header. Every store has had one.
pub(super) fn revision(told: i64) -> Result<i64> {
    if told > 0 { Ok(told) } else { Err(nonsense("a revision that is not positive")) }
}

/// What a read of a state at `revision` found.
pub(super) fn records(read: &Read, revision: i64, records: &[Record]) -> Result<()> {
    if read.limit > 0 && records.len() as u64 > read.limit.unsigned_abs() {
        return Err(nonsense("more keys than were asked for"));
    }
    let latest = if read.revision > 0 { read.revision } else { revision };
    for record in records {
        self::record(&read.range, latest, record)?;
        if read.created_before > 0 && record.created >= read.created_before {
            return Err(nonsense("a key that was created too late to be asked for"));
        }
    }
    let in_order = match read.order {
        None => records.is_sorted_by(|a, b| a.name < b.name),
        Some(Order::OldestFirst) => records.is_sorted_by_key(|record| record.created),
        Some(Order::NewestFirst) => records.is_sorted_by(|a, b| a.created >= b.created),
    };
    if !in_order || (read.order.is_some() && repeats(records.iter().map(|record| &record.name))) {
        return Err(nonsense("keys out of order"));
    }
    Ok(())
}

/// One record of a range, in a state at `latest`.
pub(super) fn record(range: &Range, latest: i64, record: &Record) -> Result<()> {
    if !range.contains(&record.name) {
        return Err(nonsense("a key that was not asked for"));
    }
    if !(1..=record.version).contains(&record.created) || record.version > latest {
        return Err(nonsense("a key with revisions that cannot be"));
    }
    Ok(())
}

/// The changes of one message to a watch of this range.
pub(crate) fn changes(range: &Range, changes: &[Change]) -> Result<()> {
    for Change { deleted, record, previous } in changes {
        let created = if *deleted { record.version } else { record.created };
        self::record(range, i64::MAX, &Record { created, ..bare(record) })?;
        if let Some(previous) = previous {
            let own = Range::one(record.name.clone());
            self::record(&own, record.version.saturating_sub(1), &bare(previous))?;
        }
    }
    if !changes.is_sorted_by_key(|change| change.record.version) {
        return Err(nonsense("changes out of order"));
    }
    for together in changes.chunk_by(|a, b| a.record.version == b.record.version) {
        if together.len() > 1 && repeats(together.iter().map(|change| &change.record.name)) {
            return Err(nonsense("a change twice"));
        }
    }
    Ok(())
}

/// The record without its value, which costs nothing to copy then.
fn bare(record: &Record) -> Record {
    Record { name: record.name.clone(), value: bytes::Bytes::new(), ..*record }
}

fn repeats<'a>(mut names: impl Iterator<Item = &'a Name>) -> bool {
    let mut seen = HashSet::new();
    !names.all(|name| seen.insert(name))
}
