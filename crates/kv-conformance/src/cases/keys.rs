//! Keys: what is accepted round-trips, what is not is refused, and where one key ends.

use std::collections::BTreeMap;

use anyhow::{Result, ensure};
use bytes::Bytes;
use kv_core::{
    ErrorKind, Key, MAX_KEY_BYTES, MAX_NAMESPACE_BYTES, Precondition, Prefix, StoreExt, WatchTarget,
};

use crate::case::{Case, case};
use crate::fixture::Fixture;
use crate::follow::Follower;
use crate::steps::{ensure_eq, entry, key, lock, names, put_if, refused, sees};

pub(super) const CASES: &[Case] = &[
    case!(odd_keys_round_trip, "Every accepted key round-trips byte for byte."),
    case!(odd_keys_work_in_watches, "A watch of an odd key tells of that key."),
    case!(odd_keys_work_as_locks, "An odd key names a lock of its own."),
    case!(similar_keys_are_different, "Every accepted key differs from every other accepted key."),
    case!(longest_key_round_trips, "A key of 512 bytes works like any other."),
    case!(deep_key_round_trips, "A key of many segments works like any other."),
    case!(slashes_are_normalised, "Leading, trailing and doubled slashes are normalised away."),
    case!(invalid_keys_are_refused, "A key that breaks a rule is InvalidKey in every call."),
    case!(long_namespace_is_refused, "A namespace of more than 256 bytes is refused at open."),
    case!(
        names_that_are_no_keys_are_left_alone,
        "A name that is no key is not listed and goes with its tree."
    ),
    case!(key_then_child_both_hold_values, "`a` and then `a/b` can both hold values."),
    case!(child_then_key_both_hold_values, "`a/b` and then `a` can both hold values."),
    case!(deleting_a_key_leaves_its_children, "Deleting `a` leaves `a/b`."),
    case!(deleting_a_child_leaves_its_parent, "Deleting `a/b` leaves `a`."),
    case!(implicit_parents_do_not_exist, "A key that only others lie below is absent for every call."),
    case!(namespaces_are_separate, "Nothing crosses from one namespace to another."),
    case!(keys_lie_under_their_natural_names, "A key is stored under its natural name below the namespace."),
];

/// Accepted keys that some backend, client or URL might change, join or lose.
const ODD: &[&str] = &[
    "a b",
    "a%20b",
    "a+b",
    "a%2Bb",
    "a?b#c",
    "a%3Fb",
    "a&b=c",
    "%2e%2e",
    "%2E",
    "%",
    "%%",
    "%zz",
    "a%2Fb",
    "a/ b",
    "...",
    ".hidden",
    "a.",
    "a..b",
    "~a",
    "a:b",
    "a;b",
    "a,b",
    "a\\b",
    "'a'",
    "\"a\"",
    "`a`",
    "$a",
    "{a}",
    "[a]",
    "(a)",
    "<a>",
    "a|b",
    "a*b",
    "a^b",
    "a@b",
    "!a",
    "#a",
    "=a",
    "-a",
    "_a",
    " a",
    "a ",
    "ü",
    "u\u{308}",
    "日本",
    "\u{a0}",
    "\u{200b}",
    "\u{feff}",
    "\u{d7ff}",
    "\u{f900}",
    "\u{ffef}",
    "A",
    "a",
    "0",
    "00",
    "null",
    "zookeeper",
];

/// Catches keys that fail for a slash in front or for a glob's characters, and keys that are hidden because
/// they contain a reserved word.
async fn odd_keys_round_trip(fixture: &Fixture) -> Result<()> {
    let store = &fixture.store;
    for text in ODD {
        store.put(*text, *text).await?;
    }
    for text in ODD {
        let found = entry(store, &key(text)?).await?;
        ensure_eq!(found.key.as_str(), *text, "the key of the entry");
        ensure_eq!(found.value, Bytes::from(*text), "the value under {text:?}");
    }
    let mut sorted = ODD.to_vec();
    sorted.sort_unstable();
    ensure_eq!(names(store, "").await?, sorted, "the list of odd keys");
    Ok(())
}

