//! Pages of lists as they were last read, so that reading them again asks sled nothing.
//!
//! A list through sled walks its tree, checks a seal and copies a name and a value for each entry. What is
//! kept here costs a look at a tree for each page, and a reference for each entry. A page is the committed
//! state of a range of names. Whoever shows a batch lets go of the pages that cover what the batch changed,
//! under the lock that readers hold while they keep one. No two pages of a namespace overlap.

use std::collections::{BTreeMap, HashMap};
use std::ops::{Bound, RangeBounds};
use std::sync::Arc;

use kv_backend::{Namespace, Timestamp};
use kv_core::Entry;
use parking_lot::Mutex;

use crate::name::NameRange;
use crate::record::StoredExpiry;

/// What an entry takes besides its key and value, roughly.
const OVERHEAD: usize = 160;

/// The entries of a range of native names, as one namespace sees them.
#[derive(Debug)]
pub(crate) struct Page {
    pub(crate) range: NameRange,
    pub(crate) entries: Vec<Listed>,
}

/// An entry of a page.
#[derive(Debug)]
pub(crate) struct Listed {
    pub(crate) entry: Entry,
    pub(crate) expiry: StoredExpiry,
}

impl Listed {
    /// Whether it has expired by then.
    pub(crate) fn is_over(&self, now: Timestamp) -> bool {
        self.expiry.is_over(|| now)
    }
}

impl Page {
    /// Whether it holds what comes first in a range that begins so.
    fn covers(&self, from: &Bound<String>) -> bool {
        !ends_before(&self.range.to, from)
            && match (&self.range.from, from) {
                (Bound::Unbounded, _) => true,
                (Bound::Included(own), Bound::Included(first))
                | (Bound::Included(own) | Bound::Excluded(own), Bound::Excluded(first)) => own <= first,
                (Bound::Excluded(own), Bound::Included(first)) => own < first,
                (_, Bound::Unbounded) => false,
            }
    }

    fn contains(&self, native: &str) -> bool {
        let range =
            (self.range.from.as_ref().map(String::as_str), self.range.to.as_ref().map(String::as_str));
        RangeBounds::<str>::contains(&range, native)
    }

    fn overlaps(&self, other: &Self) -> bool {
        !ends_before(&self.range.to, &other.range.from) && !ends_before(&other.range.to, &self.range.from)
    }

    /// What it is found by.
    fn first(&self) -> &str {
        match &self.range.from {
            Bound::Included(own) | Bound::Excluded(own) => own,
            Bound::Unbounded => "",
        }
    }

    pub(crate) fn bytes(&self) -> usize {
        let bytes = |Listed { entry, .. }: &Listed| entry.key.as_str().len() + entry.value.len() + OVERHEAD;
        self.entries.iter().map(bytes).sum::<usize>() + OVERHEAD
    }
}

/// Whether a range that ends so has nothing of one that begins so.
fn ends_before(to: &Bound<String>, from: &Bound<String>) -> bool {
    match (to, from) {
        (Bound::Unbounded, _) | (_, Bound::Unbounded) => false,
        (Bound::Included(end), Bound::Included(begin)) => end < begin,
        (Bound::Included(end) | Bound::Excluded(end), Bound::Included(begin) | Bound::Excluded(begin)) => {
            end <= begin
        }
    }
}

/// Pages by namespace and first name, up to so many bytes in all.
#[derive(Debug)]
pub(crate) struct PageCache {
    kept: Mutex<Kept>,
    max: usize,
}

#[derive(Debug, Default)]
struct Kept {
    pages: HashMap<String, BTreeMap<String, Slot>>,
    bytes: usize,
    /// Counts uses: the page used longest ago goes first.
    uses: u64,
}

#[derive(Debug)]
struct Slot {
    page: Arc<Page>,
    bytes: usize,
    used: u64,
}

impl PageCache {
    pub(crate) fn new(bytes: usize) -> Self {
        Self { kept: Mutex::default(), max: bytes }
    }

    /// The most that one list should keep: the others' pages are worth as much.
    pub(crate) fn share(&self) -> usize {
        self.max / 2
    }

