//! How a sled store is opened: the typed configuration, its URL form, and the driver.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use kv_backend::{Clock, TokioClock};
use kv_core::{Driver, Error, Operation, Prefix, Result, Store, StoreUrl};

use crate::store::SledStore;
use crate::tree::SMALL_TREE;

/// What an acknowledged write survives. One promise each; `docs/durability.md` says what they cost
/// and what they ask of the disk.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Durability {
    /// The death of the process, however it dies. After a loss of power the newest half second may
    /// be missing, or the store may be refused as `Corrupt`. The default.
    #[default]
    Process,
    /// The loss of power as well.
    Power,
    /// Nothing at first: the death of the process may cost what was written within this interval.
    /// What is left is a state the store had.
    Interval(Duration),
}

impl Durability {
    pub(crate) const DEFAULT_INTERVAL: Duration = Duration::from_millis(500);
}

/// When damage to stored records is looked for. Every record that is read is checked in either case.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Verify {
    /// All of the store is read when it is opened, and must be complete: one second for half a
    /// million small records. The default.
    #[default]
    Open,
    /// Records are checked when they are read. The store opens at once, however large; records that
    /// a damaged log lost as a whole are not missed.
    Read,
}

/// Where a sled store is and how it behaves.
///
/// ```
/// use kv_sled::{Durability, SledConfig};
///
/// let config = SledConfig::new("/var/lib/app").with_durability(Durability::Power);
/// let same = SledConfig::from_url(&"sled:/var/lib/app?durability=power".parse()?)?;
/// assert_eq!(config.path(), same.path());
/// # Ok::<(), kv_sled::kv_core::Error>(())
/// ```
#[derive(Clone)]
pub struct SledConfig {
    pub(crate) path: PathBuf,
    pub(crate) namespace: Prefix,
    pub(crate) wait: Duration,
    pub(crate) timeout: Duration,
    pub(crate) lock_ttl: Option<Duration>,
    pub(crate) lock_max_hold: Option<Duration>,
    pub(crate) engine: EngineConfig,
    pub(crate) clock: Arc<dyn Clock>,
}

/// What all handles on one directory must agree on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct EngineConfig {
    pub(crate) durability: Durability,
    pub(crate) verify: Verify,
    pub(crate) cache_mib: u32,
    pub(crate) history: usize,
    /// Up to how many entries a subtree is deleted in one batch.
    pub(crate) small_tree: u64,
}

impl EngineConfig {
    /// For entries as they were read, and for pages of lists: an eighth of the memory each, which holds
    /// more of what is read again and again than the engine's pages would.
    pub(crate) fn entry_cache_bytes(self) -> usize {
        (self.cache_mib as usize) << 17
    }

    /// For sled's pages: the rest.
    pub(crate) fn page_cache_bytes(self) -> u64 {
        u64::from(self.cache_mib) * (6 << 17)
    }
}

