//! The node watches of a store handle, shared by all its watches.
//!
//! ZooKeeper's watches fire once and say only that a node changed. So of every node that is watched
//! the hub reads data and children with a watch set, tells the difference to what it knew, and reads
//! again, with a watch set, when the watch fires: what changes after a read fires its watch, so
//! nothing is lost; what changes between two reads is merged. A connection that broke fires all
//! watches that went with it. Each node is watched once, however many watches it concerns.
//!
//! The hub is one task that owns all of this. It makes its requests with a bounded number in flight.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet, VecDeque};
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use futures_util::future::{Aborted, abortable};
use futures_util::stream::FuturesUnordered;
use futures_util::{FutureExt, StreamExt};
use kv_core::{Entry, Key};
use tokio::sync::mpsc;

use super::node::{Arm, Done, Firing, Found, Known, Part, Scope, Seen, Tracked, Watching};
use super::reads::{read_data, read_names};
use crate::client::error::Fault;
use crate::client::wire::{Fired, OneShot};
use crate::env::{Core, version};
use crate::names::{child, parent};
use crate::session::{Current, Live, closed};
use crate::watch::feed::{Feed, Now, Quiet};

/// How many requests the hub has in flight.
const AT_ONCE: usize = 64;

enum Command {
    Add { id: u64, scope: Scope, feed: Arc<Feed>, quiet: Option<Quiet> },
    Remove { id: u64 },
    Fetch { id: u64, key: Key },
}

/// The way to the hub. The hub ends with the last of them.
#[derive(Clone, Debug)]
pub(crate) struct HubHandle {
    commands: mpsc::UnboundedSender<Command>,
    next: Arc<AtomicU64>,
}

impl HubHandle {
    /// Starts the hub of a store handle.
    pub(crate) fn start(core: Arc<Core>) -> Self {
        let (commands, received) = mpsc::unbounded_channel();
        tokio::spawn(Hub::new(core).run(received));
        Self { commands, next: Arc::default() }
    }

    /// Adds a watch. With `quiet` it begins with changes, after it says so there.
    pub(super) fn add(&self, scope: Scope, feed: Arc<Feed>, quiet: Option<Quiet>) -> u64 {
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        if self.commands.send(Command::Add { id, scope, feed: Arc::clone(&feed), quiet }).is_err() {
            feed.fail(closed());
        }
        id
    }

    pub(crate) fn remove(&self, id: u64) {
        let _ = self.commands.send(Command::Remove { id });
    }

    pub(crate) fn fetch(&self, id: u64, key: Key) {
        let _ = self.commands.send(Command::Fetch { id, key });
    }
}

type Job = Pin<Box<dyn Future<Output = Done> + Send>>;
type Waiting = Pin<Box<dyn Future<Output = Result<Firing, Aborted>> + Send>>;

struct Hub {
    core: Arc<Core>,
    live: Option<Arc<Live>>,
    watches: HashMap<u64, Watching>,
    nodes: BTreeMap<String, Tracked>,
    next_node: u64,
    queue: VecDeque<(String, u64, Part)>,
    jobs: FuturesUnordered<Job>,
    arms: FuturesUnordered<Waiting>,
}

impl Hub {
    fn new(core: Arc<Core>) -> Self {
        Self {
            core,
            live: None,
            watches: HashMap::new(),
            nodes: BTreeMap::new(),
            next_node: 0,
            queue: VecDeque::new(),
            jobs: FuturesUnordered::new(),
            arms: FuturesUnordered::new(),
        }
    }

