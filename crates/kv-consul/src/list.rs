//! Lists and delete_tree: one document of Consul's is one snapshot, taken apart as it arrives.

use std::collections::{BTreeSet, HashMap};
use std::ops::Bound;
use std::sync::Arc;

use futures_util::stream;
use kv_backend::Deadline;
use kv_core::{
    Consistency, DeleteTreeOptions, EntryExpiry, Error, ErrorKind, Key, ListItem, ListOptions, Listing,
    Prefix, Result, Version,
};

use crate::api::Lane;
use crate::ephemeral::{Seen, hidden_session, look_at, retire};
use crate::items::{Items, Query};
use crate::names::{SEMAPHORE_FLAG, Scope};
use crate::session::expiry_of;
use crate::shared::Shared;
use crate::store::to_entry;
use crate::wire::{Kv, SessionInfo};

/// Lists what lies below a prefix.
pub(crate) async fn list(shared: &Arc<Shared>, prefix: &Prefix, options: ListOptions) -> Result<Listing> {
    let timeout = options.timeout.unwrap_or(shared.timeout);
    let scope = Scope::Tree(shared.names.native_prefix(prefix));
    let query = Query {
        names_only: options.keys_only && shared.names.names_tell_records(),
        ..Query::new(scope, options.consistency)
    };
    let names_only = query.names_only;
    let deadline = Deadline::after(timeout);
    let expiries = if options.expiry { Some(expiries(shared, &deadline).await?) } else { None };
    // Consul's index of a tree is that of its last change. It is the state of everything this handle
    // has seen until now, too.
    let newest = shared.api.newest();
    let items = shared.api.read(query, Lane::Stream, timeout).await?;
    let linearizable = options.consistency == Consistency::Linearizable;
    let as_of = items.index().map(|index| Version::new(if linearizable { index.max(newest) } else { index }));
    let reader = Reader {
        shared: Arc::clone(shared),
        prefix: prefix.clone(),
        left: options.limit.unwrap_or(usize::MAX),
        options,
        names_only,
        expiries,
        items: Some(items),
        folder: None,
        semaphores: HashMap::new(),
        foreign: 0,
    };
    let stream = stream::unfold(reader, |mut reader| async move {
        let item = reader.next().await.transpose()?;
        if item.is_err() {
            reader.items = None;
        }
        let item = item.map_err(|error| {
            let error = error.with_operation(kv_core::Operation::List).with_backend(crate::error::BACKEND);
            error.with_key(reader.prefix.as_str())
        });
        Some((item, reader))
    });
    Ok(Listing::new(as_of, stream))
}

struct Reader {
    shared: Arc<Shared>,
    prefix: Prefix,
    options: ListOptions,
    left: usize,
    names_only: bool,
    /// How the keys of each session expire, if that is to be told.
    expiries: Option<HashMap<String, EntryExpiry>>,
    /// `None` after the end.
    items: Option<Items>,
    /// The sub-prefix that was told last.
    folder: Option<Prefix>,
    /// Which paths, of those with a lock's record, are semaphores.
    semaphores: HashMap<String, bool>,
    foreign: usize,
}

impl Reader {
    async fn next(&mut self) -> Result<Option<ListItem>> {
        while let Some(items) = &mut self.items {
            if self.left == 0 || self.shared.closing.is_cancelled() {
                self.items = None;
                self.shared.check_open()?;
                break;
            }
            let (native, kv) = if self.names_only {
                let Some(name) = items.next_name().await? else { return self.end().await };
                (name, None)
            } else {
                let Some(kv) = items.next().await? else { return self.end().await };
                (kv.key.clone(), Some(kv))
            };
            let flags = kv.as_ref().map_or(0, |kv| kv.flags);
            let Some(key) = self.shared.names.entry(&native, flags) else {
                self.not_an_entry(&native);
                continue;
            };
            if self.is_behind_the_end(&key) {
                self.items = None;
                break;
            }
            if !self.options.in_range(&key) || (self.names_only && self.is_contender(&native).await?) {
                continue;
            }
            if self.options.one_level
                && let Some((segment, _)) = self.prefix.relative(&key).and_then(|rest| rest.split_once('/'))
            {
                let folder = self.prefix.join(segment)?.as_prefix();
                if self.folder.as_ref() == Some(&folder) {
                    continue;
                }
                self.folder = Some(folder.clone());
                self.left -= 1;
                return Ok(Some(ListItem::Prefix(folder)));
            }
            self.left -= 1;
            return match kv {
                Some(kv) if !self.options.keys_only => {
                    let expiry = self.expiry(&kv).await?;
                    let entry = to_entry(key, &kv)?;
                    Ok(Some(ListItem::Entry(match expiry {
                        Some(expiry) => entry.with_expiry(expiry),
                        None => entry,
                    })))
                }
                _ => Ok(Some(ListItem::Key(key))),
            };
        }
        self.tell_foreign();
        Ok(None)
    }

