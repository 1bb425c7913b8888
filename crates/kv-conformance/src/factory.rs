//! How the suite gets at a store: a factory of handles.

use std::sync::Arc;

use async_trait::async_trait;
use kv_core::{Driver, ErrorKind, Prefix, Result, Store, StoreUrl};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

use crate::line::Line;
use crate::relay;

/// Opens handles of the store under test.
#[async_trait]
pub trait Factory: Send + Sync + 'static {
    /// What is under test, as reports name it.
    fn label(&self) -> String;

    /// Why the suite cannot run here, such as that no server was named. All cases are then skipped,
    /// or fail under `KV_REQUIRE=1`.
    fn unavailable(&self) -> Option<String> {
        None
    }

    /// A handle on `namespace`. Each call opens another, independent one, with its own session, on
    /// the same data.
    ///
    /// # Errors
    ///
    /// Whatever opening answers; a namespace the store does not take is `InvalidKey`.
    async fn open(&self, namespace: &Prefix) -> Result<Arc<dyn Store>>;

    /// A handle on `namespace` like those of [`open`](Self::open), and the way to its servers, which a case
    /// can cut. `None` where there is no such way or nothing can cut it: then the cases about outages do
    /// not apply.
    ///
    /// # Errors
    ///
    /// Whatever opening answers.
    async fn open_on_a_line(&self, namespace: &Prefix) -> Result<Option<(Arc<dyn Store>, Line)>> {
        let _ = namespace;
        Ok(None)
    }
}

/// Opens a store by its URL, with the namespace of each handle added: as a path below the URL's for
/// `scheme://…`, as the parameter `namespace` for `scheme:…`.
#[derive(Clone, Debug)]
pub struct UrlFactory {
    driver: Driver,
    /// `Err` says why there is no URL.
    url: std::result::Result<String, String>,
    label: String,
}

impl UrlFactory {
    /// The stores of this driver below this URL.
    #[must_use]
    pub fn new(driver: Driver, url: impl Into<String>) -> Self {
        Self { driver, url: Ok(url.into()), label: driver.name.to_owned() }
    }

    /// The stores of this driver below the URL that the environment variable `name` holds. While it
    /// is not set, the suite is skipped.
    #[must_use]
    pub fn from_env(driver: Driver, name: &str) -> Self {
        let url = std::env::var(name).map_err(|_| format!("{name} is not set: it names the store's URL"));
        Self { driver, url, label: driver.name.to_owned() }
    }

    /// The same under another name in reports, for a backend that is tested in several forms.
    #[must_use]
    pub fn with_label(mut self, label: impl Into<String>) -> Self {
        self.label = label.into();
        self
    }
}

impl UrlFactory {
    fn url(&self) -> Result<&str> {
        self.url.as_deref().map_err(|why| kv_core::Error::invalid_config(why.as_str()))
    }

    async fn open_url(&self, url: &str, namespace: &Prefix) -> Result<Arc<dyn Store>> {
        (self.driver.open)(StoreUrl::parse(&below(url, namespace.as_str()))?).await
    }
}

#[async_trait]
impl Factory for UrlFactory {
    fn label(&self) -> String {
        self.label.clone()
    }

    fn unavailable(&self) -> Option<String> {
        self.url.as_ref().err().cloned()
    }

    async fn open(&self, namespace: &Prefix) -> Result<Arc<dyn Store>> {
        self.open_url(self.url()?, namespace).await
    }

    /// Over a relay to each server of a URL that names them all with their ports and does not ask for TLS,
    /// where certificates name the servers.
    async fn open_on_a_line(&self, namespace: &Prefix) -> Result<Option<(Arc<dyn Store>, Line)>> {
        let laid = relay::lay(self.url()?).await;
        let laid = laid.map_err(|error| kv_core::Error::from(ErrorKind::Internal).with_source(error))?;
        let Some((url, line)) = laid else { return Ok(None) };
        Ok(Some((self.open_url(&url, namespace).await?, line)))
    }
}

/// What could mean something else in a URL; the slashes of a namespace stay.
const ESCAPED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'/').remove(b'-').remove(b'_').remove(b'.');

/// `url` with `namespace` added.
fn below(url: &str, namespace: &str) -> String {
    let namespace = utf8_percent_encode(namespace, ESCAPED);
    let (base, query) = url.split_once('?').map_or((url, None), |(base, query)| (base, Some(query)));
    if base.contains("://") {
        let query = query.map(|query| format!("?{query}")).unwrap_or_default();
        return format!("{}/{namespace}{query}", base.trim_end_matches('/'));
    }
    let query = query.map(|query| format!("{query}&")).unwrap_or_default();
    format!("{base}?{query}namespace={namespace}")
}

#[cfg(test)]
mod tests {
    use super::below;

    #[test]
    fn the_namespace_is_a_path_behind_hosts_and_a_parameter_else() {
        assert_eq!(below("etcd://h:1,g:2", "a/b"), "etcd://h:1,g:2/a/b");
        assert_eq!(below("etcd://h:1/", "a"), "etcd://h:1/a");
        assert_eq!(below("zk+tls://h:1/app?ca=x", "a"), "zk+tls://h:1/app/a?ca=x");
        assert_eq!(below("mem:x", "a/b c%"), "mem:x?namespace=a/b%20c%25");
        assert_eq!(below("sled:/tmp/x?durable=true", "a"), "sled:/tmp/x?durable=true&namespace=a");
    }
}
