//! Keys and prefixes: what is refused, what is normalised, and that nothing collides.
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

use kv_core::{ErrorKind, Key, MAX_KEY_BYTES, MAX_NAMESPACE_BYTES, Prefix};
use proptest::prelude::*;

#[test]
fn slashes_are_normalised_away() {
    for (input, canonical) in
        [("a", "a"), ("/a", "a"), ("a/", "a"), ("/a//b/", "a/b"), ("///a///b///c", "a/b/c")]
    {
        assert_eq!(Key::new(input).unwrap().as_str(), canonical);
        assert_eq!(Prefix::new(input).unwrap().as_str(), canonical);
    }
}

#[test]
fn odd_but_allowed_keys_stay_byte_for_byte() {
    for text in [
        "a b", "a%20b", "a?b#c", "ü", "u\u{308}", "a+b", "…", "a..b", "...", ".a", "\u{a0}", "\u{fdcf}",
        "\u{fdd0}",
    ] {
        assert_eq!(Key::new(text).unwrap().as_str(), text);
    }
}

#[test]
fn what_some_backend_cannot_store_is_refused_with_the_rule() {
    for (text, rule) in [
        ("", "at least one segment"),
        ("/", "at least one segment"),
        ("///", "at least one segment"),
        (".", "\".\""),
        ("a/./b", "\".\""),
        ("..", "\"..\""),
        ("a/../b", "\"..\""),
        ("a\nb", "U+000A"),
        ("\0", "U+0000"),
        ("a\u{7f}", "U+007F"),
        ("a\u{9f}", "U+009F"),
        ("\u{e000}", "U+E000"),
        ("\u{f8ff}", "U+F8FF"),
        ("\u{fff0}", "U+FFF0"),
        ("\u{ffff}", "U+FFFF"),
        ("\u{1f600}", "U+1F600"),
    ] {
        let error = Key::new(text).unwrap_err();
        assert!(matches!(error.kind(), ErrorKind::InvalidKey { .. }), "{text:?}");
        assert!(error.to_string().contains(rule), "{error}");
    }
}

#[test]
fn length_counts_canonical_bytes() {
    let longest = "é".repeat(MAX_KEY_BYTES / 2);
    assert_eq!(Key::new(&longest).unwrap().as_str().len(), MAX_KEY_BYTES);
    assert!(Key::new(&format!("//{longest}//")).is_ok());
    assert!(Key::new(&format!("{longest}a")).is_err());
    let error = Key::new(&"x".repeat(100_000)).unwrap_err();
    assert!(error.to_string().len() < 300, "an error does not repeat a huge key: {error}");

    let namespace = Prefix::new(&"n".repeat(MAX_NAMESPACE_BYTES)).unwrap();
    assert!(namespace.check_namespace().is_ok());
    assert!(Prefix::new(&"n".repeat(MAX_NAMESPACE_BYTES + 1)).unwrap().check_namespace().is_err());
}

#[test]
fn a_prefix_is_a_path_boundary() {
    let prefix = Prefix::new("a").unwrap();
    let covers = |text: &str| prefix.covers(&Key::new(text).unwrap());
    assert!(covers("a/b") && covers("a/b/c"));
    assert!(!covers("a") && !covers("ab") && !covers("ab/c") && !covers("b/a/c"));
    assert!(Prefix::root().covers(&Key::new("a").unwrap()));
    assert_eq!(prefix.relative(&Key::new("a/b/c").unwrap()), Some("b/c"));
}

#[test]
fn keys_can_be_taken_apart_and_joined() {
    let key = Key::new("a/b/c").unwrap();
    assert_eq!(key.segments().collect::<Vec<_>>(), ["a", "b", "c"]);
    assert_eq!(key.name(), "c");
    assert_eq!(key.parent().as_str(), "a/b");
    assert_eq!(key.parent().join("c").unwrap(), key);
    assert_eq!(key.join("/d/").unwrap().as_str(), "a/b/c/d");
    assert!(Key::new("a").unwrap().parent().is_root());
    assert_eq!(Prefix::root().to_key(), None);
    assert!(key.join("").is_err(), "a key is not below itself");
    assert!(key.join("..").is_err());
}

proptest! {
    #[test]
    fn canonical_text_is_a_fixed_point(text in "[a-c./ü]{0,12}") {
        match Key::new(&text) {
            Ok(key) => {
                prop_assert_eq!(&Key::new(key.as_str()).unwrap(), &key);
                prop_assert_eq!(Key::from_canonical(key.as_str()), Some(key.clone()));
                prop_assert_eq!(Key::from_canonical(&text).is_some(), text == key.as_str());
                prop_assert!(!key.as_str().starts_with('/') && !key.as_str().ends_with('/'));
            }
            Err(_) => prop_assert_eq!(Key::from_canonical(&text), None),
        }
    }

    #[test]
    fn any_text_is_a_key_or_refused(text in any::<String>()) {
        if let Ok(key) = Key::new(&text) {
            prop_assert!(key.as_str().len() <= MAX_KEY_BYTES);
            prop_assert!(key.segments().all(|segment| !segment.is_empty() && segment != "." && segment != ".."));
        }
    }
}
