//! How a memory store is opened.

use std::fmt;
use std::sync::Arc;

use kv_backend::{Clock, Namespace};
use kv_core::{Error, Operation, Prefix, Result, StoreUrl};

/// What a [`MemStore`](crate::MemStore) is opened with. The default is a fresh store nobody else sees.
#[derive(Clone, Default)]
pub struct MemConfig {
    pub(crate) name: Option<String>,
    pub(crate) namespace: Prefix,
    pub(crate) history: Option<usize>,
    pub(crate) clock: Option<Arc<dyn Clock>>,
}

impl MemConfig {
    /// How many changes are kept for watches to begin in or to catch up with, unless
    /// [`with_history`](Self::with_history) says otherwise.
    pub const DEFAULT_HISTORY: usize = 10_000;

    /// A fresh store.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// The same, shared under this name with everybody in this process who has it open. The data
    /// goes with the last handle.
    #[must_use]
    pub fn with_name(mut self, name: impl Into<String>) -> Self {
        self.name = Some(name.into());
        self
    }

    /// The same, with every key below this path.
    #[must_use]
    pub fn with_namespace(mut self, namespace: Prefix) -> Self {
        self.namespace = namespace;
        self
    }

    /// The same, keeping this many changes, and never more than 64 MiB of them. The newest one is
    /// always kept.
    ///
    /// It is a property of the data: a named store that is open with another history refuses it.
    #[must_use]
    pub fn with_history(mut self, changes: usize) -> Self {
        self.history = Some(changes);
        self
    }

    /// The same, going by this clock in place of [`TokioClock`](crate::TokioClock).
    ///
    /// It is a property of the data: a named store that is open with another clock refuses it.
    #[must_use]
    pub fn with_clock(mut self, clock: Arc<dyn Clock>) -> Self {
        self.clock = Some(clock);
        self
    }

    /// What the URL `mem:` or `mem:NAME` says, with the parameters `namespace`, `history` (changes)
    /// and `timeout`, which is kept without doing anything: no call ever waits for the backend.
    ///
    /// # Errors
    ///
    /// `InvalidConfig` for hosts and for parameters that are unknown or wrong; `InvalidKey` for a
    /// wrong namespace.
    pub fn from_url(url: &StoreUrl) -> Result<Self> {
        if url.has_authority() {
            return Err(Error::invalid_config("a memory store has no host: mem: or mem:NAME")
                .with_operation(Operation::Open));
        }
        let mut params = url.params();
        let mut config = Self::new().with_namespace(params.namespace("namespace")?);
        config.history = params.parsed("history")?;
        params.duration("timeout")?;
        params.finish()?;
        Ok(if url.path().is_empty() { config } else { config.with_name(url.path()) })
    }

    pub(crate) fn namespace(&self) -> Result<Arc<Namespace>> {
        Namespace::new(&self.namespace).map(Arc::new)
    }
}

impl fmt::Debug for MemConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemConfig")
            .field("name", &self.name)
            .field("namespace", &self.namespace)
            .field("history", &self.history)
            .field("clock", &self.clock)
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use kv_core::ErrorKind;

    use super::*;

    fn parse(url: &str) -> Result<MemConfig> {
        MemConfig::from_url(&StoreUrl::parse(url).unwrap())
    }

    #[test]
    fn a_url_says_all_there_is_to_say() {
        let config = parse("mem:jobs?namespace=a/b&history=5&timeout=3s").unwrap();
        assert_eq!(config.name.as_deref(), Some("jobs"));
        assert_eq!(config.namespace.as_str(), "a/b");
        assert_eq!(config.history, Some(5));
        assert_eq!(parse("mem:").unwrap().name, None);
    }

    #[test]
    fn what_is_not_understood_is_refused() {
        for url in ["mem://host/x", "mem://", "mem:?histroy=5", "mem:?history=many", "mem:?timeout=0s"] {
            assert!(matches!(parse(url).unwrap_err().kind(), ErrorKind::InvalidConfig { .. }), "{url}");
        }
        let error = parse("mem:?namespace=a/../b").unwrap_err();
        assert!(matches!(error.kind(), ErrorKind::InvalidKey { .. }));
    }
}