    async fn run(mut self, mut commands: mpsc::UnboundedReceiver<Command>) {
        let mut current = self.core.client.current();
        loop {
            let now = current.borrow_and_update().clone();
            match now {
                Current::Closed => break,
                Current::Live(live) if self.live.as_ref().is_none_or(|own| own.epoch != live.epoch) => {
                    let first = self.live.replace(live).is_none();
                    self.begin_again(!first);
                }
                _ => {}
            }
            self.start_jobs();
            tokio::select! {
                command = commands.recv() => match command {
                    Some(command) => {
                        // What had fired before it was given counts as before it.
                        self.take_fired();
                        self.obey(command);
                    }
                    None => return,
                },
                changed = current.changed() => {
                    if changed.is_err() {
                        break;
                    }
                }
                Some(done) = self.jobs.next() => self.apply(done),
                Some(fired) = self.arms.next() => {
                    if let Ok(firing) = fired {
                        self.fired(firing);
                    }
                }
            }
        }
        for (_, watch) in self.watches.drain() {
            watch.feed.fail(closed());
            if let Some(quiet) = watch.quiet {
                quiet.begun(Err(closed()));
            }
        }
        // What was under way is held up by nobody.
        self.jobs = FuturesUnordered::new();
        self.arms = FuturesUnordered::new();
        self.nodes.clear();
        // Watches that are added from now on learn it too.
        while let Some(command) = commands.recv().await {
            if let Command::Add { feed, quiet, .. } = command {
                feed.fail(closed());
                if let Some(quiet) = quiet {
                    quiet.begun(Err(closed()));
                }
            }
        }
    }

    /// Takes in all watches that have fired by now.
    fn take_fired(&mut self) {
        for _ in 0..self.arms.len() {
            // Not held back by tokio: it must see all there is.
            let next = tokio::task::unconstrained(self.arms.next());
            match next.now_or_never() {
                Some(Some(Ok(firing))) => self.fired(firing),
                Some(Some(Err(_))) => {}
                Some(None) | None => return,
            }
        }
    }

    /// A new session knows nothing of the watches of the old one.
    fn begin_again(&mut self, resync: bool) {
        self.nodes.clear();
        self.queue.clear();
        self.jobs = FuturesUnordered::new();
        self.arms = FuturesUnordered::new();
        let ids: Vec<u64> = self.watches.keys().copied().collect();
        for id in &ids {
            if let Some(watch) = self.watches.get_mut(id) {
                watch.loading.clear();
                watch.loaded = false;
                if resync && watch.quiet.is_none() {
                    watch.feed.begin_state(true);
                }
            }
        }
        for id in ids {
            self.join(id);
        }
    }

    fn obey(&mut self, command: Command) {
        match command {
            Command::Add { id, scope, feed, quiet } => {
                let watch = Watching { scope, feed, quiet, loading: HashSet::new(), loaded: false };
                self.watches.insert(id, watch);
                if self.live.is_some() {
                    self.join(id);
                }
            }
            Command::Remove { id } => self.leave(id),
            Command::Fetch { id, key } => {
                let path = self.core.layout.path(&key);
                match self.nodes.get_mut(&path) {
                    Some(node) => {
                        node.wanted.push(id);
                        self.read(&path, Part::Data);
                    }
                    None => {
                        if let Some(watch) = self.watches.get(&id) {
                            watch.feed.fill(&key, Now::Gone(None));
                        }
                    }
                }
            }
        }
    }

    /// Puts a watch into the tree of nodes and sees to it that its state gets known.
    fn join(&mut self, id: u64) {
        let Some(watch) = self.watches.get(&id) else { return };
        let scope = watch.scope.clone();
        match &scope {
            Scope::Node(path) => {
                self.track(path).node_watches.push(id);
                self.want(path, Part::Data, &[id]);
            }
            Scope::Tree(root) | Scope::Branch(root) => {
                if matches!(scope, Scope::Branch(_)) {
                    self.track(root).node_watches.push(id);
                    self.want(root, Part::Data, &[id]);
                }
                self.track(root).tree_watches.push(id);
                self.want(root, Part::Names, &[id]);
                let below: Vec<String> = self.below(root).map(|(path, _)| path.clone()).collect();
                for path in below {
                    self.want(&path, Part::Data, &[id]);
                    self.want(&path, Part::Names, &[id]);
                    let Some((node, key)) = self.nodes.get(&path).zip(self.core.layout.key(&path)) else {
                        continue;
                    };
                    self.show_known(id, node.known, &key);
                }
            }
        }
        if let Scope::Node(path) | Scope::Branch(path) = &scope
            && let Some((node, key)) = self.nodes.get(path).zip(self.core.layout.key(path))
        {
            self.show_known(id, node.known, &key);
        }
        self.check_loaded(id);
    }

    /// Hands a new watch what the hub knows already.
    fn show_known(&self, id: u64, known: Known, key: &Key) {
        if let (Some(watch), Known::Entry(_)) = (self.watches.get(&id), known)
            && watch.quiet.is_none()
        {
            watch.feed.push(key, false, Now::Unread);
        }
    }