    /// How an entry expires, if that is to be told.
    async fn expiry(&mut self, kv: &Kv) -> Result<Option<EntryExpiry>> {
        let Some(expiries) = &mut self.expiries else { return Ok(None) };
        let Some(session) = kv.session() else { return Ok(Some(EntryExpiry::Never)) };
        if let Some(expiry) = expiries.get(session) {
            return Ok(Some(*expiry));
        }
        // Made since the sessions were read, or hidden.
        let deadline = Deadline::after(self.options.timeout.unwrap_or(self.shared.timeout));
        match look_at(&self.shared, &kv.key, session, &deadline).await? {
            Seen::Session(info) => {
                let expiry = expiry_of(&info)?;
                expiries.insert(info.id, expiry);
                Ok(Some(expiry))
            }
            Seen::Hidden => Err(hidden_session()),
            Seen::Over => Err(Error::new(ErrorKind::Unavailable)
                .with_detail("the session of an entry ended while it was listed: list again")),
        }
    }

    /// The list is over. One that had nothing is empty only if the token may read there.
    async fn end(&mut self) -> Result<Option<ListItem>> {
        self.tell_foreign();
        if self.items.take().is_some_and(|items| items.may_be_hidden()) {
            let deadline = Deadline::after(self.options.timeout.unwrap_or(self.shared.timeout));
            let below = self.shared.names.native_prefix(&self.prefix);
            self.shared.api.check_readable(Lane::Call, &below, &deadline).await?;
        }
        Ok(None)
    }

    fn tell_foreign(&mut self) {
        if self.foreign > 0 {
            tracing::debug!(
                prefix = %self.prefix, count = self.foreign, "names that are no keys were not listed"
            );
            self.foreign = 0;
        }
    }

    fn not_an_entry(&mut self, native: &str) {
        match native.strip_suffix("/.lock") {
            Some(path) if self.names_only => drop(self.semaphores.insert(path.to_owned(), false)),
            Some(_) => {}
            None => self.foreign += 1,
        }
    }

    fn is_behind_the_end(&self, key: &Key) -> bool {
        match &self.options.end {
            Bound::Included(end) => key > end,
            Bound::Excluded(end) => key >= end,
            Bound::Unbounded => false,
        }
    }

    /// Whether a name is that of a contender for a semaphore of Consul's: a session id beside a record
    /// that has the semaphore's flag. A list of names does not show flags, so the record is read, once.
    async fn is_contender(&mut self, native: &str) -> Result<bool> {
        let Some((path, name)) = native.rsplit_once('/') else { return Ok(false) };
        if !looks_like_session(name) {
            return Ok(false);
        }
        match self.semaphores.get(path) {
            None => Ok(false),
            Some(true) => Ok(true),
            Some(false) => {
                let deadline = Deadline::after(self.options.timeout.unwrap_or(self.shared.timeout));
                let record = self.shared.read(&format!("{path}/.lock"), &deadline).await?;
                let semaphore = record.is_some_and(|kv| kv.flags == SEMAPHORE_FLAG);
                if semaphore {
                    self.semaphores.insert(path.to_owned(), true);
                } else {
                    self.semaphores.remove(path);
                }
                Ok(semaphore)
            }
        }
    }
}

/// How the keys of each session expire, of all sessions that the token may read.
async fn expiries(shared: &Shared, deadline: &Deadline) -> Result<HashMap<String, EntryExpiry>> {
    let mut expiries = HashMap::new();
    let mut wrong = None;
    let each = |info: SessionInfo| match expiry_of(&info) {
        Ok(expiry) => drop(expiries.insert(info.id, expiry)),
        Err(error) => wrong = Some(error),
    };
    shared.api.each_session(deadline, each).await?;
    wrong.map_or(Ok(expiries), Err)
}

fn looks_like_session(name: &str) -> bool {
    name.len() == 36
        && name.bytes().enumerate().all(|(at, byte)| match at {
            8 | 13 | 18 | 23 => byte == b'-',
            _ => byte.is_ascii_hexdigit(),
        })
}

/// Deletes everything below a prefix, and counts the entries among it.
pub(crate) async fn delete_tree(
    shared: &Arc<Shared>,
    prefix: &Prefix,
    options: DeleteTreeOptions,
) -> Result<u64> {
    let deadline = shared.deadline(options.timeout);
    let native = shared.names.native_prefix(prefix);
    let mut count = 0;
    let mut sessions = BTreeSet::new();
    if native.is_empty() {
        // A transaction cannot delete everything there is. The request that can does not count.
        let query = Query::new(Scope::Tree(native), Consistency::Linearizable);
        let mut items = deadline.run(shared.api.read(query, Lane::Stream, deadline.remaining()?)).await?;
        while let Some(kv) = deadline.run(items.next()).await.map_err(Error::not_applied)? {
            count += u64::from(shared.names.entry(&kv.key, kv.flags).is_some());
            sessions.extend(kv.session().map(str::to_owned));
        }
        shared.api.delete_all(&deadline).await?;
        retire(shared, sessions.into_iter().collect());
        return Ok(count);
    }
    shared
        .api
        .delete_tree(&native, &deadline, |kv| {
            count += u64::from(shared.names.entry(&kv.key, kv.flags).is_some());
            sessions.extend(kv.session().map(str::to_owned));
        })
        .await?;
    retire(shared, sessions.into_iter().collect());
    Ok(count)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_session_ids_look_like_them() {
        assert!(looks_like_session("a0c716e6-f7b8-b30a-94aa-003e224803ec"));
        assert!(!looks_like_session("a0c716e6-f7b8-b30a-94aa-003e224803eg"));
        assert!(!looks_like_session("a0c716e6f7b8b30a94aa003e224803ec"));
    }
}
