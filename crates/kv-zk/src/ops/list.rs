//! list: the tree in byte order of whole keys, with many requests in flight.
//!
//! The order of the tree is not the order of the keys: `a-b` stands between `a` and `a/b`. So a
//! node's entry and what lies below it are two steps of the walk, sorted as `a` and `a/`. The walk
//! keeps the steps in order and asks ahead for the first of them; it holds the names of the
//! directories it is in and the answers it asked ahead for, not the tree.

use std::collections::{HashMap, VecDeque};
use std::future::Future;
use std::ops::Bound;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use futures_util::stream::{self, FuturesUnordered};
use futures_util::{StreamExt, future};
use kv_core::{Consistency, Error, Key, ListItem, ListOptions, Listing, Operation, Prefix, Result};

use crate::client::error::{BACKEND, Fault};
use crate::client::wire::Stat;
use crate::env::{Core, optional};
use crate::names::{child, is_marker, may_be_marker};

/// How many answers a list asks for ahead, as long as it is not known how large they are.
const FIRST_AHEAD: usize = 64;
/// The same later on: as many as make about this many bytes, within bounds.
const AHEAD_BYTES: usize = 8 << 20;
const LEAST_AHEAD: usize = 8;
const MOST_AHEAD: usize = 1024;
/// What all lists of a handle share, so that none waits behind the requests of all others.
const AHEAD_TOGETHER: usize = 4096;

/// One step of the walk.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Step {
    path: String,
    part: Part,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Part {
    /// The node's own entry.
    Entry,
    /// What lies below the node.
    Below,
}

/// What a step found.
enum Found {
    Item(Option<ListItem>),
    /// The names of the children.
    Names(Vec<String>),
}

type Fetch = Pin<Box<dyn Future<Output = (Step, Result<(Found, Option<Stat>)>)> + Send>>;

struct Walk {
    core: Arc<Core>,
    options: Arc<ListOptions>,
    root: String,
    steps: VecDeque<Step>,
    /// The steps before this one were asked for, or wait for the state of their node.
    looked_at: usize,
    /// What was asked for, with the answers that are there.
    answers: HashMap<Step, Option<Result<Found>>>,
    /// The nodes with a step for what lies below: whether they have children, once that is known.
    parents: HashMap<String, Option<bool>>,
    fetching: FuturesUnordered<Fetch>,
    /// What an entry takes, by those seen so far.
    entry_bytes: Option<usize>,
    left: usize,
}

impl Core {
    pub(crate) async fn list(self: &Arc<Self>, prefix: &Prefix, options: ListOptions) -> Result<Listing> {
        self.client.check_open()?;
        let deadline = self.deadline(options.timeout);
        let root = self.layout.prefix_path(prefix);
        // A watch from any version begins with the state, so any version will do. This one is the
        // newest this handle has seen of the tree's top.
        let reply = self.client.read(deadline, |session| {
            let (root, consistency) = (&root, options.consistency);
            async move {
                let top = async {
                    let (stat, names) = future::join(session.stat(root), session.children(root)).await;
                    let names = if names == Err(Fault::NoNode) { Vec::new() } else { names? };
                    Ok((stat?, names))
                };
                self.renewed(&*session, consistency, top).await
            }
        });
        let (stat, names) = reply.await?.map_err(Fault::into_error)?;
        let options = Arc::new(options);
        let as_of = stat.map_or(0, |stat| stat.mzxid.max(stat.pzxid));
        let as_of = Some(crate::env::version(as_of));
        if stat.is_none() || self.layout.is_reserved_prefix(prefix) {
            return Ok(Listing::new(as_of, stream::empty()));
        }
        let mut walk = Walk::new(Arc::clone(self), options, root);
        walk.answer(walk.top(), Ok((Found::Names(names), None)));
        let prefix = prefix.as_str().to_owned();
        let decorate = move |error: Error| {
            error.with_operation(Operation::List).with_backend(BACKEND).with_key(prefix.clone())
        };
        let items = stream::unfold(Some(walk), move |walk| {
            let decorate = decorate.clone();
            async move {
                let mut walk = walk?;
                match walk.next().await {
                    Ok(Some(item)) => Some((Ok(item), Some(walk))),
                    Ok(None) => None,
                    Err(error) => Some((Err(decorate(error)), None)),
                }
            }
        });
        Ok(Listing::new(as_of, items))
    }
}

impl Walk {
    fn new(core: Arc<Core>, options: Arc<ListOptions>, root: String) -> Self {
        core.lists.fetch_add(1, Ordering::Relaxed);
        let mut walk = Self {
            core,
            left: options.limit.unwrap_or(usize::MAX),
            options,
            parents: HashMap::from([(root.clone(), Some(true))]),
            root,
            steps: VecDeque::new(),
            looked_at: 0,
            answers: HashMap::new(),
            fetching: FuturesUnordered::new(),
            entry_bytes: None,
        };
        walk.steps.push_back(walk.top());
        walk
    }

