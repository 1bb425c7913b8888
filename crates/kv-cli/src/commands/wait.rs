//! `kv wait`: until a key is as it should be.

use std::ops::ControlFlow;

use bytes::Bytes;
use kv_core::{Entry, Operation, StoreExt, WatchEvent, WatchOptions};

use crate::cli::{Awaited, Wait};
use crate::exit::{self, Failure};
use crate::output::{Format, JsonEntry, Output, duration, say};
use crate::session::Session;

/// What is waited for.
enum Goal {
    Present,
    Absent,
    Value(Bytes),
    After(kv_core::Version),
}

impl Goal {
    fn new(state: Awaited) -> Self {
        match state {
            Awaited { absent: true, .. } => Self::Absent,
            Awaited { value: Some(value), .. } => Self::Value(value.into()),
            Awaited { after: Some(version), .. } => Self::After(version),
            _ => Self::Present,
        }
    }

    fn is_reached(&self, state: Option<&Entry>) -> bool {
        match (self, state) {
            (Self::Absent, state) => state.is_none(),
            (Self::Present, state) => state.is_some(),
            (Self::Value(value), Some(entry)) => entry.value == value,
            (Self::After(version), Some(entry)) => entry.version > *version,
            (Self::Value(_) | Self::After(_), None) => false,
        }
    }
}

pub(crate) async fn run(session: &Session, args: Wait) -> Result<(), Failure> {
    let key = super::key(&args.key, Operation::Watch)?;
    let goal = Goal::new(args.state);
    let mut options = WatchOptions::default().with_initial();
    options.timeout = session.timeout();
    let store = session.store().await?;

    let (mut state, mut complete) = (None::<Entry>, false);
    let mut told = !session.is_for_one_process();
    let step = |event: WatchEvent| {
        match event {
            WatchEvent::Put(entry) => state = Some(entry),
            WatchEvent::Delete(_) => state = None,
            WatchEvent::Resync => (state, complete) = (None, false),
            WatchEvent::Synced => complete = true,
            _ => {}
        }
        if complete && goal.is_reached(state.as_ref()) {
            return ControlFlow::Break(());
        }
        if complete && !told {
            told = true;
            say(
                "kv: warning: while kv waits, no other process can use this store, so that only an expiry can end \
                 the wait; for several processes use a server: etcd, Consul or ZooKeeper",
            );
        }
        ControlFlow::Continue(())
    };
    let waited = store.watch_each(key.clone().into(), options, step);
    let waited = session.request(Operation::Watch, key.as_str(), waited);
    let in_time = match args.wait {
        None => Some(waited.await),
        Some(wait) => tokio::time::timeout(wait, waited).await.ok(),
    };
    let Some(ended) = in_time else {
        let waited = duration(args.wait.unwrap_or_default());
        let now = match &state {
            _ if !complete => "its state is not known".to_owned(),
            Some(entry) => format!("it is at version {}", entry.version),
            None => "it does not exist".to_owned(),
        };
        return Err(Failure::Incomplete {
            message: format!("wait {key:?}: {now}, after {waited}"),
            code: exit::TIMEOUT,
        });
    };
    ended?;
    let mut out = Output::stdout();
    if let (Some(Format::Json | Format::Jsonl), Some(entry)) = (session.output(), &state) {
        out.json(&JsonEntry::full(entry))?;
    }
    out.flush()
}