    fn leave(&mut self, id: u64) {
        let Some(watch) = self.watches.remove(&id) else { return };
        let (Scope::Node(root) | Scope::Tree(root) | Scope::Branch(root)) = watch.scope;
        if let Some(node) = self.nodes.get_mut(&root) {
            node.node_watches.retain(|own| *own != id);
            node.tree_watches.retain(|own| *own != id);
        }
        let paths: Vec<String> =
            std::iter::once(root.clone()).chain(self.below(&root).map(|(path, _)| path.clone())).collect();
        for path in paths {
            let rooted = self
                .nodes
                .get(&path)
                .is_none_or(|node| !node.node_watches.is_empty() || !node.tree_watches.is_empty());
            if !rooted && !self.is_covered(&path) {
                self.nodes.remove(&path);
            }
        }
    }

    fn track(&mut self, path: &str) -> &mut Tracked {
        let next = &mut self.next_node;
        self.nodes.entry(path.to_owned()).or_insert_with(|| {
            *next += 1;
            Tracked {
                id: *next,
                node_watches: Vec::new(),
                tree_watches: Vec::new(),
                known: Known::Absent,
                seen: None,
                names: BTreeSet::new(),
                data: Arm::default(),
                list: Arm::default(),
                wanted: Vec::new(),
                deleted_by: None,
            }
        })
    }

    /// The nodes strictly below a path.
    fn below(&self, root: &str) -> impl Iterator<Item = (&String, &Tracked)> {
        let prefix = if root == "/" { "/".to_owned() } else { format!("{root}/") };
        self.nodes
            .range(prefix.clone()..)
            .take_while(move |(path, _)| path.starts_with(&prefix))
            .filter(|(path, _)| path.len() > 1)
    }

    /// Whether a watch of a tree above concerns the node.
    fn is_covered(&self, path: &str) -> bool {
        ancestors(path).any(|above| self.nodes.get(above).is_some_and(|node| !node.tree_watches.is_empty()))
    }

    /// The watches that the entry of a node concerns.
    fn concerned(&self, path: &str) -> Vec<u64> {
        let own = self.nodes.get(path).into_iter().flat_map(|node| &node.node_watches);
        let above = ancestors(path).filter_map(|above| self.nodes.get(above));
        own.chain(above.flat_map(|node| &node.tree_watches)).copied().collect()
    }

    /// The watches that wait for this part of a node.
    fn waiting_for(&self, path: &str, part: Part) -> Vec<u64> {
        let mut ids = self.concerned(path);
        if part == Part::Names
            && let Some(node) = self.nodes.get(path)
        {
            ids.extend(&node.tree_watches);
        }
        ids
    }

    /// Sees to it that a part of a node is known and watched, and lets these watches wait for it.
    fn want(&mut self, path: &str, part: Part, watches: &[u64]) {
        let Some(node) = self.nodes.get_mut(path) else { return };
        let id = node.id;
        let arm = node.arm(part);
        let (armed, running) = (arm.armed.is_some(), arm.running);
        if armed && !running && !arm.queued {
            return;
        }
        let mut quiet = false;
        for watch in watches {
            if let Some(watch) = self.watches.get_mut(watch)
                && !watch.loaded
            {
                watch.loading.insert((id, part));
                quiet |= watch.quiet.is_some();
            }
        }
        // A read that is under way may be older than a watch that begins with changes from now on.
        if !running || quiet {
            self.read(path, part);
        }
    }

    /// Reads a part of a node, at once or after the read that is under way.
    fn read(&mut self, path: &str, part: Part) {
        let Some(node) = self.nodes.get_mut(path) else { return };
        let id = node.id;
        let arm = node.arm(part);
        if arm.running {
            arm.dirty = true;
        } else if !arm.queued {
            arm.queued = true;
            self.queue.push_back((path.to_owned(), id, part));
        }
    }