    /// The page that holds what comes first in a range that begins so.
    pub(crate) fn get(&self, namespace: &Namespace, from: &Bound<String>) -> Option<Arc<Page>> {
        let (Bound::Included(first) | Bound::Excluded(first)) = from else { return None };
        let mut kept = self.kept.lock();
        kept.uses += 1;
        let used = kept.uses;
        let slot =
            up_to_mut(kept.pages.get_mut(namespace.path())?, first).find(|slot| slot.page.covers(from))?;
        slot.used = used;
        Some(Arc::clone(&slot.page))
    }

    /// Keeps a page in place of those it overlaps. To be called under the view's lock.
    pub(crate) fn keep(&self, namespace: &Namespace, page: &Arc<Page>) {
        let bytes = page.bytes();
        if bytes > self.share() {
            return;
        }
        let mut kept = self.kept.lock();
        let kept = &mut *kept;
        let pages = kept.pages.entry(namespace.path().to_owned()).or_default();
        let first = page.first();
        let before = pages.range::<str, _>((Bound::Unbounded, Bound::Excluded(first))).next_back();
        let behind = pages.range::<str, _>((Bound::Included(first), Bound::Unbounded));
        let behind = behind.take_while(|(_, slot)| !ends_before(&page.range.to, &slot.page.range.from));
        let overlapping = before.into_iter().chain(behind).filter(|(_, slot)| slot.page.overlaps(page));
        let overlapping: Vec<String> = overlapping.map(|(first, _)| first.clone()).collect();
        for first in overlapping {
            kept.bytes -= pages.remove(&first).map_or(0, |slot| slot.bytes);
        }
        kept.uses += 1;
        let slot = Slot { page: Arc::clone(page), bytes, used: kept.uses };
        kept.bytes += bytes;
        kept.bytes -= pages.insert(first.to_owned(), slot).map_or(0, |slot| slot.bytes);
        while kept.bytes > self.max {
            kept.forget_oldest();
        }
    }

    /// Lets go of what covers this name.
    pub(crate) fn forget(&self, native: &str) {
        let mut kept = self.kept.lock();
        let kept = &mut *kept;
        for pages in kept.pages.values_mut() {
            let covering = up_to_mut(pages, native).find(|slot| slot.page.contains(native));
            let Some(first) = covering.map(|slot| slot.page.first().to_owned()) else { continue };
            kept.bytes -= pages.remove(&first).map_or(0, |slot| slot.bytes);
        }
    }

    pub(crate) fn forget_all(&self) {
        *self.kept.lock() = Kept::default();
    }
}

/// The last page that begins at or before this name, and the one before it, which may end there.
fn up_to_mut<'a>(pages: &'a mut BTreeMap<String, Slot>, native: &str) -> impl Iterator<Item = &'a mut Slot> {
    let up_to = pages.range_mut::<str, _>((Bound::Unbounded, Bound::Included(native)));
    up_to.rev().take(2).map(|(_, slot)| slot)
}

