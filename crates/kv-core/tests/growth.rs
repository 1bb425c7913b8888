//! The core can grow: what others wrote against it goes on compiling, and refuses what came later.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::collections::BTreeMap;
use std::sync::Mutex;

use async_trait::async_trait;
use futures_util::stream;
use kv_core::*;
use kv_layers::{Call, LayerExt, Next, Policy};

/// A sixth backend, as small as one can be: entries in a map, no power, and the rest refused.
#[derive(Debug)]
struct Sixth {
    capabilities: Capabilities,
    entries: Mutex<BTreeMap<Key, Entry>>,
}

impl Sixth {
    fn open() -> Self {
        Self { capabilities: Capabilities::new("sixth"), entries: Mutex::default() }
    }

    fn check(precondition: &Precondition, found: Option<&Entry>) -> Result<()> {
        match (precondition, found) {
            (Precondition::Any, _) | (Precondition::Absent, None) | (Precondition::Present, Some(_)) => {
                Ok(())
            }
            (Precondition::At(version), Some(entry)) if entry.version == *version => Ok(()),
            (Precondition::Absent, Some(entry)) => {
                Err(ErrorKind::AlreadyExists { current: Some(entry.version) }.into())
            }
            (Precondition::Present, None) => Err(ErrorKind::NotFound.into()),
            (Precondition::At(_) | Precondition::Value(_), found) => {
                Err(ErrorKind::PreconditionFailed { current: found.map(|entry| entry.version) }.into())
            }
            _ => Err(Error::unsupported("this precondition")),
        }
    }
}

#[async_trait]
impl Store for Sixth {
    fn capabilities(&self) -> &Capabilities {
        &self.capabilities
    }
    async fn get_opts(&self, key: &Key, options: GetOptions) -> Result<Option<Entry>> {
        self.capabilities.admit_get(key, &options)?;
        Ok(self.entries.lock().unwrap().get(key).cloned())
    }
    async fn put_opts(&self, key: &Key, value: Bytes, options: PutOptions) -> Result<PutResult> {
        self.capabilities.admit_put(key, &value, &options)?;
        let mut entries = self.entries.lock().unwrap();
        Self::check(&options.precondition, entries.get(key))?;
        let newest = entries.values().map(|entry| entry.version.get()).max().unwrap_or(0);
        let version = Version::new(newest + 1);
        let created = entries.get(key).map_or(version, |old| old.created);
        entries.insert(key.clone(), Entry::new(key.clone(), value, version, created));
        Ok(PutResult::new(version))
    }
    async fn delete_opts(&self, key: &Key, options: DeleteOptions) -> Result<DeleteResult> {
        self.capabilities.admit_delete(key, &options)?;
        let mut entries = self.entries.lock().unwrap();
        Self::check(&options.precondition, entries.get(key))?;
        let removed = entries.remove(key);
        Ok(match removed {
            Some(entry) => DeleteResult::deleted(options.previous.then_some(entry)),
            None => DeleteResult::absent(),
        })
    }
    async fn list_opts(&self, prefix: &Prefix, options: ListOptions) -> Result<Listing> {
        self.capabilities.admit_list(prefix.as_str(), &options)?;
        if options.one_level {
            return Err(Error::unsupported("lists of one level"));
        }
        let entries = self.entries.lock().unwrap();
        let listed = |entry: &&Entry| prefix.covers(&entry.key) && options.in_range(&entry.key);
        let most = options.limit.unwrap_or(usize::MAX);
        let below: Vec<_> = entries.values().filter(listed).take(most).cloned().collect();
        let keys_only = options.keys_only;
        let item =
            move |entry: Entry| Ok(if keys_only { ListItem::Key(entry.key) } else { ListItem::Entry(entry) });
        Ok(Listing::new(None, stream::iter(below.into_iter().map(item))))
    }
    async fn delete_tree_opts(&self, prefix: &Prefix, options: DeleteTreeOptions) -> Result<u64> {
        self.capabilities.admit_delete_tree(prefix.as_str(), &options)?;
        let mut entries = self.entries.lock().unwrap();
        let before = entries.len();
        entries.retain(|key, _| !prefix.covers(key));
        Ok((before - entries.len()) as u64)
    }
    async fn watch_opts(&self, target: WatchTarget, options: WatchOptions) -> Result<Watch> {
        self.capabilities.admit_watch(&target, &options)?;
        Err(Error::unsupported("watches"))
    }
    async fn lock_opts(&self, key: &Key, options: LockOptions) -> Result<LockGuard> {
        self.capabilities.admit_lock(key, &options)?;
        Err(Error::unsupported("locks"))
    }
    async fn lock_holder_opts(&self, _: &Key, _: CallOptions) -> Result<Option<LockHolder>> {
        Ok(None)
    }
    fn session(&self) -> SessionState {
        SessionState::Idle
    }
    fn session_states(&self) -> SessionStates {
        SessionStates::new(stream::iter([SessionState::Idle]))
    }
    async fn server_opts(&self, _: CallOptions) -> Result<ServerInfo> {
        Ok(ServerInfo::new("sixth", "1.0"))
    }
    async fn close_opts(&self, _: CallOptions) -> Result<()> {
        Ok(())
    }
}

