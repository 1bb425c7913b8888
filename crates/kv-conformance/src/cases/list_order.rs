//! list, the other half: its order, its options, and all of them combined against a model.

use std::collections::BTreeSet;
use std::ops::Bound;

use anyhow::{Result, ensure};
use kv_core::{Key, ListItem, ListOptions, Prefix, StoreExt};

use crate::case::{Case, case};
use crate::fixture::Fixture;
use crate::steps::{ensure_eq, key, list, names};

pub(super) const CASES: &[Case] = &[
    case!(list_is_in_byte_order, "A list is in byte order of the key: `a-b` comes before `a/b`."),
    case!(list_limit_ends_it, "A list ends after `limit` items."),
    case!(list_range_bounds_it, "A list keeps to its range, with and without its ends."),
    case!(empty_range_lists_nothing, "A range that holds no key, or ends before it starts, is empty."),
    case!(list_start_after_resumes, "A list taken up with start_after misses and repeats nothing."),
    case!(list_resumes_behind_any_item, "A list is taken up behind any item, a sub-prefix too."),
    case!(list_keys_only, "A list of keys only carries every key."),
    case!(list_one_level, "A list of one level names entries and, once each, what lies deeper."),
    case!(list_options_combine, "All options of a list combine."),
];

/// In byte order.
const TREE: &[&str] = &[
    "a", "a!b", "a-b", "a-b/c", "a.", "a/b", "a/b/c", "a/b-c", "a/é", "a0", "aB", "ab", "ab/c", "b",
    "b/x/y/z", "é",
];

async fn plant(fixture: &Fixture, tree: &[&str]) -> Result<()> {
    // Not in order, so that the order is the store's doing.
    for text in tree.iter().rev() {
        fixture.store.put(*text, text.to_string()).await?;
    }
    Ok(())
}

/// What a list must answer.
fn model(tree: &[&str], prefix: &Prefix, options: &ListOptions) -> Result<Vec<String>> {
    let mut keys: Vec<Key> = tree.iter().map(|text| key(text)).collect::<Result<_>>()?;
    keys.sort();
    let mut items = Vec::new();
    for key in keys.iter().filter(|key| options.in_range(key)) {
        let Some(below) = prefix.relative(key) else { continue };
        let item = match below.split_once('/') {
            Some((level, _)) if options.one_level => {
                let path = &key.as_str()[..key.as_str().len() - below.len() + level.len()];
                format!("{path}/")
            }
            _ => key.to_string(),
        };
        if items.last() != Some(&item) {
            items.push(item);
        }
    }
    items.truncate(options.limit.unwrap_or(usize::MAX));
    Ok(items)
}

/// The items as text, prefixes with a slash; fails on an item of the wrong kind.
async fn listed(fixture: &Fixture, prefix: &Prefix, options: &ListOptions) -> Result<Vec<String>> {
    let mut items = Vec::new();
    for item in list(&fixture.store, prefix.as_str(), options.clone()).await? {
        items.push(match item {
            ListItem::Prefix(path) if options.one_level => format!("{path}/"),
            ListItem::Key(key) if options.keys_only => key.to_string(),
            ListItem::Entry(entry) if !options.keys_only => entry.key.to_string(),
            other => anyhow::bail!("{options:?} delivered {other:?}"),
        });
    }
    Ok(items)
}

async fn check(fixture: &Fixture, tree: &[&str], prefix: &str, options: ListOptions) -> Result<()> {
    let prefix = Prefix::new(prefix)?;
    let expected = model(tree, &prefix, &options)?;
    ensure_eq!(
        listed(fixture, &prefix, &options).await?,
        expected,
        "the list of {prefix:?} with {options:?}"
    );
    Ok(())
}

/// Catches lists in descending order, in tree order or in none.
async fn list_is_in_byte_order(fixture: &Fixture) -> Result<()> {
    plant(fixture, TREE).await?;
    let mut sorted = TREE.to_vec();
    sorted.sort_unstable();
    ensure_eq!(names(&fixture.store, "").await?, sorted, "the keys of the whole namespace");
    for prefix in ["", "a", "a/b", "b"] {
        check(fixture, TREE, prefix, ListOptions::default()).await?;
    }
    Ok(())
}

async fn list_limit_ends_it(fixture: &Fixture) -> Result<()> {
    plant(fixture, TREE).await?;
    for limit in [0, 1, 2, 3, TREE.len() - 1, TREE.len(), TREE.len() + 1, usize::MAX] {
        check(fixture, TREE, "", ListOptions::default().with_limit(limit)).await?;
        check(fixture, TREE, "a", ListOptions::default().with_limit(limit)).await?;
    }
    Ok(())
}

/// Catches backends of which one includes the end of the range and another does not.
async fn list_range_bounds_it(fixture: &Fixture) -> Result<()> {
    plant(fixture, TREE).await?;
    let (start, end) = (key("a-b")?, key("ab")?);
    for options in [
        ListOptions::default().with_range(start.clone()..end.clone()),
        ListOptions::default().with_range(start.clone()..=end.clone()),
        ListOptions::default().with_range(start.clone()..),
        ListOptions::default().with_range(..end.clone()),
        ListOptions::default().with_range(..=end.clone()),
        ListOptions::default().with_range((Bound::Excluded(start), Bound::Included(end))),
        ListOptions::default().with_range(key("a-c")?..key("a/b/b")?),
        ListOptions::default().with_range(key("0")?..key("z")?),
    ] {
        check(fixture, TREE, "", options.clone()).await?;
        check(fixture, TREE, "a", options).await?;
    }
    Ok(())
}