async fn odd_keys_work_in_watches(fixture: &Fixture) -> Result<()> {
    let (store, other) = (&fixture.store, fixture.another().await?);
    for text in ODD.iter().step_by(3) {
        let k = key(text)?;
        let mut follower = Follower::now(store, k.clone()).await?;
        let version = other.put(&k, "x").await?;
        follower.until_version(&k, version).await?;
    }
    Ok(())
}

async fn odd_keys_work_as_locks(fixture: &Fixture) -> Result<()> {
    let store = &fixture.store;
    let mut guards = Vec::new();
    for text in ODD.iter().step_by(4) {
        let guard = lock(store, &key(text)?).await?;
        ensure_eq!(guard.key().as_str(), *text, "the guard's key");
        guards.push(guard);
    }
    for guard in guards {
        guard.unlock().await?;
    }
    Ok(())
}

/// Catches different keys that become one, encoded twice or stripped of dots.
async fn similar_keys_are_different(fixture: &Fixture) -> Result<()> {
    let store = &fixture.store;
    let mut left: Vec<&str> = vec![
        "a b", "a%20b", "a+b", "ab", "aB", "a/b", "a%2Fb", "a%2fb", "a\\b", "ü", "u\u{308}", "u", "1", "01",
        "a.b", "a..b", "a b ", " a b",
    ];
    left.sort_unstable();
    for text in &left {
        store.put(*text, format!("of {text}")).await?;
    }
    while let Some(gone) = left.pop() {
        ensure!(store.delete(gone).await?, "{gone:?} should still exist");
        ensure_eq!(names(store, "").await?, left, "what is left after {gone:?} was deleted");
    }
    Ok(())
}

async fn longest_key_round_trips(fixture: &Fixture) -> Result<()> {
    let store = &fixture.store;
    let mut text = "ü".repeat(100) + "/";
    text.push_str(&"k".repeat(MAX_KEY_BYTES - text.len()));
    let k = key(&text)?;
    let version = store.put(&k, "x").await?;
    ensure_eq!(entry(store, &k).await?.version, version, "the version of the longest key");
    ensure_eq!(names(store, "").await?, [text.as_str()], "the list");
    lock(store, &k).await?.unlock().await?;
    ensure!(store.delete(&k).await?, "the longest key should exist");
    ensure!(!store.exists(&k).await?, "the longest key should be gone");
    Ok(())
}

/// As another program would leave it: a key that is as long as can be is too long from further up.
async fn names_that_are_no_keys_are_left_alone(fixture: &Fixture) -> Result<()> {
    let (store, below) = (&fixture.store, fixture.another_below("dir").await?);
    let half = "k".repeat(MAX_KEY_BYTES / 2);
    let (foreign, a, z) = (key(&format!("{half}/{}", &half[1..]))?, key("dir/a")?, key("dir/z")?);
    below.put(&foreign, "1").await?;
    store.put(&a, "x").await?;
    let mut follower = Follower::synced(store, Prefix::root()).await?;
    below.put(&foreign, "2").await?;
    let version = store.put(&z, "x").await?;
    follower.until_version(&z, version).await?;
    ensure_eq!(follower.named(), ["dir/a", "dir/z"], "the keys that a watch told");
    ensure_eq!(names(store, "").await?, ["dir/a", "dir/z"], "the list");
    ensure_eq!(store.entries("dir").await?.len(), 2, "how many entries are listed");
    store.delete(&a).await?;
    sees(fixture, "the name should be left alone", || async {
        Ok(below.get(&foreign).await?.is_some_and(|entry| entry.value == "2"))
    })
    .await?;
    store.delete_tree("dir").await?;
    sees(fixture, "the name should go with its tree", || async { Ok(!below.exists(&foreign).await?) }).await
}

