//! Answers, taken by value: a server may send anything, and what it says is taken as data only where it
//! fits what was asked.

use std::collections::HashSet;

use etcd_client::proto::{
    PbDeleteResponse, PbEvent, PbKeyValue, PbPutResponse, PbRangeResponse, PbResponseHeader, PbResponseOp,
    PbTxnOpResponse, PbTxnResponse,
};
use kv_core::Result;

use super::error::nonsense;
use super::wire::{Change, Done, Name, Order, Page, Range, Read, Record, Step, Tree, TreeDone};

/// The revision of a header. Every store has had one.
fn checked_revision(told: i64) -> Result<i64> {
    if told > 0 { Ok(told) } else { Err(nonsense("a revision that is not positive")) }
}

/// What a read of a state at `revision` found.
fn check_records(read: &Read, revision: i64, records: &[Record]) -> Result<()> {
    if read.limit > 0 && records.len() as u64 > read.limit.unsigned_abs() {
        return Err(nonsense("more keys than were asked for"));
    }
    let latest = if read.revision > 0 { read.revision } else { revision };
    for record in records {
        check_record(&read.range, latest, record)?;
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
fn check_record(range: &Range, latest: i64, record: &Record) -> Result<()> {
    if !range.contains(&record.name) {
        return Err(nonsense("a key that was not asked for"));
    }
    if !(1..=record.version).contains(&record.created) || record.version > latest {
        return Err(nonsense("a key with revisions that cannot be"));
    }
    Ok(())
}

/// The changes of one message to a watch of this range.
pub(crate) fn check_changes(range: &Range, changes: &[Change]) -> Result<()> {
    for Change { deleted, record, previous } in changes {
        let created = if *deleted { record.version } else { record.created };
        check_record(range, i64::MAX, &Record { created, ..bare(record) })?;
        if let Some(previous) = previous {
            let own = Range::one(record.name.clone());
            check_record(&own, record.version.saturating_sub(1), &bare(previous))?;
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

pub(super) fn record(native: PbKeyValue) -> Record {
    Record {
        name: native.key,
        value: native.value.into(),
        version: native.mod_revision,
        created: native.create_revision,
        lease: native.lease,
    }
}

fn revision(header: Option<PbResponseHeader>) -> Result<i64> {
    let header = header.ok_or_else(|| nonsense("an answer without a header"))?;
    checked_revision(header.revision)
}

pub(super) fn page(read: &Read, mut native: PbRangeResponse) -> Result<Page> {
    let revision = revision(native.header.take())?;
    page_at(read, revision, native)
}

fn page_at(read: &Read, revision: i64, native: PbRangeResponse) -> Result<Page> {
    let records: Vec<_> = native.kvs.into_iter().map(record).collect();
    check_records(read, revision, &records)?;
    Ok(Page { revision, more: native.more, records })
}

pub(super) fn tree_done(tree: &Tree, native: PbTxnResponse) -> Result<TreeDone> {
    let revision = revision(native.header)?;
    tree_done_at(tree, revision, native)
}

fn tree_done_at(tree: &Tree, revision: i64, native: PbTxnResponse) -> Result<TreeDone> {
    let succeeded = native.succeeded;
    let asked = if succeeded { &tree.then } else { &tree.or_else };
    if (tree.when.is_empty() && !succeeded) || native.responses.len() != asked.len() {
        return Err(nonsense("a transaction without the answers that were asked for"));
    }
    let steps = asked.iter().zip(native.responses).map(|(step, op)| done(step, op, revision));
    Ok(TreeDone { succeeded, steps: steps.collect::<Result<_>>()?, revision })
}

/// A put on its own, as a transaction of nothing else.
pub(super) fn put_done(native: PbPutResponse) -> Result<TreeDone> {
    Ok(TreeDone { succeeded: true, steps: vec![Done::Put], revision: revision(native.header)? })
}

/// A delete on its own, as a transaction of nothing else.
pub(super) fn deleted(range: &Range, mut native: PbDeleteResponse) -> Result<TreeDone> {
    let revision = revision(native.header.take())?;
    Ok(TreeDone { succeeded: true, steps: vec![delete_done(range, revision, native)?], revision })
}

fn delete_done(range: &Range, revision: i64, native: PbDeleteResponse) -> Result<Done> {
    let (deleted, previous) = (native.deleted, native.prev_kvs);
    let previous: Vec<_> = previous.into_iter().map(record).collect();
    let most = if range.end.is_none() { 1 } else { i64::MAX };
    if !(0..=most).contains(&deleted) || previous.len() as u64 > deleted.unsigned_abs() {
        return Err(nonsense("a number of deleted keys that cannot be"));
    }
    previous.iter().try_for_each(|record| check_record(range, revision, record))?;
    Ok(Done::Delete { deleted, previous })
}

/// The headers of the parts of a transaction carry no revision of their own on every version.
fn done(step: &Step, native: PbResponseOp, revision: i64) -> Result<Done> {
    let response = native.response.ok_or_else(|| nonsense("a transaction with an empty answer"))?;
    match (step, response) {
        (Step::Put { .. }, PbTxnOpResponse::ResponsePut(_)) => Ok(Done::Put),
        (Step::Read(read), PbTxnOpResponse::ResponseRange(range)) => {
            page_at(read, revision, range).map(Done::Read)
        }
        (Step::Delete { range, .. }, PbTxnOpResponse::ResponseDeleteRange(delete)) => {
            delete_done(range, revision, delete)
        }
        (Step::Branch(tree), PbTxnOpResponse::ResponseTxn(txn)) => {
            tree_done_at(tree, revision, txn).map(Done::Branch)
        }
        _ => Err(nonsense("another answer than that of its operation")),
    }
}

pub(super) fn change(native: PbEvent) -> Result<Change> {
    let deleted = match native.r#type {
        0 => false,
        1 => true,
        _ => return Err(nonsense("an event of an unknown kind")),
    };
    let kv = native.kv.ok_or_else(|| nonsense("an event without a key"))?;
    Ok(Change { deleted, record: record(kv), previous: native.prev_kv.map(record) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_answer_is_nonsense_and_no_panic() {
        let native = PbTxnResponse {
            header: Some(PbResponseHeader { revision: 1, ..PbResponseHeader::default() }),
            succeeded: true,
            responses: vec![PbResponseOp { response: None }],
        };
        let tree = Tree::always(vec![Step::Read(Read::new(Range::one("k")))]);
        assert_eq!(tree_done(&tree, native).unwrap_err().kind(), &kv_core::ErrorKind::Protocol);
        assert!(page(&Read::new(Range::one("k")), PbRangeResponse::default()).is_err());
        assert!(change(PbEvent { r#type: 7, ..PbEvent::default() }).is_err());
        assert!(change(PbEvent::default()).is_err());
    }
}