async fn empty_range_lists_nothing(fixture: &Fixture) -> Result<()> {
    plant(fixture, TREE).await?;
    let (low, high) = (key("a/b")?, key("ab")?);
    let excluded = |key: &Key| Bound::Excluded(key.clone());
    for options in [
        ListOptions::default().with_range(low.clone()..low.clone()),
        ListOptions::default().with_range((excluded(&low), excluded(&low))),
        ListOptions::default().with_range(high.clone()..low.clone()),
        ListOptions::default().with_range(high..=low),
        ListOptions::default().with_range(key("x")?..key("z")?),
        ListOptions::default().with_start_after(key("日")?),
    ] {
        for prefix in ["", "a", "b"] {
            ensure_eq!(
                list(&fixture.store, prefix, options.clone()).await?,
                [],
                "the list of {prefix:?} with {options:?}"
            );
        }
    }
    Ok(())
}

async fn list_start_after_resumes(fixture: &Fixture) -> Result<()> {
    plant(fixture, TREE).await?;
    for page in [1, 3, 7] {
        let mut seen: Vec<String> = Vec::new();
        loop {
            let mut options = ListOptions::default().with_limit(page);
            if let Some(last) = seen.last() {
                options = options.with_start_after(key(last)?);
            }
            let items = listed(fixture, &Prefix::root(), &options).await?;
            if items.is_empty() {
                break;
            }
            seen.extend(items);
            ensure!(seen.len() < 2 * TREE.len(), "pages of {page} have no end: {seen:?}");
        }
        let mut sorted = TREE.to_vec();
        sorted.sort_unstable();
        ensure_eq!(seen, sorted, "all pages of {page}");
    }
    check(fixture, TREE, "", ListOptions::default().with_start_after(key("a-a")?)).await
}

/// In pages of one level, as a directory is shown.
async fn list_resumes_behind_any_item(fixture: &Fixture) -> Result<()> {
    plant(fixture, TREE).await?;
    for prefix in ["", "a", "b", "none"] {
        let whole = list(&fixture.store, prefix, ListOptions::default().with_one_level()).await?;
        for page in [1, 2, 5] {
            let mut seen: Vec<ListItem> = Vec::new();
            loop {
                let mut options = ListOptions::default().with_one_level().with_limit(page);
                if let Some(last) = seen.last() {
                    options = options.with_range((last.resume(), Bound::Unbounded));
                }
                let items = list(&fixture.store, prefix, options).await?;
                if items.is_empty() {
                    break;
                }
                seen.extend(items);
                ensure!(seen.len() <= whole.len(), "pages of {page} below {prefix:?} repeat items: {seen:?}");
            }
            ensure_eq!(seen, whole, "all pages of {page} below {prefix:?}");
        }
    }
    Ok(())
}

async fn list_keys_only(fixture: &Fixture) -> Result<()> {
    plant(fixture, TREE).await?;
    for prefix in ["", "a", "a/b", "none"] {
        check(fixture, TREE, prefix, ListOptions::default().with_keys_only()).await?;
    }
    Ok(())
}

/// Catches one call that lists one level on some backends and every level on others.
async fn list_one_level(fixture: &Fixture) -> Result<()> {
    plant(fixture, TREE).await?;
    for at in 0..30 {
        fixture.store.put(format!("wide/{at}/deep"), "x").await?;
    }
    let wide: Vec<String> = (0..30).map(|at| format!("wide/{at}/deep")).collect();
    let tree: Vec<&str> = TREE.iter().copied().chain(wide.iter().map(String::as_str)).collect();
    for prefix in ["", "a", "a/b", "b", "b/x", "wide", "wide/7", "none"] {
        check(fixture, &tree, prefix, ListOptions::default().with_one_level()).await?;
    }
    Ok(())
}

async fn list_options_combine(fixture: &Fixture) -> Result<()> {
    let mut random = fixture.random();
    let mut path = |most: usize| -> String {
        let parts = ["a", "b", "a-b", "a!", "é"];
        let depth = random.usize(1..=most);
        (0..depth).map(|_| parts[random.usize(..parts.len())]).collect::<Vec<_>>().join("/")
    };
    let tree: BTreeSet<String> = (0..60).map(|_| path(4)).collect();
    let tree: Vec<&str> = tree.iter().map(String::as_str).collect();
    let others: Vec<String> = (0..80).map(|_| path(3)).collect();
    plant(fixture, &tree).await?;

    let mut random = fixture.random();
    let bound = |random: &mut fastrand::Rng| -> Result<Bound<Key>> {
        let key = key(&others[random.usize(..others.len())])?;
        Ok([Bound::Unbounded, Bound::Included(key.clone()), Bound::Excluded(key)][random.usize(..3)].clone())
    };
    for _ in 0..150 {
        let range = (bound(&mut random)?, bound(&mut random)?);
        let mut options = ListOptions::default().with_range(range);
        if random.bool() {
            options = options.with_limit(random.usize(..12));
        }
        if random.bool() {
            options = options.with_keys_only();
        }
        if random.bool() {
            options = options.with_one_level();
        }
        let prefix = if random.bool() { "" } else { &others[random.usize(..others.len())] };
        check(fixture, &tree, prefix, options).await?;
    }
    Ok(())
}