async fn deep_key_round_trips(fixture: &Fixture) -> Result<()> {
    let store = &fixture.store;
    let deep = key(&["d"; 100].join("/"))?;
    store.put(&deep, "deep").await?;
    ensure_eq!(entry(store, &deep).await?.value, Bytes::from("deep"), "the value of the deep key");
    store.put("d/d/d", "middle").await?;
    ensure_eq!(names(store, "d").await?, ["d/d/d", deep.as_str()], "the list");
    store.delete("d/d/d").await?;
    ensure_eq!(names(store, "").await?, [deep.as_str()], "the list after the middle was deleted");
    Ok(())
}

async fn slashes_are_normalised(fixture: &Fixture) -> Result<()> {
    let store = &fixture.store;
    store.put("/a//b/", "x").await?;
    for text in ["a/b", "/a/b", "a//b", "a/b///"] {
        let found = store.get(text).await?;
        ensure!(found.is_some_and(|entry| entry.key.as_str() == "a/b"), "{text:?} should be a/b");
    }
    ensure_eq!(names(store, "/a//").await?, ["a/b"], "the list of /a//");
    ensure_eq!(store.delete_tree("//a").await?, 1, "what went below //a");
    Ok(())
}

async fn invalid_keys_are_refused(fixture: &Fixture) -> Result<()> {
    let store = &fixture.store;
    let long = "k".repeat(MAX_KEY_BYTES + 1);
    let invalid =
        ["a/../b", "..", ".", "a/.", "a\nb", "a\0", "\u{7f}", "\u{9f}", "\u{e000}", "\u{fff0}", "😀", &long];
    for text in invalid.into_iter().chain(["", "///"]) {
        refused!(store.get(text).await, ErrorKind::InvalidKey { .. }, "get {text:?}");
        refused!(store.put(text, "x").await, ErrorKind::InvalidKey { .. }, "put {text:?}");
        refused!(store.create(text, "x").await, ErrorKind::InvalidKey { .. }, "create {text:?}");
        refused!(store.delete(text).await, ErrorKind::InvalidKey { .. }, "delete {text:?}");
        refused!(store.lock(text).await, ErrorKind::InvalidKey { .. }, "lock {text:?}");
        refused!(store.watch_key(text).await, ErrorKind::InvalidKey { .. }, "watch {text:?}");
    }
    for text in invalid {
        refused!(store.list(text).await, ErrorKind::InvalidKey { .. }, "list {text:?}");
        refused!(store.delete_tree(text).await, ErrorKind::InvalidKey { .. }, "delete_tree {text:?}");
        refused!(store.watch(text).await, ErrorKind::InvalidKey { .. }, "watch below {text:?}");
    }
    ensure_eq!(names(store, "").await?, [""; 0], "the list afterwards");
    Ok(())
}

async fn long_namespace_is_refused(fixture: &Fixture) -> Result<()> {
    let namespace = Prefix::new(&"n".repeat(MAX_NAMESPACE_BYTES + 1))?;
    refused!(
        fixture.open_namespace(&namespace).await.map(drop),
        ErrorKind::InvalidKey { .. },
        "opening a namespace of {} bytes",
        namespace.as_str().len()
    );
    Ok(())
}

async fn key_then_child_both_hold_values(fixture: &Fixture) -> Result<()> {
    both_hold_values(fixture, ["a", "a/b"]).await
}

async fn child_then_key_both_hold_values(fixture: &Fixture) -> Result<()> {
    both_hold_values(fixture, ["a/b", "a"]).await
}

