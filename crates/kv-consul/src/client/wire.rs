//! Consul's JSON, as it goes over the wire.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use kv_core::{Error, ErrorKind, Result};
use serde::{Deserialize, Serialize};

use crate::client::error::protocol;

/// One key as Consul shows it.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct Kv {
    pub(crate) key: String,
    /// Base64; absent for an empty value and in answers to writes.
    #[serde(default)]
    pub(crate) value: Option<String>,
    #[serde(default)]
    pub(crate) flags: u64,
    pub(crate) create_index: u64,
    pub(crate) modify_index: u64,
    /// How often it was locked since it was written without a lock.
    #[serde(default)]
    pub(crate) lock_index: u64,
    #[serde(default)]
    pub(crate) session: Option<String>,
}

impl Kv {
    /// The same, if its indexes can be those of a key.
    pub(crate) fn checked(self) -> Result<Self> {
        if self.create_index == 0 || self.modify_index < self.create_index {
            return Err(protocol("a key has indexes no key can have").with_key(self.key));
        }
        Ok(self)
    }

    /// The value itself.
    pub(crate) fn bytes(&self) -> Result<Bytes> {
        let text = self.value.as_deref().unwrap_or_default();
        STANDARD
            .decode(text)
            .map(Bytes::from)
            .map_err(|error| protocol("a value is not base64").with_source(error))
    }

    /// The session that holds the key, if one does.
    pub(crate) fn session(&self) -> Option<&str> {
        self.session.as_deref().filter(|id| !id.is_empty())
    }
}

/// One operation of a transaction.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct Op {
    verb: Verb,
    key: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    value: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    flags: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    index: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    session: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
enum Verb {
    Get,
    GetTree,
    Set,
    Cas,
    Delete,
    DeleteTree,
    Lock,
    Unlock,
    CheckIndex,
    CheckSession,
    CheckNotExists,
}

/// What a write puts under a key: the value and the flags that make it differ from the one before.
#[derive(Clone, Debug)]
pub(crate) struct Content {
    base64: String,
    flags: u64,
}

impl Content {
    /// This value with these flags.
    pub(crate) fn new(value: &[u8], flags: u64) -> Self {
        Self { base64: STANDARD.encode(value), flags }
    }

    /// What a key has.
    pub(crate) fn of(kv: &Kv) -> Self {
        Self { base64: kv.value.clone().unwrap_or_default(), flags: kv.flags }
    }
}

impl Op {
    fn new(verb: Verb, key: &str) -> Self {
        Self { verb, key: key.to_owned(), value: None, flags: None, index: None, session: None }
    }

    fn with_content(mut self, content: &Content) -> Self {
        self.value = Some(content.base64.clone());
        self.flags = Some(content.flags);
        self
    }

    fn with_index(mut self, index: u64) -> Self {
        self.index = Some(index);
        self
    }

    fn with_session(mut self, session: &str) -> Self {
        self.session = Some(session.to_owned());
        self
    }

    /// Reads the key, which must exist.
    pub(crate) fn get(key: &str) -> Self {
        Self::new(Verb::Get, key)
    }

    /// Reads everything that begins with `prefix`.
    pub(crate) fn get_tree(prefix: &str) -> Self {
        Self::new(Verb::GetTree, prefix)
    }

    /// Writes the key and leaves its session as it is.
    pub(crate) fn set(key: &str, content: &Content) -> Self {
        Self::new(Verb::Set, key).with_content(content)
    }

    /// The same if the key is at `index`; 0: if it does not exist.
    pub(crate) fn cas(key: &str, content: &Content, index: u64) -> Self {
        Self::new(Verb::Cas, key).with_content(content).with_index(index)
    }

    /// Writes the key and binds it to `session`, if no other has it.
    pub(crate) fn lock(key: &str, content: &Content, session: &str) -> Self {
        Self::new(Verb::Lock, key).with_content(content).with_session(session)
    }

    /// Writes the key and frees it from `session`, which must have it.
    pub(crate) fn unlock(key: &str, content: &Content, session: &str) -> Self {
        Self::new(Verb::Unlock, key).with_content(content).with_session(session)
    }

    /// Deletes the key, existing or not.
    pub(crate) fn delete(key: &str) -> Self {
        Self::new(Verb::Delete, key)
    }

    /// Deletes everything that begins with `prefix`, which must not be empty.
    pub(crate) fn delete_tree(prefix: &str) -> Self {
        Self::new(Verb::DeleteTree, prefix)
    }