    /// The step all others come from.
    fn top(&self) -> Step {
        Step { path: self.root.clone(), part: Part::Below }
    }

    async fn next(&mut self) -> Result<Option<ListItem>> {
        while self.left > 0 {
            self.core.client.check_open()?;
            let Some(first) = self.steps.front() else { return Ok(None) };
            let childless = first.part == Part::Below && self.parents.get(&first.path) == Some(&Some(false));
            if childless {
                self.pop();
                continue;
            }
            if self.answers.get(first).is_some_and(Option::is_some) {
                let answer = self.answers.remove(first).flatten();
                let (Some(step), Some(answer)) = (self.pop(), answer) else { return Ok(None) };
                match answer? {
                    Found::Item(None) => {}
                    Found::Item(Some(item)) => {
                        self.left -= 1;
                        return Ok(Some(item));
                    }
                    Found::Names(names) => self.enter(&step.path, names),
                }
                continue;
            }
            self.ask();
            if let Some((step, result)) = self.fetching.next().await {
                self.answer(step, result);
            }
        }
        Ok(None)
    }

    fn pop(&mut self) -> Option<Step> {
        let step = self.steps.pop_front()?;
        self.looked_at = self.looked_at.saturating_sub(1);
        if step.part == Part::Below {
            self.parents.remove(&step.path);
        }
        Some(step)
    }

    /// Takes in what a step found, and asks for what lies below the node if something does.
    fn answer(&mut self, step: Step, result: Result<(Found, Option<Stat>)>) {
        if let (Ok((found, stat)), Part::Entry) = (&result, step.part) {
            if let Found::Item(Some(ListItem::Entry(entry))) = found {
                // Large entries count at once, small ones little by little.
                let bytes = entry.value.len() + entry.key.as_str().len();
                let before = self.entry_bytes.unwrap_or(bytes);
                self.entry_bytes = Some(bytes.max((before + bytes) / 2));
            }
            let has_children = stat.as_ref().is_some_and(|stat| stat.num_children > 0);
            if let Some(known) = self.parents.get_mut(&step.path) {
                *known = Some(has_children);
                let below = Step { path: step.path.clone(), part: Part::Below };
                if has_children && self.answers.len() < self.ahead() && !self.answers.contains_key(&below) {
                    self.send(below);
                }
            }
        }
        self.answers.insert(step, Some(result.map(|(found, _)| found)));
    }

    /// Puts the children of a node in the place of the step that found them.
    fn enter(&mut self, path: &str, names: Vec<String>) {
        let mut steps = Vec::with_capacity(names.len() * 2);
        for name in names {
            let path = child(path, &name);
            let Some(key) = self.core.layout.key(&path) else {
                self.core.foreign(&path);
                continue;
            };
            let in_range = self.options.in_range(&key);
            if in_range {
                steps.push((name.clone(), Step { path: path.clone(), part: Part::Entry }));
            }
            if reaches_below(&self.options, &key) {
                // Where the entry is not asked for, nothing else tells whether there is something below.
                self.parents.insert(path.clone(), if in_range { None } else { Some(true) });
                steps.push((format!("{name}/"), Step { path, part: Part::Below }));
            }
        }
        steps.sort_by(|(a, _), (b, _)| a.as_bytes().cmp(b.as_bytes()));
        for (_, step) in steps.into_iter().rev() {
            self.steps.push_front(step);
        }
        self.looked_at = 0;
    }

    /// How many answers may be asked for and not taken yet.
    fn ahead(&self) -> usize {
        let fits = match self.entry_bytes {
            _ if self.options.keys_only => MOST_AHEAD,
            Some(bytes) => (AHEAD_BYTES / bytes.max(1)).clamp(LEAST_AHEAD, MOST_AHEAD),
            None => FIRST_AHEAD,
        };
        let share = AHEAD_TOGETHER / self.core.lists.load(Ordering::Relaxed).max(1);
        // An entry and what lies below it are two.
        fits.min(share.max(LEAST_AHEAD)).min(self.left.saturating_mul(2)).max(2)
    }

    /// Sends the requests of the first steps that were not sent yet.
    fn ask(&mut self) {
        if let Some(first) = self.steps.front().filter(|first| !self.answers.contains_key(first)) {
            self.send(first.clone());
        }
        let ahead = self.ahead();
        while self.answers.len() < ahead
            && let Some(step) = self.steps.get(self.looked_at)
        {
            self.looked_at += 1;
            // What lies below a node is asked for once the node is known to have children.
            let waits = step.part == Part::Below && self.parents.get(&step.path) != Some(&Some(true));
            if !waits && !self.answers.contains_key(step) {
                self.send(step.clone());
            }
        }
    }