/// Catches a split into directories and files, where no child can be made below a value.
async fn both_hold_values(fixture: &Fixture, order: [&'static str; 2]) -> Result<()> {
    let store = &fixture.store;
    for text in order {
        store.create(text, text).await?;
    }
    for text in order {
        ensure_eq!(entry(store, &key(text)?).await?.value, Bytes::from(text), "the value under {text:?}");
    }
    ensure_eq!(names(store, "").await?, ["a", "a/b"], "the list");
    Ok(())
}

async fn deleting_a_key_leaves_its_children(fixture: &Fixture) -> Result<()> {
    let store = &fixture.store;
    store.put("a", "parent").await?;
    let child = store.put("a/b", "child").await?;
    ensure!(store.delete("a").await?, "a should exist");
    ensure!(!store.exists("a").await?, "a should be gone");
    ensure_eq!(entry(store, &key("a/b")?).await?.version, child, "the version of a/b");
    ensure_eq!(names(store, "").await?, ["a/b"], "the list");
    ensure!(!store.delete("a").await?, "a should not exist for a second delete");
    store.create("a", "again").await?;
    ensure_eq!(entry(store, &key("a")?).await?.value, Bytes::from("again"), "the value of a made again");
    Ok(())
}

async fn deleting_a_child_leaves_its_parent(fixture: &Fixture) -> Result<()> {
    let store = &fixture.store;
    store.put("a/b", "child").await?;
    let parent = store.put("a", "parent").await?;
    ensure!(store.delete("a/b").await?, "a/b should exist");
    ensure_eq!(entry(store, &key("a")?).await?.version, parent, "the version of a");
    ensure_eq!(names(store, "").await?, ["a"], "the list");
    Ok(())
}

/// Catches an implicit parent that is stored as an empty value.
async fn implicit_parents_do_not_exist(fixture: &Fixture) -> Result<()> {
    let store = &fixture.store;
    store.put("a/b/c", "x").await?;
    for text in ["a", "a/b"] {
        let k = key(text)?;
        ensure_eq!(store.get(&k).await?, None, "{text:?}, which was never put");
        ensure!(!store.delete(&k).await?, "{text:?} was never put and its delete found it");
        refused!(store.replace(&k, "x").await, ErrorKind::NotFound, "a replace of {text:?}");
        refused!(
            put_if(store, &k, "x", Precondition::Value(Bytes::new())).await,
            ErrorKind::PreconditionFailed { current: None },
            "a put over the empty value of {text:?}"
        );
    }
    ensure_eq!(names(store, "").await?, ["a/b/c"], "the list");
    let mut follower = Follower::synced(store, WatchTarget::Prefix(Prefix::root())).await?;
    ensure_eq!(follower.named(), ["a/b/c"], "what a watch told at first");
    let created = store.create("a/b", "x").await?;
    follower.until_version(&key("a/b")?, created).await?;
    ensure_eq!(entry(store, &key("a/b")?).await?.created, created, "the created version of a/b");
    Ok(())
}

/// Catches data that all namespaces share, and a path that escapes its root.
async fn namespaces_are_separate(fixture: &Fixture) -> Result<()> {
    let mut stores = BTreeMap::new();
    for name in ["n", "n2", "n-1"] {
        let store = fixture.another_below(name).await?;
        store.put("k", name).await?;
        store.put("2/x", name).await?;
        stores.insert(name, store);
    }
    for (name, store) in &stores {
        ensure_eq!(entry(store, &key("k")?).await?.value, Bytes::from(*name), "the value of k in {name}");
        ensure_eq!(names(store, "").await?, ["2/x", "k"], "the list of {name}");
    }
    ensure_eq!(stores["n"].delete_tree("").await?, 2, "what went from n");
    ensure_eq!(names(&stores["n"], "").await?, [""; 0], "the list of n afterwards");
    for name in ["n2", "n-1"] {
        ensure_eq!(names(&stores[name], "").await?, ["2/x", "k"], "the list of {name} afterwards");
    }
    Ok(())
}

async fn keys_lie_under_their_natural_names(fixture: &Fixture) -> Result<()> {
    let (store, inner) = (&fixture.store, fixture.another_below("app/a b").await?);
    for text in ["k", "ü/x", "a%20b"] {
        let version = inner.put(text, text).await?;
        let outside = key(&format!("app/a b/{text}"))?;
        sees(fixture, &format!("{outside:?} should be what the inner namespace calls {text:?}"), || async {
            Ok(store.get(&outside).await?.is_some_and(|entry| entry.version == version))
        })
        .await?;
    }
    let outside: Key = key("app/a b/from-outside")?;
    store.put(&outside, "x").await?;
    sees(fixture, "the inner namespace should see what was put from outside", || async {
        Ok(inner.get("from-outside").await?.is_some_and(|entry| entry.key.as_str() == "from-outside"))
    })
    .await
}
