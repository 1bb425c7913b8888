//! What a store can be asked for: refused before any I/O, the same on every store.
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

use std::time::Duration;

use kv_core::{
    Bytes, Capabilities, Compare, Condition, Consistency, DeleteOptions, Error, ErrorKind, Expiry, Fence,
    FencingToken, GetOptions, Key, Limits, ListOptions, LockOptions, Measured, Operation, Power,
    Precondition, PutOptions, Txn, TxnOp, Version, WatchOptions, WatchTarget,
};

const MAX: usize = 1 << 20;

fn key() -> Key {
    "k".parse().unwrap()
}

fn fence() -> Fence {
    Fence::new(key(), FencingToken::new(1), "record")
}

fn large() -> Bytes {
    vec![0; MAX + 1].into()
}

fn all() -> Capabilities {
    Capabilities::new("toy").with_powers(Power::ALL).with_limits(Limits::default())
}

#[track_caller]
fn names(error: &Error, operation: Operation) {
    assert_eq!(error.operation(), Some(operation), "{error}");
    assert_eq!(error.backend(), Some("toy"), "{error}");
    assert_eq!(error.key(), Some("k"), "{error}");
    assert_eq!(error.applied(), kv_core::Applied::No, "{error}");
}

#[test]
fn an_option_needs_its_power() {
    let stale = GetOptions::default().with_consistency(Consistency::Stale);
    let list = ListOptions::default().with_consistency(Consistency::Stale);
    let telling = ListOptions::default().with_expiry();
    let put = |expiry| PutOptions::default().with_expiry(expiry);
    let (ttl, session) = (put(Expiry::Ttl(Duration::from_secs(9))), put(Expiry::Session));
    let keep = put(Expiry::Keep);
    let fenced = PutOptions::default().with_fence(fence());
    let delete = DeleteOptions::default().with_fence(fence());
    let value = Bytes::from_static(b"v");
    let txn = |op: kv_core::Result<TxnOp>| Txn::always().or_else([op]);
    let expiring = |expiry| txn(TxnOp::put_expiring(key(), "v", expiry));

    type Ask<'a> = Box<dyn Fn(&Capabilities) -> kv_core::Result<()> + 'a>;
    let asks: Vec<(Power, Ask<'_>)> = vec![
        (Power::StaleReads, Box::new(|store| store.admit_get(&key(), &stale))),
        (Power::StaleReads, Box::new(|store| store.admit_list("k", &list))),
        (Power::ListExpiry, Box::new(|store| store.admit_list("k", &telling))),
        (Power::History, Box::new(|store| store.admit_list_at("k", &ListOptions::default()))),
        (Power::Ttl, Box::new(|store| store.admit_put(&key(), &value, &ttl))),
        (Power::SessionKeys, Box::new(|store| store.admit_put(&key(), &value, &session))),
        (Power::KeepExpiry, Box::new(|store| store.admit_put(&key(), &value, &keep))),
        (Power::KeepExpiry, Box::new(|store| store.admit_transact(&expiring(Expiry::Keep)))),
        (Power::FencedWrites, Box::new(|store| store.admit_put(&key(), &value, &fenced))),
        (Power::FencedWrites, Box::new(|store| store.admit_delete(&key(), &delete))),
        (Power::Transactions, Box::new(|store| store.admit_transact(&Txn::always()))),
        (Power::FencedWrites, Box::new(|store| store.admit_transact(&Txn::always().with_fence(fence())))),
        (Power::Ttl, Box::new(|store| store.admit_transact(&expiring(Expiry::Ttl(Duration::from_secs(9)))))),
        (Power::SessionKeys, Box::new(|store| store.admit_transact(&expiring(Expiry::Session)))),
    ];
    for (power, ask) in asks {
        ask(&all()).unwrap();
        let error = ask(&all().without_power(power).with_advice(power, "turn it on")).unwrap_err();
        assert!(
            matches!(error.kind(), ErrorKind::Unsupported { power: Some(of), .. } if *of == power),
            "{error}"
        );
        let text = error.to_string();
        assert!(text.contains(power.name()) && text.contains(": turn it on"), "{text}");
    }
    // What needs nothing is admitted by a store that declares nothing.
    let none = Capabilities::new("toy");
    none.admit_get(&key(), &GetOptions::default().with_expiry()).unwrap();
    none.admit_put(&key(), &value, &PutOptions::default()).unwrap();
    none.admit_lock(&key(), &LockOptions::default()).unwrap();
}