    /// The key must be at `index`.
    pub(crate) fn check_index(key: &str, index: u64) -> Self {
        Self::new(Verb::CheckIndex, key).with_index(index)
    }

    /// The key must exist and be bound to `session`; empty: to none.
    pub(crate) fn check_session(key: &str, session: &str) -> Self {
        Self::new(Verb::CheckSession, key).with_session(session)
    }

    /// The key must not exist.
    pub(crate) fn check_not_exists(key: &str) -> Self {
        Self::new(Verb::CheckNotExists, key)
    }

    /// The key it is about.
    pub(crate) fn key(&self) -> &str {
        &self.key
    }

    /// Whether a transaction's answer has an item for it: the items do not line up with the
    /// operations otherwise.
    pub(crate) fn has_result(&self) -> bool {
        !matches!(self.verb, Verb::Delete | Verb::DeleteTree | Verb::CheckNotExists)
    }

    /// The right it needs.
    pub(crate) fn right(&self) -> &'static str {
        match self.verb {
            Verb::DeleteTree => "key:write everywhere below",
            Verb::GetTree => "key:list below",
            // Consul wants more for this check than for the others.
            Verb::CheckNotExists => "key:write on",
            _ if self.is_write() => "key:write on",
            _ => "key:read on",
        }
    }

    /// Whether it changes anything.
    pub(crate) fn is_write(&self) -> bool {
        use Verb::{Cas, Delete, DeleteTree, Lock, Set, Unlock};
        matches!(self.verb, Set | Cas | Delete | DeleteTree | Lock | Unlock)
    }

    /// Whether its item carries a value.
    pub(crate) fn has_value(&self) -> bool {
        matches!(self.verb, Verb::Get | Verb::GetTree)
    }
}

/// The body of a transaction.
pub(crate) fn txn_body(ops: &[Op]) -> Result<Bytes> {
    #[derive(Serialize)]
    struct Item<'a> {
        #[serde(rename = "KV")]
        kv: &'a Op,
    }
    let items: Vec<Item<'_>> = ops.iter().map(|kv| Item { kv }).collect();
    to_json(&items)
}

/// What a transaction answers, whether it was carried out or refused.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct TxnAnswer {
    #[serde(default)]
    pub(crate) results: Option<Vec<TxnItem>>,
    #[serde(default)]
    pub(crate) errors: Option<Vec<TxnRefusal>>,
}

#[derive(Debug, Deserialize)]
pub(crate) struct TxnItem {
    #[serde(rename = "KV")]
    pub(crate) kv: Kv,
}

/// Why an operation refused the whole transaction.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct TxnRefusal {
    pub(crate) op_index: usize,
    pub(crate) what: String,
}

/// A session to be made.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct NewSession<'a> {
    pub(crate) name: &'a str,
    /// As Go writes it: `15000ms`.
    #[serde(rename = "TTL")]
    pub(crate) ttl: String,
    pub(crate) behavior: &'static str,
    pub(crate) lock_delay: String,
    /// Empty on purpose: the default check would end the session with its agent's health.
    pub(crate) node_checks: [&'static str; 0],
}

/// What making a session answers.
#[derive(Debug, Deserialize)]
pub(crate) struct SessionId {
    #[serde(rename = "ID")]
    pub(crate) id: String,
}

/// What Consul tells about a session.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct SessionInfo {
    #[serde(rename = "ID")]
    pub(crate) id: String,
    #[serde(default)]
    pub(crate) name: String,
    #[serde(default)]
    pub(crate) behavior: String,
    #[serde(rename = "TTL", default)]
    pub(crate) ttl: String,
}

/// What an agent tells about itself.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct AgentSelf {
    pub(crate) config: AgentConfig,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct AgentConfig {
    pub(crate) version: String,
}

/// A value as JSON.
pub(crate) fn to_json(value: &impl Serialize) -> Result<Bytes> {
    serde_json::to_vec(value)
        .map(Bytes::from)
        .map_err(|error| Error::new(ErrorKind::Internal).not_applied().with_source(error))
}

/// JSON as a value; anything else is the server's fault.
pub(crate) fn from_json<'de, T: Deserialize<'de>>(text: &'de [u8]) -> Result<T> {
    serde_json::from_slice(text)
        .map_err(|error| protocol("the answer is not the JSON that was expected").with_source(error))
}
