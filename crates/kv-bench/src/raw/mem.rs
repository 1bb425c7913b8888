//! A locked map, with versions and nothing else.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Result, ensure};
use bytes::Bytes;
use tokio::sync::mpsc::UnboundedSender;

use crate::subject::{Changes, Subject};

/// What the raw map does not do: history, expiry, snapshots, conditions on other keys.
#[derive(Clone, Default)]
pub(crate) struct Mem(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    entries: BTreeMap<String, (u64, Bytes)>,
    version: u64,
    watches: Vec<(String, UnboundedSender<Bytes>)>,
    locks: HashMap<String, Arc<tokio::sync::Mutex<()>>>,
}

impl Mem {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn put(&mut self, key: &str, value: Bytes) -> u64 {
        self.version += 1;
        self.watches.retain(|(prefix, sender)| {
            !key.starts_with(prefix.as_str()) || sender.send(value.clone()).is_ok()
        });
        self.entries.insert(key.to_owned(), (self.version, value));
        self.version
    }
}

impl Subject for Mem {
    async fn get(&self, key: &str) -> Result<usize> {
        let found = self.state().entries.get(key).map(|(_, value)| value.clone());
        Ok(found.map_or(0, |value| value.len()))
    }

    async fn put(&self, key: &str, value: Bytes) -> Result<u64> {
        Ok(self.state().put(key, value))
    }

    async fn compare_and_set(&self, key: &str, version: u64, value: Bytes) -> Result<u64> {
        let mut state = self.state();
        ensure!(state.entries.get(key).is_some_and(|(found, _)| *found == version), "{key} has changed");
        Ok(state.put(key, value))
    }

    async fn put_ttl(&self, key: &str, value: Bytes, _ttl: Duration) -> Result<()> {
        self.state().put(key, value);
        Ok(())
    }

    async fn delete(&self, key: &str) -> Result<bool> {
        Ok(self.state().entries.remove(key).is_some())
    }

    async fn list(&self, prefix: &str) -> Result<usize> {
        let prefix = format!("{prefix}/");
        let state = self.state();
        let entries = state.entries.range(prefix.clone()..).take_while(|(key, _)| key.starts_with(&prefix));
        let copies: Vec<_> =
            entries.map(|(key, (version, value))| (key.clone(), *version, value.clone())).collect();
        Ok(copies.len())
    }

    async fn transact(&self, keys: [&str; 4], value: Bytes) -> Result<bool> {
        let mut state = self.state();
        let [first, ..] = keys;
        let absent = !state.entries.contains_key(first);
        if absent {
            for key in keys {
                state.put(key, value.clone());
            }
        }
        Ok(absent)
    }

    async fn lock_unlock(&self, name: &str) -> Result<()> {
        let lock = Arc::clone(self.state().locks.entry(name.to_owned()).or_default());
        drop(lock.lock().await);
        Ok(())
    }

    async fn open(&self) -> Result<()> {
        let absent = Self::default().get("absent").await?;
        ensure!(absent == 0, "the key exists");
        Ok(())
    }

    async fn watch(&self, prefix: &str) -> Result<Changes> {
        let (sender, changes) = tokio::sync::mpsc::unbounded_channel();
        self.state().watches.push((format!("{prefix}/"), sender));
        Ok(changes)
    }

    async fn clear(&self, prefix: &str) -> Result<()> {
        let prefix = format!("{prefix}/");
        self.state().entries.retain(|key, _| !key.starts_with(&prefix));
        Ok(())
    }
}