impl Kept {
    fn forget_oldest(&mut self) {
        let slots = self.pages.iter().flat_map(|(namespace, pages)| {
            pages.iter().map(move |(first, slot)| (slot.used, namespace, first))
        });
        let Some((_, namespace, first)) = slots.min() else { return self.bytes = 0 };
        let (namespace, first) = (namespace.clone(), first.clone());
        if let Some(pages) = self.pages.get_mut(&namespace) {
            self.bytes -= pages.remove(&first).map_or(0, |slot| slot.bytes);
            if pages.is_empty() {
                self.pages.remove(&namespace);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use kv_core::{Key, Prefix, Version};

    use super::*;

    fn namespace() -> Namespace {
        Namespace::new(&Prefix::root()).unwrap()
    }

    fn listed(key: &str, value: usize) -> Listed {
        let version = Version::new(1);
        let entry = Entry::new(Key::new(key).unwrap(), Bytes::from(vec![0; value]), version, version);
        Listed { entry, expiry: StoredExpiry::Never }
    }

    fn page(from: Bound<&str>, to: Bound<&str>, value: usize) -> Arc<Page> {
        let range = NameRange { from: from.map(str::to_owned), to: to.map(str::to_owned) };
        Arc::new(Page { range, entries: vec![listed("k", value)] })
    }

    fn at(from: &str) -> Bound<String> {
        Bound::Included(from.to_owned())
    }

    fn behind(from: &str) -> Bound<String> {
        Bound::Excluded(from.to_owned())
    }

    #[test]
    fn pages_are_found_by_where_a_list_goes_on() {
        let (cache, ns) = (PageCache::new(1 << 20), namespace());
        let first = page(Bound::Included("b"), Bound::Included("d"), 1);
        let second = page(Bound::Excluded("d"), Bound::Excluded("f"), 1);
        cache.keep(&ns, &first);
        cache.keep(&ns, &second);
        let found = |from| cache.get(&ns, &from).map(|page| Arc::ptr_eq(&page, &first));
        for (from, expected) in [
            (at("a"), None),
            (at("b"), Some(true)),
            (behind("b"), Some(true)),
            (at("d"), Some(true)),
            (behind("d"), Some(false)),
            (at("e"), Some(false)),
            (at("f"), None),
            (behind("f"), None),
        ] {
            assert_eq!(found(from.clone()), expected, "{from:?}");
        }
        let other = Namespace::new(&Prefix::new("other").unwrap()).unwrap();
        assert!(cache.get(&other, &at("b")).is_none());
    }

    #[test]
    fn a_name_takes_its_page_along_and_no_other() {
        let (cache, ns) = (PageCache::new(1 << 20), namespace());
        let keep = || {
            cache.keep(&ns, &page(Bound::Included("b"), Bound::Included("d"), 1));
            cache.keep(&ns, &page(Bound::Excluded("d"), Bound::Excluded("f"), 1));
        };
        for (name, first, second) in [
            ("a", true, true),
            ("b", false, true),
            ("d", false, true),
            ("da", true, false),
            ("f", true, true),
        ] {
            keep();
            cache.forget(name);
            let left = [cache.get(&ns, &at("b")).is_some(), cache.get(&ns, &at("e")).is_some()];
            assert_eq!(left, [first, second], "after {name}");
        }
        keep();
        cache.forget_all();
        assert!(cache.get(&ns, &at("b")).is_none() && cache.kept.lock().bytes == 0);
    }

    #[test]
    fn a_page_goes_in_place_of_those_it_overlaps() {
        let (cache, ns) = (PageCache::new(1 << 20), namespace());
        let keep = |from, to| cache.keep(&ns, &page(from, to, 1));
        keep(Bound::Included("a"), Bound::Included("c"));
        keep(Bound::Excluded("c"), Bound::Included("e"));
        keep(Bound::Excluded("e"), Bound::Included("g"));
        keep(Bound::Included("d"), Bound::Included("f"));
        let found = |from: &str| cache.get(&ns, &at(from)).is_some();
        assert_eq!(["b", "ca", "d", "f", "g"].map(found), [true, false, true, true, false]);
        // The same name, once the last of a page and once what another begins behind.
        keep(Bound::Included("x"), Bound::Included("x"));
        keep(Bound::Excluded("x"), Bound::Included("z"));
        assert_eq!(["x", "y"].map(found), [false, true]);
        let bytes: usize =
            cache.kept.lock().pages.values().flat_map(BTreeMap::values).map(|slot| slot.bytes).sum();
        assert_eq!(cache.kept.lock().bytes, bytes);
    }

    #[test]
    fn it_holds_no_more_than_it_may_and_what_was_used_last() {
        const MAX: usize = 1 << 20;
        let (cache, ns) = (PageCache::new(MAX), namespace());
        let name = |n: usize| format!("{n:04}");
        for n in 0..100 {
            cache.keep(&ns, &page(Bound::Included(&name(n)), Bound::Included(&name(n)), 64 << 10));
            assert!(cache.get(&ns, &at(&name(0))).is_some(), "what is used again and again stays");
            assert!(cache.kept.lock().bytes <= MAX);
        }
        let kept = (0..100).filter(|n| cache.get(&ns, &at(&name(*n))).is_some()).count();
        assert!(kept > 10, "{kept}");
        cache.keep(&ns, &page(Bound::Included("x"), Bound::Included("x"), MAX));
        assert!(cache.get(&ns, &at("x")).is_none(), "one page is not worth all others");
    }
}