/// A layer of twenty lines: it lets nobody write below `system`.
#[derive(Debug)]
struct KeepOut;

impl Policy for KeepOut {
    async fn around<'a, T: Send + 'a>(&'a self, call: Call<'a>, next: Next<'a, T>) -> Result<T> {
        let path = call.target.path().unwrap_or_default();
        if call.operation.is_write() && (path == "system" || path.starts_with("system/")) {
            return Err(call.error(ErrorKind::PermissionDenied));
        }
        next().await
    }
}

#[tokio::test(flavor = "current_thread")]
async fn a_small_backend_and_a_small_layer_are_whole_stores() {
    let store = Sixth::open().layered(KeepOut);
    let first = store.create("a/b", "1").await.unwrap();
    assert!(store.create("a/b", "1").await.unwrap_err().is_conflict());
    assert!(store.compare_and_set("a/b", first, "2").await.unwrap() > first);
    assert_eq!(store.keys("").await.unwrap()[0].as_str(), "a/b");
    let denied = store.put("system/x", "1").await.unwrap_err();
    assert_eq!((denied.kind(), denied.key()), (&ErrorKind::PermissionDenied, Some("system/x")));
    assert_eq!(store.server().await.unwrap().product, "sixth");
    assert!(store.as_transact().is_none() && store.as_lock_view().is_none());
}

#[tokio::test(flavor = "current_thread")]
async fn an_option_that_a_store_does_not_know_is_refused_and_not_ignored() {
    let store = Sixth::open();
    let refused = store.list_with("a", ListOptions::default().with_expiry()).await.unwrap_err();
    assert!(
        matches!(refused.kind(), ErrorKind::Unsupported { power: Some(Power::ListExpiry), .. }),
        "{refused}"
    );
    let put = PutOptions::default().with_expiry(Expiry::Keep);
    assert!(matches!(store.put_with("a", "x", put).await.unwrap_err().kind(), ErrorKind::Unsupported { .. }));
    assert_eq!(store.get("a").await.unwrap(), None, "before any change");
    let fresh = store.transact(Txn::always()).await.unwrap_err();
    assert!(
        matches!(fresh.kind(), ErrorKind::Unsupported { power: Some(Power::Transactions), .. }),
        "{fresh}"
    );
}

/// The methods that a store must have. One that is added has a default: else neither the backend nor the
/// layer above would compile any more, nor would anybody else's.
const REQUIRED: [&str; 13] = [
    "capabilities",
    "get_opts",
    "put_opts",
    "delete_opts",
    "list_opts",
    "delete_tree_opts",
    "watch_opts",
    "lock_opts",
    "lock_holder_opts",
    "session",
    "session_states",
    "server_opts",
    "close_opts",
];

#[test]
fn every_method_of_a_store_that_is_new_has_a_default() {
    let source = include_str!("../src/store.rs");
    let (_, body) = source.split_once("pub trait Store:").unwrap();
    let (body, _) = body.split_once("\n}\n").unwrap();
    let mut required = Vec::new();
    for method in body.split("\n    async fn ").flat_map(|part| part.split("\n    fn ")).skip(1) {
        let name = method.split('(').next().unwrap();
        let (semicolon, brace) = (method.find(';'), method.find('{'));
        if semicolon.is_some_and(|end| brace.is_none_or(|begin| end < begin)) {
            required.push(name);
        }
    }
    assert_eq!(required, REQUIRED);
}
