//! Why Consul refuses a transaction. Nothing else reads what its operations answer then.

use kv_core::{Error, ErrorKind};

use crate::client::error::{is_name_refused, name_refused, protocol};
use crate::client::wire::{Op, TxnRefusal};

/// Why a transaction was refused, as far as it matters what to do next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// The key does not exist.
    Missing,
    /// The key's last holder lost it a moment ago.
    LockDelay,
    /// The session does not exist.
    NoSession,
    /// The key's state is another than the operation wants.
    Conflict,
}

/// What a refusal says.
///
/// # Errors
///
/// If the token lacks a right, or the request makes no sense to Consul.
pub(crate) fn refusal(refused: &TxnRefusal, op: &Op) -> Result<Refusal, Error> {
    let what = refused.what.as_str();
    let has = |part: &str| what.contains(part);
    if has("Permission denied") {
        let lacks = format!("the token lacks {} {:?}: Consul answered {what}", op.right(), op.key());
        return Err(Error::new(ErrorKind::PermissionDenied).with_detail(lacks));
    }
    if is_name_refused(what) {
        return Err(Error::new(name_refused()).with_detail(what).with_key(op.key()));
    }
    if has("ACL not found") {
        return Err(Error::new(ErrorKind::Unauthenticated).with_detail(what));
    }
    if has("doesn't exist") {
        Ok(Refusal::Missing)
    } else if has("lock delay") {
        Ok(Refusal::LockDelay)
    } else if has("invalid session") {
        Ok(Refusal::NoSession)
    } else if ["stale", "failed ", "exists", "lock is already held"].iter().any(|part| has(part)) {
        Ok(Refusal::Conflict)
    } else {
        Err(protocol("Consul refused a transaction for a reason that is not known").not_applied())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_refusal_seen_is_understood() {
        let seen = |what: &str| {
            let refused = TxnRefusal { op_index: 0, what: what.to_owned() };
            refusal(&refused, &Op::delete("k"))
        };
        for (what, expected) in [
            ("failed to set key \"k\", index is stale", Refusal::Conflict),
            ("failed index check for key \"k\", current modify index 24 != 1", Refusal::Conflict),
            ("failed to check index, key \"k\" doesn't exist", Refusal::Missing),
            ("key \"k\" exists", Refusal::Conflict),
            ("key \"k\" doesn't exist", Refusal::Missing),
            ("failed session check for key \"k\", current session \"A\" != \"B\"", Refusal::Conflict),
            ("failed to check session, key \"k\" doesn't exist", Refusal::Missing),
            ("failed to lock key \"k\", lock is already held", Refusal::Conflict),
            ("failed to lock key \"k\", due to lock delay", Refusal::LockDelay),
            ("invalid session \"x\"", Refusal::NoSession),
            ("failed to unlock key \"k\", lock isn't held, or is held by another session", Refusal::Conflict),
        ] {
            assert_eq!(seen(what).unwrap(), expected, "{what}");
        }
        let denied = seen("Permission denied").unwrap_err();
        assert_eq!(denied.kind(), &ErrorKind::PermissionDenied);
        assert!(denied.to_string().contains("key:write on \"k\""), "{denied}");
        assert_eq!(seen("invalid key name").unwrap_err().kind(), &name_refused());
        assert_eq!(seen("unknown KV verb \"x\"").unwrap_err().kind(), &ErrorKind::Protocol);
    }
}
