//! What watchers of a table are told, and what they cost.

use std::task::{Poll, Waker};

use bytes::Bytes;
use kv_core::FencingToken;

use super::{LockRequest, LockTable};
use crate::clock::Timestamp;
use crate::handle::HandleId;
use crate::lock_feed::{HolderFeed, MAX_WAITING};

const NOW: Timestamp = Timestamp::from_millis(1000);

fn acquire(table: &mut LockTable, token: u64) {
    let owner = Bytes::from_static(b"me");
    let request = LockRequest { name: "a".into(), owner, handle: HandleId::unique(), max_hold: None };
    table.try_acquire(request, FencingToken::new(token), NOW).1.wake();
}

fn tokens(feed: &HolderFeed) -> Vec<Option<u64>> {
    let mut tokens = Vec::new();
    while let Poll::Ready(change) = feed.poll(Waker::noop()) {
        tokens.push(change.unwrap().map(|holder| holder.token.get()));
    }
    tokens
}

#[test]
fn holders_and_vacancies_are_told_in_their_order() {
    let mut table = LockTable::new();
    let feed = table.watch("a".into(), HandleId::unique());
    acquire(&mut table, 1);
    table.release("a", FencingToken::new(1), NOW).1.wake();
    acquire(&mut table, 2);
    assert_eq!(tokens(&feed), [None, Some(1), None, Some(2)]);
    assert!(!table.remove("a", FencingToken::new(1), NOW).0, "an old token must break nothing");
    assert!(table.remove("a", FencingToken::new(2), NOW).0);
    assert_eq!(tokens(&feed), [None]);
}

#[test]
fn a_consumer_that_does_not_read_costs_bounded_memory_and_gets_the_last_state() {
    let mut table = LockTable::new();
    let feed = table.watch("a".into(), HandleId::unique());
    let last = 1000;
    for token in 1..=last {
        acquire(&mut table, token);
        table.release("a", FencingToken::new(token), NOW).1.wake();
    }
    let tokens = tokens(&feed);
    assert_eq!(tokens.len(), MAX_WAITING);
    assert_eq!(tokens[tokens.len() - 2..], [Some(last), None]);
}

#[test]
fn a_watch_that_is_dropped_leaves_nothing_behind() {
    let mut table = LockTable::new();
    let [first, second] = [(), ()].map(|()| table.watch("a".into(), HandleId::unique()));
    table.unwatch("a", &first);
    acquire(&mut table, 1);
    assert_eq!(tokens(&second), [None, Some(1)]);
    table.unwatch("a", &second);
    table.release("a", FencingToken::new(1), NOW).1.wake();
    assert!(table.is_idle());
}