    fn send(&mut self, step: Step) {
        self.answers.insert(step.clone(), None);
        let (core, options) = (Arc::clone(&self.core), Arc::clone(&self.options));
        let top = step.path == self.root;
        self.fetching.push(Box::pin(async move {
            let result = match (step.part, options.one_level && !top) {
                (Part::Entry, _) => entry(&core, &options, &step.path).await,
                (Part::Below, false) => names(&core, &options, &step.path).await,
                (Part::Below, true) => sub_prefix(&core, &options, &step.path).await,
            };
            // Of a tree that is refused in parts, the error names the node.
            let result = result.map_err(|error| error.with_key(core.layout.shown(&step.path)));
            (step, result)
        }));
    }
}

impl Drop for Walk {
    fn drop(&mut self) {
        self.core.lists.fetch_sub(1, Ordering::Relaxed);
    }
}

async fn entry(core: &Core, options: &ListOptions, path: &str) -> Result<(Found, Option<Stat>)> {
    let deadline = core.deadline(options.timeout);
    let Some(key) = core.layout.key(path) else { return Ok((Found::Item(None), None)) };
    if options.keys_only {
        let reply = core.client.read(deadline, |session| async move { session.stat(path).await }).await?;
        let Some(stat) = optional(reply)?.flatten() else { return Ok((Found::Item(None), None)) };
        if !may_be_marker(stat.data_length) {
            return Ok((Found::Item(Some(ListItem::Key(key))), Some(stat)));
        }
    }
    if options.expiry {
        // A time to live is noted in the access control list, which is asked for with the data.
        let Some(node) = core.node(path, true, deadline).await? else { return Ok((Found::Item(None), None)) };
        let item = node.expiring_entry(&key).map(ListItem::Entry);
        return Ok((Found::Item(item), Some(node.stat)));
    }
    let Some((data, stat)) = core.read(path, Consistency::Stale, deadline).await? else {
        return Ok((Found::Item(None), None));
    };
    if options.keys_only {
        let item = (!is_marker(&data)).then_some(ListItem::Key(key));
        return Ok((Found::Item(item), Some(stat)));
    }
    let entry = core.entry(&key, path, Some((data, stat)), false, deadline).await?;
    Ok((Found::Item(entry.map(ListItem::Entry)), Some(stat)))
}

async fn names(core: &Core, options: &ListOptions, path: &str) -> Result<(Found, Option<Stat>)> {
    let deadline = core.deadline(options.timeout);
    let reply = core.client.read(deadline, |session| async move { session.children(path).await }).await?;
    Ok((Found::Names(optional(reply)?.unwrap_or_default()), None))
}

/// The sub-prefix at this node, if there is a key in range below it.
async fn sub_prefix(core: &Arc<Core>, options: &ListOptions, path: &str) -> Result<(Found, Option<Stat>)> {
    let mut inner = options.clone();
    inner.one_level = false;
    inner.keys_only = true;
    inner.limit = Some(1);
    let found: Option<ListItem> = {
        let mut walk = Walk::new(Arc::clone(core), Arc::new(inner), path.to_owned());
        Box::pin(async move { walk.next().await }).await?
    };
    let prefix = core.layout.key(path).map(Prefix::from);
    Ok((Found::Item(found.and(prefix).map(ListItem::Prefix)), None))
}

/// Whether a key below this one can be in the range.
fn reaches_below(options: &ListOptions, key: &Key) -> bool {
    let below = format!("{key}/");
    let behind = match &options.start {
        // Everything below is smaller than the start, unless the start is below itself.
        Bound::Included(start) | Bound::Excluded(start) => {
            start.as_str() > below.as_str() && !start.as_str().starts_with(&below)
        }
        Bound::Unbounded => false,
    };
    let before = match &options.end {
        Bound::Included(end) | Bound::Excluded(end) => end.as_str() < below.as_str(),
        Bound::Unbounded => false,
    };
    !behind && !before
}

impl Core {
    /// Says once per handle that there are names that are no keys of ours.
    pub(crate) fn foreign(&self, path: &str) {
        let name = crate::names::name(path);
        let expected =
            crate::names::lock_sequence(name).is_some() || crate::names::is_pin(name) || path == "/zookeeper";
        if !expected && !self.said_foreign.swap(true, Ordering::Relaxed) {
            tracing::info!(path, "a node's name is not a key of ours; such nodes are left alone");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn subtrees_outside_the_range_are_not_entered() {
        let key = |text: &str| Key::new(text).unwrap();
        let range = |from: &str, to: &str| ListOptions::default().with_range(key(from)..key(to));
        assert!(reaches_below(&ListOptions::default(), &key("a")));
        assert!(reaches_below(&range("a/b", "a/c"), &key("a")));
        assert!(reaches_below(&range("a", "b"), &key("a")));
        assert!(reaches_below(&range("a-", "b"), &key("a")), "a- comes before a/");
        assert!(!reaches_below(&range("a0", "b"), &key("a")));
        assert!(!reaches_below(&range("0", "a"), &key("a")));
        assert!(!reaches_below(&range("0", "a-z"), &key("a")));
        assert!(!reaches_below(&range("b", "c"), &key("a")));
    }
}
