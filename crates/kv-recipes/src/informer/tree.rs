//! The informer: what keeps the cached tree up to date, and how it is read.

use std::sync::Arc;

use kv_core::{Entry, Error, Key, Operation, Prefix, Result, Store, WatchState, WatchTarget};
use tokio::task::JoinHandle;

use super::cache::Cache;
use super::changes::Changes;
use super::index::Index;
use crate::follow::{Followed, Following};

/// Everything strictly below a prefix, kept in memory by one watch: reads cost no request, and each change
/// is delivered with what was there before.
///
/// Clones share one watch and one copy of the entries; it ends with the last of them and of their
/// [`Changes`] and [`Index`]es.
///
/// # What it promises
///
/// - A read sees the state of the store at one moment not long ago; [`problem`](Self::problem) says when it
///   may be longer. Until [`ready`](Self::ready) it sees nothing.
/// - What a reader has seen of a key it never sees older again.
/// - After a gap (a reconnect, compaction, an outage) the state is read again and compared: keys that went
///   meanwhile are told as deletions, and everything found in this way is marked
///   [`relisted`](super::Change::relisted). Until then the last complete state stays.
/// - Outages are waited out. An error that does not pass, such as a right that was taken away, ends it: then
///   the last state stays readable, `problem` and every [`Changes`] tell the error.
///
/// # What it does not promise
///
/// That a read sees one's own last write, or what another process has read already. Ask the store where that
/// matters. Changes are merged where the store's watches merge them
/// ([`WatchComplete`](kv_core::Guarantee::WatchComplete)).
///
/// # Costs
///
/// One list and one watch. Memory for every entry below the prefix, twice while the state is read again.
///
/// # Examples
///
/// ```
/// # use std::sync::Arc;
/// # use kv_recipes::kv_core::{Result, Store, StoreExt};
/// use kv_recipes::Informer;
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<()> {
/// # let store: Arc<dyn Store> = Arc::new(kv_mem::MemStore::open(Default::default())?);
/// store.put("routes/a", "10.0.0.1").await?;
/// let routes = Informer::start(store.clone(), "routes").await?;
/// routes.ready().await?;
/// assert_eq!(routes.get(&"routes/a".parse()?).unwrap().value, "10.0.0.1");
///
/// let by_address = routes.index(|entry| vec![entry.value.clone()]);
/// assert_eq!(by_address.get(&"10.0.0.1".into()).len(), 1);
///
/// let mut changes = routes.changes();
/// let first = changes.next().await.unwrap()?;
/// assert!(first.old.is_none() && first.new.is_some());
/// store.delete("routes/a").await?;
/// assert!(changes.next().await.unwrap()?.is_delete());
/// # Ok(()) }
/// ```
#[derive(Clone, Debug)]
pub struct Informer {
    prefix: Prefix,
    cache: Arc<Cache>,
    task: Arc<Task>,
}

/// Ends the watch when the last handle goes.
#[derive(Debug)]
struct Task(JoinHandle<()>);

impl Drop for Task {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Informer {
    /// Begins to watch everything strictly below `prefix`. Must be called within a tokio runtime.
    ///
    /// # Errors
    ///
    /// As for [`Store::watch_opts`].
    pub async fn start<P>(store: Arc<dyn Store>, prefix: P) -> Result<Self>
    where
        P: TryInto<Prefix, Error: Into<Error>>,
    {
        let prefix = prefix.try_into().map_err(|error| error.into().with_operation(Operation::Watch))?;
        let following = Following::start(store, WatchTarget::below(prefix.clone())).await?;
        let cache = Arc::new(Cache::new());
        let task = tokio::spawn(keep(following, Arc::clone(&cache)));
        Ok(Self { prefix, cache, task: Arc::new(Task(task)) })
    }

    /// What is cached: everything strictly below it.
    #[must_use]
    pub fn prefix(&self) -> &Prefix {
        &self.prefix
    }

    /// Waits until the first state is complete. Cancel-safe.
    ///
    /// # Errors
    ///
    /// What the watch has ended with before that.
    pub async fn ready(&self) -> Result<()> {
        self.cache.ready().await
    }

    /// Why the entries may be behind: the last failure of the watch, or what it has ended with. `None` while
    /// the watch stands, as far as its store tells.
    #[must_use]
    pub fn problem(&self) -> Option<Error> {
        self.cache.problem()
    }

    /// The entry under `key`.
    #[must_use]
    pub fn get(&self, key: &Key) -> Option<Entry> {
        self.cache.read(|state| state.get(key).cloned())
    }

    /// All entries of one moment, in key order.
    #[must_use]
    pub fn entries(&self) -> Vec<Entry> {
        self.cache.read(|state| state.entries().cloned().collect())
    }

    /// How many entries there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.cache.read(WatchState::len)
    }

    /// Whether there is no entry.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Looks at the entries of one moment without copying them. The watch waits as long as `look` takes.
    pub fn read<T>(&self, look: impl FnOnce(&WatchState) -> T) -> T {
        self.cache.read(look)
    }

    /// The entries there are, as changes from nothing, then each change.
    #[must_use]
    pub fn changes(&self) -> Changes {
        Changes::new(self.cache.follow(), Arc::clone(&self.task) as _)
    }

    /// The entries by values that `of` finds in each. `of` is called once for each entry there is and twice
    /// for each change, with the entry before and after it, while the entries are locked: it must give the
    /// same answer for the same entry, and not call the informer.
    #[must_use]
    pub fn index<I, F>(&self, of: F) -> Index<I>
    where
        I: Ord + Send + 'static,
        F: Fn(&Entry) -> Vec<I> + Send + Sync + 'static,
    {
        Index::new(Arc::clone(&self.cache), Arc::clone(&self.task) as _, Box::new(of))
    }
}

async fn keep(mut following: Following, cache: Arc<Cache>) {
    loop {
        match following.next().await {
            Ok(Followed::Event(event)) => cache.apply(event),
            Ok(Followed::Trouble(error)) => cache.trouble(error),
            Err(error) => return cache.end(error),
        }
    }
}
