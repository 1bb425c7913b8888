//! One handle, through which every call is noted in the history before it is made and after it is
//! answered.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::Result;
use kv_any::kv_core::{
    Applied, Bytes, DeleteOptions, Entry, Error, ErrorKind, Expiry, Fence, GetOptions, Key, Precondition,
    PutOptions, Store, StoreExt, Version,
};

use crate::history::{Answer, Call, Client, Life, Recorder, Seen, Value, When, now};

/// Values of a process are numbered from its number times this.
const VALUES_PER_PROCESS: u64 = 1 << 32;

/// A condition as it is sent, and as the history tells it.
#[derive(Clone, Copy)]
pub(super) enum Condition {
    Any,
    Absent,
    Present,
    At(Seen),
    Value(Seen),
}

impl Condition {
    fn when(self) -> When {
        match self {
            Self::Any => When::Any,
            Self::Absent => When::Absent,
            Self::Present => When::Present,
            Self::At(seen) => When::At(seen.value),
            Self::Value(seen) => When::Value(seen.value),
        }
    }

    fn precondition(self) -> Precondition {
        match self {
            Self::Any => Precondition::Any,
            Self::Absent => Precondition::Absent,
            Self::Present => Precondition::Present,
            Self::At(seen) => Precondition::At(Version::new(seen.version)),
            Self::Value(seen) => Precondition::Value(bytes(seen.value)),
        }
    }
}

#[derive(Clone)]
pub(super) struct Caller {
    store: Arc<dyn Store>,
    client: Client,
    recorder: Arc<Recorder>,
    values: Arc<AtomicU64>,
}

impl Caller {
    pub(super) fn new(store: Arc<dyn Store>, client: Client, recorder: Arc<Recorder>) -> Self {
        let first = u64::from(client.process) * VALUES_PER_PROCESS + (u64::from(client.handle) << 24) + 1;
        Self { store, client, recorder, values: Arc::new(AtomicU64::new(first)) }
    }

    pub(super) fn store(&self) -> &Arc<dyn Store> {
        &self.store
    }

    pub(super) fn client(&self) -> Client {
        self.client
    }

    pub(super) fn recorder(&self) -> &Recorder {
        &self.recorder
    }

    /// A put of a value that nobody wrote before.
    pub(super) async fn put(
        &self,
        key: &Key,
        condition: Condition,
        fence: Option<Fence>,
        life: Life,
    ) -> Result<Answer> {
        let value = self.values.fetch_add(1, Ordering::Relaxed);
        let token = fence.as_ref().map(|fence| fence.token().get());
        let call = Call::Put { key: key.to_string(), value, when: condition.when(), fence: token, life };
        let expiry = match life {
            Life::Permanent => Expiry::Never,
            Life::Session => Expiry::Session,
            Life::Ttl(ms) => Expiry::Ttl(std::time::Duration::from_millis(ms)),
        };
        let mut options =
            PutOptions::default().with_precondition(condition.precondition()).with_expiry(expiry);
        options.fence = fence;
        self.noted(&call, async {
            let put = self.store.put_with(key, bytes(value), options).await?;
            Ok(Answer::Put { version: put.version.get() })
        })
        .await
    }

    pub(super) async fn delete(&self, key: &Key, condition: Condition, previous: bool) -> Result<Answer> {
        let call = Call::Delete { key: key.to_string(), when: condition.when() };
        let mut options = DeleteOptions::default().with_precondition(condition.precondition());
        options.previous = previous;
        self.noted(&call, async {
            let deleted = self.store.delete_with(key, options).await?;
            let previous = deleted.previous.as_ref().map(seen).transpose()?;
            Ok(Answer::Deleted { existed: deleted.existed, previous })
        })
        .await
    }

    pub(super) async fn get(&self, key: &Key, stale: bool) -> Result<Option<Seen>> {
        let call = Call::Get { key: key.to_string(), stale };
        let mut options = GetOptions::default();
        if stale {
            options = options.with_consistency(kv_any::kv_core::Consistency::Stale);
        }
        let answer = self
            .noted(&call, async {
                let entry = self.store.get_with(key, options).await?;
                Ok(Answer::Got(entry.as_ref().map(seen).transpose()?))
            })
            .await?;
        Ok(if let Answer::Got(seen) = answer { seen } else { None })
    }

    /// Makes a call and notes when it began, when it was answered, and how.
    pub(super) async fn noted(
        &self,
        call: &Call,
        made: impl Future<Output = Result<Answer, Error>>,
    ) -> Result<Answer> {
        let id = self.recorder.call(self.client, call)?;
        let answered = made.await;
        let at = now();
        let answer = answered.unwrap_or_else(|error| failure(&error));
        self.recorder.answer(id, at, answer.clone())?;
        Ok(answer)
    }
}

fn failure(error: &Error) -> Answer {
    match error.kind() {
        ErrorKind::AlreadyExists { .. } | ErrorKind::PreconditionFailed { .. } | ErrorKind::NotFound => {
            Answer::Refused
        }
        ErrorKind::NotHeld { .. } | ErrorKind::Locked => Answer::NotHeld,
        _ => Answer::Failed { surely_not_applied: error.applied() == Applied::No, error: error.to_string() },
    }
}

/// What a value number is stored as.
pub(super) fn bytes(value: Value) -> Bytes {
    // Some values are long, so that a value cut short or mixed up with another is noticed.
    let length = usize::try_from(value % 7 * 500).unwrap_or(0);
    let mut text = format!("{value} ");
    let digits = text.clone();
    while text.len() < length {
        text.push_str(&digits);
    }
    text.into()
}

/// What an entry shows. A value that is not, byte by byte, one of ours is an error of the store.
pub(super) fn seen(entry: &Entry) -> Result<Seen, Error> {
    let text = std::str::from_utf8(&entry.value).unwrap_or_default();
    let number = text.split(' ').next().and_then(|digits| digits.parse().ok());
    match number.filter(|number| bytes(*number) == entry.value) {
        Some(value) => Ok(Seen { value, version: entry.version.get(), created: entry.created.get() }),
        // Zero is a number that nobody writes: the checker reports it.
        None => Ok(Seen { value: 0, version: entry.version.get(), created: entry.created.get() }),
    }
}