impl SledConfig {
    /// The store in this directory, which is made if it is missing; everything else by default.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self {
            path: path.into(),
            namespace: Prefix::root(),
            wait: Duration::ZERO,
            timeout: Duration::from_secs(10),
            lock_ttl: None,
            lock_max_hold: None,
            engine: EngineConfig {
                durability: Durability::default(),
                verify: Verify::default(),
                cache_mib: 64,
                history: 10_000,
                small_tree: SMALL_TREE,
            },
            clock: Arc::new(TokioClock::new()),
        }
    }

    /// The configuration a URL names: `sled:PATH` or `sled:///PATH`, with the parameters
    /// `durability=process|power|interval`, `flush_interval`, `verify=open|read`, `cache_mib`,
    /// `history`, `namespace`, `timeout`, `wait`, `lock_ttl` and `lock_max_hold`. See the setters of these
    /// names.
    ///
    /// # Errors
    ///
    /// `InvalidConfig` for anything else; `InvalidKey` for a namespace that breaks the rules.
    pub fn from_url(url: &StoreUrl) -> Result<Self> {
        if !url.hosts().is_empty() || url.user().is_some() {
            return Err(invalid("sled has no host: write sled:PATH, or sled:///PATH for an absolute one"));
        }
        if url.path().is_empty() {
            return Err(invalid("the URL names no directory: write sled:PATH"));
        }
        let mut params = url.params();
        let mut config = Self::new(url.path()).with_namespace(params.namespace("namespace")?);
        let interval = params.duration("flush_interval")?;
        config.engine.durability = match (params.text("durability")?.as_deref(), interval) {
            (Some("interval"), interval) => {
                Durability::Interval(interval.unwrap_or(Durability::DEFAULT_INTERVAL))
            }
            (_, Some(_)) => return Err(invalid("flush_interval needs durability=interval")),
            (None | Some("process"), None) => Durability::Process,
            (Some("power"), None) => Durability::Power,
            (Some(other), None) => {
                return Err(invalid(format!("durability must be process, power or interval, not {other:?}")));
            }
        };
        config.engine.verify = match params.text("verify")?.as_deref() {
            None | Some("open") => Verify::Open,
            Some("read") => Verify::Read,
            Some(other) => return Err(invalid(format!("verify must be open or read, not {other:?}"))),
        };
        if let Some(cache_mib) = params.parsed("cache_mib")? {
            config = config.with_cache_mib(cache_mib);
        }
        if let Some(history) = params.parsed("history")? {
            config = config.with_history(history);
        }
        if let Some(timeout) = params.duration("timeout")? {
            config = config.with_timeout(timeout);
        }
        if let Some(wait) = params.duration("wait")? {
            config = config.with_wait(wait);
        }
        if let Some(ttl) = params.duration("lock_ttl")? {
            config = config.with_lock_ttl(ttl);
        }
        if let Some(max_hold) = params.duration("lock_max_hold")? {
            config = config.with_lock_max_hold(max_hold);
        }
        params.finish()?;
        config.check()?;
        Ok(config)
    }

    /// The directory.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The same, with every key below this path. The default is none.
    #[must_use]
    pub fn with_namespace(mut self, namespace: Prefix) -> Self {
        self.namespace = namespace;
        self
    }

    /// The same with this durability.
    #[must_use]
    pub fn with_durability(mut self, durability: Durability) -> Self {
        self.engine.durability = durability;
        self
    }

    /// The same, with records verified at this time.
    #[must_use]
    pub fn with_verify(mut self, verify: Verify) -> Self {
        self.engine.verify = verify;
        self
    }

    /// The same with so many mebibytes for pages and entries in memory, at least 1. The default is 64.
    #[must_use]
    pub fn with_cache_mib(mut self, cache_mib: u32) -> Self {
        self.engine.cache_mib = cache_mib;
        self
    }

    /// The same with so many changes kept for watches that begin at an older version, at least 1 and
    /// within 64 MiB, on disk and in memory. The default is 10,000.
    #[must_use]
    pub fn with_history(mut self, changes: usize) -> Self {
        self.engine.history = changes;
        self
    }

    /// The same with this deadline for each request. The default is 10 seconds.
    #[must_use]
    pub fn with_timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// The same, waiting so long for a directory that another process has. The default is not to
    /// wait.
    #[must_use]
    pub fn with_wait(mut self, wait: Duration) -> Self {
        self.wait = wait;
        self
    }

    /// The same with this time to live for locks that name none. As no lock outlives the process that
    /// has the directory, it is checked and changes nothing: a URL can be the one for a server.
    #[must_use]
    pub fn with_lock_ttl(mut self, ttl: Duration) -> Self {
        self.lock_ttl = Some(ttl);
        self
    }

    /// The same with this maximum hold for locks that name none. The default is none: they are held
    /// until they are released.
    #[must_use]
    pub fn with_lock_max_hold(mut self, max_hold: Duration) -> Self {
        self.lock_max_hold = Some(max_hold);
        self
    }

    /// The same, with times to live and maximum holds judged by this clock: for tests. It counts for
    /// the handle that opens the directory; later handles share it.
    #[must_use]
    pub fn with_clock(mut self, clock: Arc<dyn Clock>) -> Self {
        self.clock = clock;
        self
    }

    /// For tests of the way large subtrees are deleted, with small ones.
    #[doc(hidden)]
    #[must_use]
    pub fn with_small_tree(mut self, entries: u64) -> Self {
        self.engine.small_tree = entries;
        self
    }

    pub(crate) fn check(&self) -> Result<()> {
        self.namespace.check_namespace().map_err(|error| error.with_operation(Operation::Open))?;
        if self.engine.history == 0 {
            return Err(invalid("history must be at least 1"));
        }
        if self.engine.cache_mib == 0 {
            return Err(invalid("cache_mib must be at least 1"));
        }
        if matches!(self.engine.durability, Durability::Interval(interval) if interval.is_zero()) {
            return Err(invalid(
                "the interval must be more than zero: durability=process flushes every write",
            ));
        }
        if self.timeout.is_zero() {
            return Err(invalid("the timeout must be more than zero"));
        }
        if self.lock_max_hold.is_some_and(|max_hold| max_hold.is_zero()) {
            return Err(invalid("lock_max_hold must be more than zero"));
        }
        if let Some(ttl) = self.lock_ttl {
            let range = crate::store::limits().lock_ttl;
            range
                .check(ttl)
                .map_err(|error| error.with_operation(Operation::Open).with_detail("lock_ttl"))?;
        }
        Ok(())
    }
}