#[test]
fn values_are_bounded_wherever_they_stand() {
    let store = all();
    let compared = Precondition::Value(large());
    let put = PutOptions::default().with_precondition(compared.clone());
    let delete = DeleteOptions::default().with_precondition(compared);
    let conditions = |value: Bytes| Txn::when([Condition::value(key(), Compare::Less, value)]);
    for (refused, operation, of) in [
        (store.admit_put(&key(), &large(), &PutOptions::default()), Operation::Put, Measured::Value),
        (store.admit_put(&key(), &Bytes::new(), &put), Operation::Put, Measured::ComparedValue),
        (store.admit_delete(&key(), &delete), Operation::Delete, Measured::ComparedValue),
        (
            store.admit_lock(&key(), &LockOptions::default().with_owner(large())),
            Operation::Lock,
            Measured::OwnerValue,
        ),
    ] {
        let error = refused.unwrap_err();
        assert_eq!(error.kind(), &ErrorKind::TooLarge { of, size: MAX + 1, max: MAX });
        assert!(error.to_string().contains(&format!("{of} is too large: {} bytes", MAX + 1)), "{error}");
        names(&error, operation);
    }
    let mut limits = Limits::default();
    limits.max_txn_bytes = 4 * MAX;
    let store = store.with_limits(limits);
    let error = store.admit_transact(&conditions(large())).unwrap_err();
    let of = Measured::ComparedValue;
    assert_eq!(error.kind(), &ErrorKind::TooLarge { of, size: MAX + 1, max: MAX });
    names(&error, Operation::Transact);
    // As large as a value may be is not too large.
    let largest = large().slice(..MAX);
    store.admit_transact(&conditions(largest.clone())).unwrap();
    store.admit_lock(&key(), &LockOptions::default().with_owner(largest.clone())).unwrap();
    let put = PutOptions::default().with_precondition(Precondition::Value(largest.clone()));
    store.admit_put(&key(), &largest, &put).unwrap();
}

#[test]
fn times_to_live_are_bounded() {
    let zero = Duration::ZERO;
    let put = PutOptions::default().with_expiry(Expiry::Ttl(zero));
    let txn = Txn::always().then([TxnOp::put_expiring(key(), "v", Expiry::Ttl(zero))]);
    let store = all();
    for (refused, operation) in [
        (store.admit_put(&key(), &Bytes::new(), &put), Operation::Put),
        (store.admit_lock(&key(), &LockOptions::default().with_ttl(zero)), Operation::Lock),
        (store.admit_transact(&txn), Operation::Transact),
    ] {
        let error = refused.unwrap_err();
        assert!(matches!(error.kind(), ErrorKind::TtlOutOfRange { .. }), "{error}");
        names(&error, operation);
    }
}

#[test]
fn a_watch_begins_in_one_place() {
    let (store, target) = (all(), WatchTarget::from(key()));
    let (from, version) = (WatchOptions::default().with_from(Version::new(1)), Version::new(2));
    for two in [from.clone().with_initial(), from.clone().with_from(version)] {
        let error = store.admit_watch(&target, &two).unwrap_err();
        assert!(matches!(error.kind(), ErrorKind::InvalidArgument { .. }), "{error}");
        names(&error, Operation::Watch);
    }
    for one in [from, WatchOptions::default(), WatchOptions::default().with_initial().with_initial()] {
        store.admit_watch(&target, &one).unwrap();
    }
}