    fn start_jobs(&mut self) {
        let Some(live) = self.live.clone() else { return };
        while self.jobs.len() < AT_ONCE {
            let Some((path, id, part)) = self.queue.pop_front() else { return };
            let Some(node) = self.nodes.get_mut(&path).filter(|node| node.id == id) else { continue };
            let rooted = match part {
                Part::Data => !node.node_watches.is_empty(),
                Part::Names => !node.tree_watches.is_empty(),
            };
            let before = node.seen;
            let arm = node.arm(part);
            arm.queued = false;
            arm.running = true;
            arm.dirty = false;
            let (core, session) = (Arc::clone(&self.core), Arc::clone(&live.session));
            self.jobs.push(Box::pin(async move {
                let result = match part {
                    Part::Data => read_data(&core, &*session, &path, rooted, before).await,
                    Part::Names => read_names(&*session, &path, rooted).await,
                };
                Done { path, id, part, result }
            }));
        }
    }

    /// Takes in what a read found.
    fn apply(&mut self, done: Done) {
        let Done { path, id, part, result } = done;
        let Some(node) = self.nodes.get_mut(&path).filter(|node| node.id == id) else { return };
        let arm = node.arm(part);
        arm.running = false;
        let again = std::mem::take(&mut arm.dirty);
        let found = match result {
            Ok(found) => found,
            // The client says when there is a new session; all begins again then.
            Err(Fault::SessionExpired | Fault::ClientClosed | Fault::AuthFailed) => return,
            Err(fault) => return self.fail(&path, &fault),
        };
        let (Found::Data { armed, .. } | Found::Names { armed, .. }) = &found;
        let is_armed = armed.is_some();
        match found {
            Found::Data { entry, seen, armed } => {
                self.watch(&path, id, part, armed);
                let exists = seen.is_some();
                self.apply_entry(&path, entry, seen);
                // It may have gone and come back since its children were looked at.
                let unwatched = self.nodes.get(&path).is_some_and(|node| node.list.armed.is_none());
                if exists && unwatched && self.is_covered(&path) {
                    self.read(&path, Part::Names);
                }
            }
            Found::Names { names, armed } => {
                self.watch(&path, id, part, armed);
                self.apply_names(&path, names);
            }
        }
        let watches = self.waiting_for(&path, part);
        // A node that is gone is forgotten, unless a watch is about that very node.
        if !is_armed && part == Part::Data {
            let above = parent(&path).and_then(|above| self.nodes.get_mut(above));
            let named_since = above.is_some_and(|above| {
                above.names.remove(crate::names::name(&path)) && above.list.armed.is_some()
            });
            self.gone(&path);
            // Its parent should have told. It named the node after this read, or will tell in a moment.
            if named_since && let Some(above) = parent(&path).map(str::to_owned) {
                self.read(&above, Part::Names);
            }
        }
        let again = again && self.nodes.get(&path).is_some_and(|node| node.id == id);
        if again {
            self.read(&path, part);
        }
        for watch in watches {
            if let Some(watch) = self.watches.get_mut(&watch) {
                if !again {
                    watch.loading.remove(&(id, part));
                }
                if let Some(quiet) = &watch.quiet {
                    quiet.goes_on();
                }
            }
            self.check_loaded(watch);
        }
    }

    /// Waits for the watch of a read.
    fn watch(&mut self, path: &str, id: u64, part: Part, armed: Option<OneShot>) {
        let Some(node) = self.nodes.get_mut(path) else { return };
        let arm = node.arm(part);
        if let Some(before) = arm.armed.take() {
            before.abort();
        }
        let Some(armed) = armed else { return };
        let path = path.to_owned();
        let (waiting, handle) = abortable(async move { Firing { path, id, part, fired: armed.await } });
        arm.armed = Some(handle);
        self.arms.push(Box::pin(waiting));
    }

    fn fired(&mut self, firing: Firing) {
        let Firing { path, id, part, fired } = firing;
        let Some(node) = self.nodes.get_mut(&path).filter(|node| node.id == id) else { return };
        node.arm(part).armed = None;
        if let Fired::Changed { deleted: true, zxid } = fired {
            node.deleted_by = zxid;
        }
        self.read(&path, part);
    }

