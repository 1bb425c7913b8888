//! Transactions: how conditions read an absent key, and what is refused before any I/O.
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

use kv_core::{Bytes, Compare, Condition, Entry, ErrorKind, Key, Limits, Txn, TxnOp, Version};

fn key(text: &str) -> Key {
    Key::new(text).unwrap()
}

fn stored(value: &str, version: u64) -> Entry {
    Entry::new(key("k"), Bytes::copy_from_slice(value.as_bytes()), Version::new(version), Version::new(1))
}

#[test]
fn an_absent_key_is_neither_empty_nor_zero() {
    let all = [Compare::Equal, Compare::NotEqual, Compare::Less, Compare::Greater];
    for compare in all {
        for condition in [
            Condition::version(key("k"), compare, Version::ZERO),
            Condition::version(key("k"), compare, Version::new(9)),
            Condition::created(key("k"), compare, Version::new(9)),
            Condition::value(key("k"), compare, ""),
            Condition::value(key("k"), compare, "x"),
        ] {
            let condition = condition.unwrap();
            assert_eq!(condition.holds(None), compare == Compare::NotEqual, "{condition:?}");
        }
    }
    assert!(Condition::absent("k").unwrap().holds(None));
    assert!(!Condition::present("k").unwrap().holds(None));
}

#[test]
fn what_is_stored_stands_on_the_left() {
    let entry = stored("m", 5);
    let holds = |condition: kv_core::Result<Condition>| condition.unwrap().holds(Some(&entry));
    assert!(holds(Condition::version(key("k"), Compare::Less, Version::new(6))));
    assert!(!holds(Condition::version(key("k"), Compare::Greater, Version::new(6))));
    assert!(holds(Condition::created(key("k"), Compare::Equal, Version::new(1))));
    assert!(holds(Condition::value(key("k"), Compare::Greater, "a")));
    assert!(
        holds(Condition::value(key("k"), Compare::Less, "ma")),
        "bytes compare like text: a prefix is less"
    );
    assert!(holds(Condition::value(key("k"), Compare::NotEqual, "")));
    assert!(holds(Condition::present(key("k"))) && !holds(Condition::absent(key("k"))));
}

#[test]
fn limits_are_checked_before_any_io() {
    let mut limits = Limits::default();
    limits.max_txn_ops = 3;
    limits.max_txn_bytes = 20;
    limits.max_value = 8;
    let too_large = |txn: Txn| match txn.check(&limits).unwrap_err().kind() {
        ErrorKind::TooLarge { size, max, of } => (*size, *max, of.unit()),
        other => panic!("{other:?}"),
    };
    let two = || [TxnOp::get(key("a")), TxnOp::get(key("b"))];
    assert!(Txn::when([Condition::absent(key("a"))]).then(two()).or_else(two()).check(&limits).is_ok());
    let four = Txn::when([Condition::absent(key("a")), Condition::absent(key("b"))]).then(two());
    assert_eq!(too_large(four), (4, 3, "conditions and operations"));
    assert_eq!(too_large(Txn::always().then([TxnOp::put(key("a"), vec![0; 9])])), (9, 8, "bytes"));
    let wide = Txn::always().then(["a", "b", "c"].map(|name| TxnOp::put(key(name), vec![0; 8])));
    assert_eq!(too_large(wide), (27, 20, "bytes"));
}

#[test]
fn a_key_is_written_once_per_branch() {
    let limits = Limits::default();
    let twice = [TxnOp::put(key("a"), "1"), TxnOp::delete(key("/a/"))];
    for txn in [Txn::always().then(twice.clone()), Txn::always().or_else(twice)] {
        let error = txn.check(&limits).unwrap_err();
        assert!(matches!(error.kind(), ErrorKind::InvalidArgument { .. }));
        assert_eq!(error.key(), Some("a"));
    }
    let each = Txn::always()
        .then([TxnOp::get(key("a")), TxnOp::put(key("a"), "1"), TxnOp::get(key("a"))])
        .or_else([TxnOp::delete(key("a"))]);
    assert!(each.check(&limits).is_ok());
}

#[test]
fn a_text_that_is_no_key_is_told_before_any_io() {
    let limits = Limits::default();
    for txn in [
        Txn::when([Condition::present("a/../b")]),
        Txn::always().then([TxnOp::get("a"), TxnOp::delete("")]),
        Txn::always().or_else([TxnOp::put("a\u{7}", "x")]),
    ] {
        let error = txn.check(&limits).unwrap_err();
        assert!(matches!(error.kind(), ErrorKind::InvalidKey { .. }), "{error}");
        assert_eq!(error.operation(), Some(kv_core::Operation::Transact));
    }
    let from_both = Txn::when([Condition::absent("a").unwrap()]).then(vec![TxnOp::get(key("a"))]);
    assert!(from_both.check(&limits).is_ok());
}
