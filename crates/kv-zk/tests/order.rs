//! A client crate hands answers on in another order than they came in: what is older than what is known
//! changes nothing.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // It is a test.
#![cfg(feature = "zookeeper-async")] // Only that crate hands answers on in another order.

mod common;
#[path = "common/fake.rs"]
mod fake;

use std::sync::Mutex;

use common::{next, open};
use fake::{Answer, Fake, GET_CHILDREN, GET_DATA, NO_NODE, RAW, Request, data_at, event, names, reply};
use kv_zk::kv_core::{Prefix, StoreExt, WatchEvent, WatchOptions};

const DELETED: i32 = 2;
const CHANGED: i32 = 3;
const CHILDREN: i32 = 4;

/// How the test's node `/t/k` and its parent stand, and what was asked and not answered.
#[derive(Default)]
struct State {
    made: i64,
    names: &'static [&'static str],
    held: Option<Vec<Vec<u8>>>,
}

impl State {
    fn answer(&mut self, request: &Request) -> Option<Vec<Answer>> {
        let stimulus =
            |frames: Vec<Vec<u8>>| Some(vec![(RAW, [frames.concat(), reply(NO_NODE, &[])].concat())]);
        let answer = match (request.op, request.path.as_str()) {
            // The node goes and comes back. Its parent's list is read in between, and answered with what
            // is read of the node after that.
            (GET_DATA, "/t/go") => {
                (self.made, self.names, self.held) = (9, &[], Some(Vec::new()));
                return stimulus(vec![event(CHILDREN, "/t"), event(DELETED, "/t/k")]);
            }
            (GET_DATA, "/t/came-back") => {
                self.names = &["k"];
                return stimulus(vec![event(CHILDREN, "/t")]);
            }
            (GET_DATA, "/t/end") => {
                self.made = 12;
                return stimulus(vec![event(CHANGED, "/t/k")]);
            }
            (GET_CHILDREN, "/t") => reply(0, &names(self.names)),
            (GET_CHILDREN, "/t/k") => reply(0, &names(&[])),
            (GET_DATA, "/t/k") => {
                let mut frames = self.held.take().unwrap_or_default();
                frames.push(reply(0, &data_at("x", self.made)));
                return Some(vec![(RAW, frames.concat())]);
            }
            _ => return None,
        };
        match &mut self.held {
            Some(held) => {
                held.push(answer);
                Some(Vec::new())
            }
            None => Some(vec![(RAW, answer)]),
        }
    }
}

/// Only zookeeper-async does that; the other crate looks to which request an answer is.
#[tokio::test(flavor = "multi_thread")]
async fn a_list_that_is_older_than_a_key_does_not_take_it_away() {
    if !common::is_tested("zookeeper-async") {
        return;
    }
    let state = Mutex::new(State { made: 5, names: &["k"], held: None });
    let fake = Fake::start(move |request| state.lock().unwrap().answer(request)).await;
    let store = open(&format!("zk://{}/t?client=zookeeper-async&session_timeout=40s", fake.address)).await;
    let mut watch = store.watch_with(Prefix::root(), WatchOptions::default().with_initial()).await.unwrap();
    let mut seen = Vec::new();
    let mut until = async |seen: &mut Vec<String>, last: &str| loop {
        seen.push(match next(&mut watch).await {
            WatchEvent::Put(entry) => format!("put {}", entry.version),
            other => format!("{other:?}"),
        });
        if seen.last().is_some_and(|seen| seen == last) {
            return;
        }
    };
    until(&mut seen, "Synced").await;
    for (stimulus, last) in [("go", Some("put 9")), ("came-back", None), ("end", Some("put 12"))] {
        assert_eq!(store.get(stimulus).await.unwrap(), None);
        if let Some(last) = last {
            until(&mut seen, last).await;
        }
    }
    assert_eq!(seen, ["put 5", "Synced", "put 9", "put 12"]);
}