impl fmt::Debug for SledConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SledConfig")
            .field("path", &self.path)
            .field("namespace", &self.namespace)
            .field("wait", &self.wait)
            .field("timeout", &self.timeout)
            .field("lock_ttl", &self.lock_ttl)
            .field("lock_max_hold", &self.lock_max_hold)
            .field("engine", &self.engine)
            .finish_non_exhaustive()
    }
}

fn invalid(reason: impl Into<String>) -> Error {
    Error::invalid_config(reason).with_operation(Operation::Open)
}

/// How a URL with the scheme `sled` is opened.
pub const DRIVER: Driver = Driver::new(crate::BACKEND, &["sled"], |url| {
    Box::pin(async move {
        let store = SledStore::open(SledConfig::from_url(&url)?).await?;
        Ok(Arc::new(store) as Arc<dyn Store>)
    })
});

#[cfg(test)]
mod tests {
    use kv_core::ErrorKind;

    use super::*;

    fn config(url: &str) -> Result<SledConfig> {
        SledConfig::from_url(&StoreUrl::parse(url)?)
    }

    #[test]
    fn both_forms_of_a_path_are_taken() {
        for (url, path) in
            [("sled:a/b", "a/b"), ("sled:/a/b", "/a/b"), ("sled:///a/b", "/a/b"), ("sled:a%20b", "a b")]
        {
            assert_eq!(config(url).unwrap().path(), Path::new(path));
        }
        for url in ["sled:", "sled://", "sled://host/a", "sled://u@/a"] {
            assert!(matches!(config(url).unwrap_err().kind(), ErrorKind::InvalidConfig { .. }), "{url}");
        }
    }

    #[test]
    fn every_parameter_arrives() {
        let config = config(
            "sled:p?durability=interval&flush_interval=2s&verify=read&cache_mib=7&history=5&namespace=a/b&timeout=3s&wait=4s\
             &lock_ttl=5s&lock_max_hold=1m",
        )
        .unwrap();
        assert_eq!(
            config.engine,
            EngineConfig {
                durability: Durability::Interval(Duration::from_secs(2)),
                verify: Verify::Read,
                cache_mib: 7,
                history: 5,
                small_tree: SMALL_TREE,
            }
        );
        assert_eq!(config.namespace.as_str(), "a/b");
        assert_eq!((config.timeout, config.wait), (Duration::from_secs(3), Duration::from_secs(4)));
        let defaults = [Duration::from_secs(5), Duration::from_secs(60)].map(Some);
        assert_eq!([config.lock_ttl, config.lock_max_hold], defaults);
        assert_eq!(self::config("sled:p?durability=power").unwrap().engine.durability, Durability::Power);
        assert_eq!(
            self::config("sled:p?durability=interval").unwrap().engine.durability,
            Durability::Interval(Durability::DEFAULT_INTERVAL)
        );
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        for url in [
            "sled:p?durability=maybe",
            "sled:p?flush_interval=1s",
            "sled:p?durability=power&flush_interval=1s",
            "sled:p?verify=never",
            "sled:p?cache_mib=0",
            "sled:p?history=0",
            "sled:p?timeout=0s",
            "sled:p?lock_max_hold=0s",
            "sled:p?lock_ttl=0s",
            "sled:p?nosuch=1",
        ] {
            assert!(matches!(config(url).unwrap_err().kind(), ErrorKind::InvalidConfig { .. }), "{url}");
        }
        let too_short = SledConfig::new("p").with_lock_ttl(Duration::from_nanos(1));
        let error = too_short.check().unwrap_err();
        assert!(matches!(error.kind(), ErrorKind::TtlOutOfRange { .. }), "{error}");
        assert!(matches!(
            config("sled:p?namespace=a/../b").unwrap_err().kind(),
            ErrorKind::InvalidKey { .. }
        ));
    }
}
