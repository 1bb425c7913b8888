//! list: the tree in byte order of whole keys, with many requests in flight.
//!
//! The order of the tree is not the order of the keys: `a-b` stands between `a` and `a/b`. So a
//! node's entry and what lies below it are two steps of the walk, sorted as `a` and `a/`. The walk
//! keeps the steps in order and asks ahead for the first of them; it holds the names of the
//! directories it is in and the answers it asked ahead for, not the tree.

use std::collections::{HashMap, HashSet, VecDeque};
use std::future::Future;
use std::ops::Bound;
use std::pin::Pin;
use std::sync::Arc;

use futures_util::StreamExt;
use futures_util::stream::{self, FuturesUnordered};
use kv_core::{Consistency, Error, Key, ListItem, ListOptions, Listing, Operation, Prefix, Result};

use crate::core::{Core, optional};
use crate::error::BACKEND;
use crate::mapping::{child, is_marker, may_be_marker};
use crate::session::Stat;

/// How many requests a list has in flight.
const AHEAD: usize = 64;

/// One step of the walk.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Step {
    path: String,
    part: Part,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
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
    asked: HashSet<(String, bool)>,
    answers: HashMap<(String, bool), Result<Found>>,
    /// Nodes whose state is known: whether they have children.
    parents: HashMap<String, bool>,
    fetching: FuturesUnordered<Fetch>,
    left: usize,
}

impl Core {
    pub(crate) async fn list(self: &Arc<Self>, prefix: &Prefix, options: ListOptions) -> Result<Listing> {
        self.client.check_open()?;
        let deadline = self.deadline(options.timeout);
        self.catch_up(options.consistency, deadline).await?;
        let root = self.layout.prefix_path(prefix);
        // A watch from any version begins with the state, so any version will do. This one is the
        // newest this handle has seen of the tree's top.
        let stat = self
            .client
            .read(deadline, |session| {
                let root = &root;
                async move { session.stat(root).await }
            })
            .await?
            .map_err(crate::error::Fault::into_error)?;
        let as_of = stat.map_or(0, |stat| stat.mzxid.max(stat.pzxid));
        let as_of = Some(crate::core::version(as_of));
        if stat.is_none() || self.layout.is_reserved_prefix(prefix) {
            return Ok(Listing::new(as_of, stream::empty()));
        }
        let walk = Walk::new(Arc::clone(self), Arc::new(options), root);
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
        let below = Step { path: root.clone(), part: Part::Below };
        Self {
            core,
            left: options.limit.unwrap_or(usize::MAX),
            options,
            parents: HashMap::from([(root.clone(), true)]),
            root,
            steps: VecDeque::from([below]),
            asked: HashSet::new(),
            answers: HashMap::new(),
            fetching: FuturesUnordered::new(),
        }
    }

    async fn next(&mut self) -> Result<Option<ListItem>> {
        while self.left > 0 {
            self.core.client.check_open()?;
            let Some(first) = self.steps.front() else { return Ok(None) };
            if first.part == Part::Below && self.parents.get(&first.path) == Some(&false) {
                self.parents.remove(&first.path);
                self.steps.pop_front();
                continue;
            }
            let name = (first.path.clone(), first.part == Part::Entry);
            if let Some(answer) = self.answers.remove(&name) {
                self.asked.remove(&name);
                let Some(step) = self.steps.pop_front() else { return Ok(None) };
                match answer? {
                    Found::Item(None) => {}
                    Found::Item(Some(item)) => {
                        self.left -= 1;
                        return Ok(Some(item));
                    }
                    Found::Names(names) => self.enter(&step.path, names),
                }
                if step.part == Part::Below {
                    self.parents.remove(&step.path);
                }
                continue;
            }
            self.ask();
            if let Some((step, result)) = self.fetching.next().await {
                let found = result.map(|(found, stat)| {
                    if let (Part::Entry, Some(stat)) = (step.part, stat) {
                        self.parents.insert(step.path.clone(), stat.num_children > 0);
                    } else if step.part == Part::Entry {
                        self.parents.insert(step.path.clone(), false);
                    }
                    found
                });
                self.answers.insert((step.path, step.part == Part::Entry), found);
            }
        }
        Ok(None)
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
            if self.options.in_range(&key) {
                steps.push((name.clone(), Step { path: path.clone(), part: Part::Entry }));
            } else {
                // Whether it has children is then not known, so it is looked at.
                self.parents.insert(path.clone(), true);
            }
            if reaches_below(&self.options, &key) {
                steps.push((format!("{name}/"), Step { path, part: Part::Below }));
            } else {
                self.parents.remove(&path);
            }
        }
        steps.sort_by(|(a, _), (b, _)| a.as_bytes().cmp(b.as_bytes()));
        for (_, step) in steps.into_iter().rev() {
            self.steps.push_front(step);
        }
    }

    /// Sends the requests of the first steps that were not sent yet.
    fn ask(&mut self) {
        let ahead = AHEAD.min(self.left.saturating_mul(2)).max(2);
        for step in self.steps.iter().take(ahead) {
            let name = (step.path.clone(), step.part == Part::Entry);
            let known_parent = self.parents.get(&step.path).copied();
            // What lies below a node is asked for once the node is known to have children.
            if self.asked.contains(&name) || (step.part == Part::Below && known_parent != Some(true)) {
                continue;
            }
            self.asked.insert(name);
            let (core, options, step) = (Arc::clone(&self.core), Arc::clone(&self.options), step.clone());
            let top = step.path == self.root;
            self.fetching.push(Box::pin(async move {
                let result = match (step.part, options.one_level && !top) {
                    (Part::Entry, _) => entry(&core, &options, &step.path).await,
                    (Part::Below, false) => names(&core, &options, &step.path).await,
                    (Part::Below, true) => sub_prefix(&core, &options, &step.path).await,
                };
                (step, result)
            }));
        }
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
        let name = crate::mapping::name(path);
        let expected = crate::mapping::lock_sequence(name).is_some() || path == "/zookeeper";
        if !expected && !self.said_foreign.swap(true, std::sync::atomic::Ordering::Relaxed) {
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
