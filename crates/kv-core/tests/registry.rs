//! The registry: finds drivers, refuses doubles, and says what would add a missing one.
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

use std::time::Duration;

use kv_core::{Driver, Error, ErrorKind, ExpiryBound, Operation, Registry, TtlRange};

const FAILING: Driver = Driver::new("failing", &["failing", "failing+tls"], |url| {
    Box::pin(async move { Err(Error::invalid_config(format!("asked for {}", url.path()))) })
});

/// Polls a future that never waits.
fn ready<T>(future: impl Future<Output = T>) -> T {
    let mut future = std::pin::pin!(future);
    match future.as_mut().poll(&mut std::task::Context::from_waker(std::task::Waker::noop())) {
        std::task::Poll::Ready(value) => value,
        std::task::Poll::Pending => panic!("it waits"),
    }
}

#[test]
fn an_unknown_scheme_lists_the_known_ones_and_what_would_add_it() {
    let mut registry = Registry::new();
    registry.register(FAILING).unwrap();
    registry.advise("etcd", "build kv-any with the feature `etcd`");
    let error = ready(registry.open("etcd://h/")).unwrap_err();
    assert!(matches!(error.kind(), ErrorKind::UnknownScheme { scheme, .. } if scheme == "etcd"));
    let text = error.to_string();
    assert!(text.contains("failing, failing+tls") && text.contains("feature `etcd`"), "{text}");
}

#[test]
fn a_failure_to_open_names_the_backend() {
    let mut registry = Registry::new();
    registry.register(FAILING).unwrap();
    let error = ready(registry.open("failing:x")).unwrap_err();
    assert_eq!((error.backend(), error.operation()), (Some("failing"), Some(Operation::Open)));
}

#[test]
fn a_scheme_has_one_driver() {
    let mut registry = Registry::new();
    registry.register(FAILING).unwrap();
    let other = Driver::new("other", &["other", "failing"], FAILING.open);
    assert!(registry.register(other).is_err());
    assert!(registry.driver("other").is_none(), "nothing of a refused driver is added");
}

#[test]
fn times_to_live_are_rounded_up_and_bounded() {
    let second = Duration::from_secs(1);
    let range = TtlRange::new(2 * second, 10 * second, second);
    assert_eq!(range.check(2 * second).unwrap(), 2 * second);
    assert_eq!(range.check(Duration::from_millis(2001)).unwrap(), 3 * second);
    for outside in [Duration::ZERO, second, 11 * second, Duration::MAX] {
        assert!(matches!(range.check(outside).unwrap_err().kind(), ErrorKind::TtlOutOfRange { .. }));
    }
    assert_eq!(ExpiryBound::new(2, second).latest(10 * second), 21 * second);
}
