//! Errors: what they say, and whether a write may have happened.
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

use std::error::Error as _;
use std::time::Duration;

use kv_core::{Applied, Error, ErrorKind, Operation, Version};

#[test]
fn a_text_names_what_where_and_what_was_found() {
    let error = Error::new(ErrorKind::PreconditionFailed { current: Some(Version::new(7)) })
        .with_operation(Operation::Put)
        .with_backend("etcd")
        .with_key("a/b")
        .with_endpoint("h1:2379")
        .with_detail("expected version 3")
        .with_source(std::io::Error::other("native words"));
    assert_eq!(
        error.to_string(),
        "etcd: put \"a/b\": the precondition does not hold: it is at version 7: expected version 3 (at h1:2379)"
    );
    assert_eq!(error.source().unwrap().to_string(), "native words", "the source is told apart, not repeated");
}

#[test]
fn the_innermost_name_stays() {
    let error = Error::new(ErrorKind::NotFound)
        .with_operation(Operation::Get)
        .with_key("inner")
        .with_operation(Operation::Put)
        .with_key("outer");
    assert_eq!(error.operation(), Some(Operation::Get));
    assert_eq!(error.key(), Some("inner"));
}

#[test]
fn only_failures_that_can_hide_a_write_are_unknown() {
    let write = |kind: ErrorKind| Error::new(kind).with_operation(Operation::Put).applied();
    for refusal in [
        ErrorKind::InvalidKey { reason: String::new() },
        ErrorKind::TooLarge { size: 2, max: 1 },
        ErrorKind::TtlOutOfRange { min: Duration::ZERO, max: Duration::ZERO },
        ErrorKind::NotFound,
        ErrorKind::AlreadyExists { current: None },
        ErrorKind::PreconditionFailed { current: None },
        ErrorKind::NotHeld,
        ErrorKind::PermissionDenied,
        ErrorKind::Closed,
    ] {
        assert_eq!(write(refusal.clone()), Applied::No, "{refusal:?}");
    }
    for failure in [ErrorKind::Timeout, ErrorKind::Unavailable, ErrorKind::Protocol, ErrorKind::Internal] {
        assert_eq!(write(failure.clone()), Applied::Unknown, "{failure:?}");
        assert!(
            Error::new(failure.clone())
                .with_operation(Operation::Put)
                .to_string()
                .contains("may have been applied")
        );
        assert_eq!(
            Error::new(failure.clone()).with_operation(Operation::Get).applied(),
            Applied::No,
            "{failure:?}"
        );
        assert_eq!(Error::new(failure).with_operation(Operation::Put).not_applied().applied(), Applied::No);
    }
}

#[test]
fn an_error_is_small_and_travels() {
    fn travels<T: Send + Sync + 'static>() {}
    travels::<Error>();
    assert_eq!(size_of::<kv_core::Result<()>>(), size_of::<usize>());
}
