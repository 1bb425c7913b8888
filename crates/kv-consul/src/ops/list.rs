//! Lists: one document of Consul's is one snapshot, taken apart as it arrives.

use std::collections::HashMap;
use std::ops::Bound;
use std::sync::Arc;

use futures_util::stream;
use kv_backend::Deadline;
use kv_core::{
    Consistency, EntryExpiry, Error, ErrorKind, Key, ListItem, ListOptions, Listing, Prefix, Result, Version,
};

use crate::client::api::Lane;
use crate::client::key_read::{KeyRead, Query};
use crate::client::scope::Scope;
use crate::client::wire::{Kv, SessionInfo};
use crate::env::names::{SEMAPHORE_FLAG, to_entry};
use crate::session::create::expiry_of;
use crate::session::holding::{Seen, hidden_session, look_at};
use crate::session::sessions::Sessions;

/// Lists what lies below a prefix.
pub(crate) async fn list(sessions: &Arc<Sessions>, prefix: &Prefix, options: ListOptions) -> Result<Listing> {
    let timeout = options.timeout.unwrap_or(sessions.env.times.timeout);
    let scope = Scope::Tree(sessions.env.names.native_prefix(prefix));
    let query = Query {
        names_only: options.keys_only && sessions.env.names.names_tell_records(),
        ..Query::new(scope, options.consistency)
    };
    let names_only = query.names_only;
    let deadline = Deadline::after(timeout);
    let expiries = if options.expiry { Some(expiries(sessions, &deadline).await?) } else { None };
    // Consul's index of a tree is that of its last change. It is the state of everything this handle
    // has seen until now, too.
    let newest = sessions.env.api.newest();
    let items = sessions.env.api.read(query, Lane::Stream, timeout).await?;
    let linearizable = options.consistency == Consistency::Linearizable;
    let as_of = items.index().map(|index| Version::new(if linearizable { index.max(newest) } else { index }));
    let reader = Reader {
        sessions: Arc::clone(sessions),
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
            let error =
                error.with_operation(kv_core::Operation::List).with_backend(crate::client::error::BACKEND);
            error.with_key(reader.prefix.as_str())
        });
        Some((item, reader))
    });
    Ok(Listing::new(as_of, stream))
}

struct Reader {
    sessions: Arc<Sessions>,
    prefix: Prefix,
    options: ListOptions,
    left: usize,
    names_only: bool,
    /// How the keys of each session expire, if that is to be told.
    expiries: Option<HashMap<String, EntryExpiry>>,
    /// `None` after the end.
    items: Option<KeyRead>,
    /// The sub-prefix that was told last.
    folder: Option<Prefix>,
    /// Which paths, of those with a lock's record, are semaphores.
    semaphores: HashMap<String, bool>,
    foreign: usize,
}

impl Reader {
    async fn next(&mut self) -> Result<Option<ListItem>> {
        while let Some(items) = &mut self.items {
            if self.left == 0 || self.sessions.env.closing.is_cancelled() {
                self.items = None;
                self.sessions.env.check_open()?;
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
            let Some(key) = self.sessions.env.names.entry(&native, flags) else {
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
        let deadline = Deadline::after(self.options.timeout.unwrap_or(self.sessions.env.times.timeout));
        match look_at(&self.sessions, &kv.key, session, &deadline).await? {
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
            let deadline = Deadline::after(self.options.timeout.unwrap_or(self.sessions.env.times.timeout));
            let below = self.sessions.env.names.native_prefix(&self.prefix);
            self.sessions.env.api.check_readable(Lane::Call, &below, &deadline).await?;
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
                let deadline =
                    Deadline::after(self.options.timeout.unwrap_or(self.sessions.env.times.timeout));
                let record = self.sessions.read(&format!("{path}/.lock"), &deadline).await?;
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
async fn expiries(sessions: &Sessions, deadline: &Deadline) -> Result<HashMap<String, EntryExpiry>> {
    let mut expiries = HashMap::new();
    let mut wrong = None;
    let each = |info: SessionInfo| match expiry_of(&info) {
        Ok(expiry) => drop(expiries.insert(info.id, expiry)),
        Err(error) => wrong = Some(error),
    };
    sessions.env.api.each_session(deadline, each).await?;
    wrong.map_or(Ok(expiries), Err)
}

fn looks_like_session(name: &str) -> bool {
    name.len() == 36
        && name.bytes().enumerate().all(|(at, byte)| match at {
            8 | 13 | 18 | 23 => byte == b'-',
            _ => byte.is_ascii_hexdigit(),
        })
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
