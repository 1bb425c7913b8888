//! What can be opened, and what is said of what cannot.
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

use kv_core::ErrorKind;

#[tokio::test]
async fn a_scheme_without_its_feature_names_the_feature() {
    for (scheme, feature) in [
        ("mem", "mem"),
        ("sled", "sled"),
        ("etcd", "etcd"),
        ("etcd+tls", "etcd"),
        ("consul", "consul"),
        ("consul+tls", "consul"),
        ("zk", "zk"),
        ("zk+tls", "zk"),
    ] {
        if kv_any::registry().driver(scheme).is_some() {
            continue;
        }
        let error = kv_any::open(&format!("{scheme}://host/")).await.unwrap_err();
        assert!(matches!(error.kind(), ErrorKind::UnknownScheme { .. }), "{error}");
        assert!(error.to_string().contains(&format!("the feature {feature:?} of kv-any")), "{error}");
    }
}

#[tokio::test]
async fn an_unknown_scheme_lists_the_known_ones() {
    let error = kv_any::open("nosuch://host/").await.unwrap_err();
    let known: Vec<_> = kv_any::registry().schemes().collect();
    assert!(error.to_string().contains(&format!("\"nosuch\"; known: {}", known.join(", "))), "{error}");
}

/// Every feature that is on has its driver, so no scheme of one hid that of another.
#[test]
fn each_feature_brings_its_schemes() {
    let registry = kv_any::registry();
    for (on, schemes) in [
        (cfg!(feature = "mem"), &["mem"][..]),
        (cfg!(feature = "sled"), &["sled"]),
        (cfg!(feature = "etcd"), &["etcd", "etcd+tls"]),
        (cfg!(feature = "consul"), &["consul", "consul+tls"]),
        (cfg!(feature = "zk"), &["zk", "zk+tls"]),
    ] {
        for scheme in schemes {
            assert_eq!(registry.driver(scheme).is_some(), on, "{scheme}");
        }
    }
}

#[cfg(feature = "mem")]
#[tokio::test]
async fn a_store_of_its_own_can_be_added_and_taken_schemes_cannot() {
    use kv_core::{Driver, StoreExt};

    let mut registry = kv_any::registry();
    let mem = *registry.driver("mem").unwrap();
    registry.register(Driver::new("mine", &["mine"], mem.open)).unwrap();
    assert!(registry.register(mem).is_err());
    let store = registry.open("mem:").await.unwrap();
    store.put("a", "x").await.unwrap();
    assert_eq!(store.get("a").await.unwrap().unwrap().value, "x");
}