    fn apply_entry(&mut self, path: &str, entry: Option<Entry>, seen: Option<Seen>) {
        let Some(key) = self.core.layout.key(path) else { return };
        let Some(node) = self.nodes.get_mut(path) else { return };
        let (known, marker) = match (&entry, seen) {
            (Some(entry), _) => (Known::Entry(entry.version), None),
            (None, Some(seen)) => (Known::Marker, Some(seen.mzxid)),
            (None, None) => (Known::Absent, None),
        };
        node.seen = seen;
        let wanted = std::mem::take(&mut node.wanted);
        let before = std::mem::replace(&mut node.known, known);
        let gone_by = marker.or(node.deleted_by.take()).map(version);
        let now = entry.map_or(Now::Gone(gone_by), Now::Entry);
        if known != before {
            self.tell(path, &key, before, &now);
        }
        for id in wanted {
            if let Some(watch) = self.watches.get(&id) {
                watch.feed.fill(&key, now.clone());
            }
        }
    }

    /// Tells the watches a change of an entry concerns.
    fn tell(&self, path: &str, key: &Key, before: Known, now: &Now) {
        let was = matches!(before, Known::Entry(_));
        if !was && matches!(now, Now::Gone(_)) {
            return;
        }
        for id in self.concerned(path) {
            if let Some(watch) = self.watches.get(&id)
                && watch.quiet.is_none()
            {
                watch.feed.push(key, was, now.clone());
            }
        }
    }

    fn apply_names(&mut self, path: &str, names: Vec<String>) {
        let mut keys = BTreeSet::new();
        for name in names {
            let below = child(path, &name);
            if self.core.layout.key(&below).is_some() {
                keys.insert(name);
            } else {
                self.core.foreign(&below);
            }
        }
        let Some(node) = self.nodes.get_mut(path) else { return };
        // A name that is missing tells nothing: this may be older than what was read of the child since,
        // and the child's own watch tells when it goes.
        let before = std::mem::replace(&mut node.names, keys.clone());
        for name in keys.difference(&before) {
            let path = child(path, name);
            self.track(&path);
            let watches = self.concerned(&path);
            self.want(&path, Part::Data, &watches);
            self.want(&path, Part::Names, &watches);
        }
    }

    /// A node is gone, by its own account.
    fn gone(&mut self, path: &str) {
        let Some(node) = self.nodes.get_mut(path) else { return };
        let before = std::mem::replace(&mut node.known, Known::Absent);
        let (id, rooted) = (node.id, !node.node_watches.is_empty() || !node.tree_watches.is_empty());
        let wanted = std::mem::take(&mut node.wanted);
        let gone_by = node.deleted_by.take().map(version);
        node.seen = None;
        node.names.clear();
        if let Some(key) = self.core.layout.key(path) {
            self.tell(path, &key, before, &Now::Gone(gone_by));
            for id in wanted {
                if let Some(watch) = self.watches.get(&id) {
                    watch.feed.fill(&key, Now::Gone(gone_by));
                }
            }
        }
        if rooted {
            // Its own watches wait for it to come back.
            return;
        }
        let watches = self.waiting_for(path, Part::Names);
        self.nodes.remove(path);
        for watch in watches {
            if let Some(watch) = self.watches.get_mut(&watch) {
                watch.loading.remove(&(id, Part::Data));
                watch.loading.remove(&(id, Part::Names));
            }
            self.check_loaded(watch);
        }
    }

    /// Ends the watches that cannot be kept because a node cannot be read.
    fn fail(&mut self, path: &str, fault: &Fault) {
        let mut ids = self.waiting_for(path, Part::Names);
        ids.sort_unstable();
        ids.dedup();
        for id in ids {
            if let Some(watch) = self.watches.get_mut(&id) {
                let error = || fault.clone().into_error().with_key(self.core.layout.shown(path));
                watch.feed.fail(error());
                if let Some(quiet) = watch.quiet.take() {
                    quiet.begun(Err(error()));
                }
            }
            self.leave(id);
        }
    }

    fn check_loaded(&mut self, id: u64) {
        let Some(watch) = self.watches.get_mut(&id) else { return };
        if watch.loaded || !watch.loading.is_empty() {
            return;
        }
        watch.loaded = true;
        match watch.quiet.take() {
            Some(quiet) => quiet.begun(Ok(())),
            None => watch.feed.complete_state(),
        }
    }
}

/// The nodes strictly above a path.
fn ancestors(path: &str) -> impl Iterator<Item = &str> {
    std::iter::successors(parent(path), |path| parent(path))
}
