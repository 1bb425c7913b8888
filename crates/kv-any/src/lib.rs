#![doc = include_str!("../README.md")]
#![cfg_attr(docsrs, feature(doc_cfg))]

use std::sync::Arc;

pub use kv_core;
use kv_core::{Driver, Registry, Result, Store};

/// The example of the project's README, which is not in this package.
#[cfg(all(doctest, feature = "mem"))]
#[doc = include_str!("../../../README.md")]
struct ProjectReadme;

/// The drivers of the features that are on.
const DRIVERS: &[Driver] = &[
    #[cfg(feature = "mem")]
    kv_mem::DRIVER,
    #[cfg(feature = "sled")]
    kv_sled::DRIVER,
    #[cfg(feature = "etcd")]
    kv_etcd::DRIVER,
    #[cfg(feature = "consul")]
    kv_consul::DRIVER,
    #[cfg(feature = "zk")]
    kv_zk::DRIVER,
];

/// Every scheme of this project and the feature that brings it.
const FEATURES: &[(&str, &str)] = &[
    ("mem", "mem"),
    ("sled", "sled"),
    ("etcd", "etcd"),
    ("etcd+tls", "etcd"),
    ("consul", "consul"),
    ("consul+tls", "consul"),
    ("zk", "zk"),
    ("zk+tls", "zk"),
];

/// The drivers that are compiled in, and advice for those that are not. Add your own to it with
/// [`Registry::register`].
#[must_use]
pub fn registry() -> Registry {
    let mut registry = Registry::new();
    for driver in DRIVERS {
        let registered = registry.register(*driver);
        debug_assert!(registered.is_ok(), "two backends share a scheme: {registered:?}");
    }
    for (scheme, feature) in FEATURES {
        if registry.driver(scheme).is_none() {
            registry.advise(scheme, format!("the feature {feature:?} of kv-any adds {scheme}:"));
        }
    }
    registry
}

/// Opens the store a URL names, with the drivers that are compiled in.
///
/// # Errors
///
/// `InvalidConfig` for a bad URL; `UnknownScheme` for one without a driver, listing the known ones
/// and the feature that would add it; whatever the driver answers.
pub async fn open(url: &str) -> Result<Arc<dyn Store>> {
    registry().open(url).await
}
