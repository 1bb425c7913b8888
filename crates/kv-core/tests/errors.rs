//! Errors: what they say, and whether a write may have happened.
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

use std::error::Error as _;
use std::time::Duration;

use kv_core::{Applied, Error, ErrorKind, LockLoss, Measured, Operation, Power, Version};

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
        ErrorKind::TooLarge { of: Measured::Value, size: 2, max: 1 },
        ErrorKind::TtlOutOfRange { min: Duration::ZERO, max: Duration::ZERO },
        ErrorKind::NotFound,
        ErrorKind::AlreadyExists { current: None },
        ErrorKind::PreconditionFailed { current: None },
        ErrorKind::NotHeld { loss: None },
        ErrorKind::Refused { reason: String::new() },
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

/// What no text for people may hold: what acts on a terminal, or shows other letters than there are.
fn acts(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}')
}

const HOSTILE: &str = "gone\r\n\u{1b}[2J\u{9b}31m\u{7}\0\u{202e}txt\u{2066}\u{200f}a\u{200d}b\u{feff}";

/// A foreign error with a foreign cause, both hostile.
#[derive(Debug, thiserror::Error)]
#[error("outer {HOSTILE}")]
struct Outer(#[source] Inner);

#[derive(Debug, thiserror::Error)]
#[error("inner {HOSTILE}")]
struct Inner;

#[test]
fn text_from_outside_cannot_act_on_a_terminal() {
    let kinds: [fn(String) -> ErrorKind; 8] = [
        |reason| ErrorKind::InvalidKey { reason },
        |reason| ErrorKind::InvalidValue { reason },
        |reason| ErrorKind::InvalidArgument { reason },
        |reason| ErrorKind::InvalidConfig { reason },
        |what| ErrorKind::Unsupported { power: None, what },
        |reason| ErrorKind::Refused { reason },
        |scheme| ErrorKind::UnknownScheme { scheme, known: vec![] },
        |_| ErrorKind::Protocol,
    ];
    for kind in kinds {
        let error = Error::new(kind(HOSTILE.to_owned()))
            .with_operation(Operation::Get)
            .with_key(HOSTILE)
            .with_endpoint(HOSTILE)
            .with_detail(HOSTILE)
            .with_source(Outer(Inner));
        let mut shown = vec![error.to_string(), format!("{error:?}")];
        let mut at = error.source();
        while let Some(cause) = at {
            shown.extend([cause.to_string(), format!("{cause:?}")]);
            at = cause.source();
        }
        assert_eq!(shown.len(), 6, "both causes are handed out");
        assert!(shown[2].starts_with("outer gone\\r\\n") && shown[4].starts_with("inner gone\\r\\n"));
        for text in &shown {
            assert!(!text.contains(acts), "{:?}: {text:?}", error.kind());
        }
        // Parts that are in lines of their own: only those line ends may be there.
        assert!(!format!("{error:#?}").contains(|c| c != '\n' && acts(c)));
        for part in [error.endpoint().unwrap_or_default(), &error.kind().to_string()] {
            assert!(!part.contains(acts), "{part:?}");
        }
        assert_eq!(error.key(), Some(HOSTILE), "the key is for programs and stays as it is");
    }
    let server = kv_core::ServerInfo::new(HOSTILE, HOSTILE);
    assert!(!server.product.contains(acts) && !server.version.contains(acts));
}

#[test]
fn escaping_twice_is_escaping_once() {
    let once = kv_core::text::escape(HOSTILE).into_owned();
    assert_eq!(kv_core::text::escape(&once), once);
    assert_eq!(kv_core::text::escape(r"C:\kv ü 日本 'a' \n"), r"C:\kv ü 日本 'a' \n");
}

#[test]
fn debug_reads_as_a_sentence_with_causes() {
    let error = Error::new(ErrorKind::Unavailable)
        .with_operation(Operation::Get)
        .with_backend("etcd")
        .with_key("a")
        .with_source(Error::new(ErrorKind::Timeout).with_source(std::io::Error::other("no route")));
    assert_eq!(
        format!("{error:?}"),
        "etcd: get \"a\": unavailable; caused by: deadline exceeded; caused by: no route"
    );
    assert!(format!("{error:#?}").contains("applied: No"));
}

#[test]
fn a_clone_is_the_same_error_with_the_same_cause() {
    let error = Error::new(ErrorKind::Timeout)
        .with_operation(Operation::Put)
        .with_detail("no answer within 5 s")
        .with_source(Outer(Inner));
    let clone = error.clone();
    assert_eq!(format!("{clone:?}"), format!("{error:?}"));
    assert_eq!(clone.applied(), Applied::Unknown);
    assert!(clone.cause().unwrap().is::<Outer>(), "programs can still look at the type");
    assert!(clone.cause().unwrap().source().unwrap().is::<Inner>());
}

#[test]
fn times_are_told_as_people_write_them() {
    let year = Duration::from_secs(365 * 24 * 3600);
    let range = kv_core::TtlRange::new(Duration::from_millis(1), year, Duration::from_millis(1));
    let text = range.check(Duration::ZERO).unwrap_err().to_string();
    assert_eq!(text, "the time to live must be from 1 ms to 365 days: 0 s was asked for");
    let ten = Duration::from_secs(10);
    let text = kv_core::TtlRange::new(ten, ten, ten).check(year).unwrap_err().to_string();
    assert_eq!(text, "the time to live must be 10 s: 365 days was asked for");
}

#[test]
fn a_program_decides_by_reasons_and_people_read_them() {
    let told = |error: Error| error.with_backend("toy").to_string();
    assert_eq!(told(Error::lacks(Power::Ttl)), "toy: not supported by this store: ttl");
    assert_eq!(
        told(Error::too_large(Measured::TxnOps, 200, 128)),
        "toy: the transaction is too large: 200 conditions and operations, the limit is 128"
    );
    let lost = Error::not_held(LockLoss::Removed);
    assert_eq!(lost.kind(), &ErrorKind::NotHeld { loss: Some(LockLoss::Removed) });
    assert_eq!(told(lost), "toy: the lock is not held: its record was removed from outside");
    assert_eq!(told(Error::not_held(None)), "toy: the lock is not held");
    let refused = Error::refused("a learner cannot lead").with_operation(Operation::Put);
    assert_eq!((refused.applied(), refused.is_transient()), (Applied::No, false));
    assert_eq!(told(refused), "toy: put: refused: a learner cannot lead");
}
