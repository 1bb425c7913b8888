//! What the store asks of etcd and what it gets back, in words of our own, and how it is asked.

use bytes::Bytes;
use etcd_client as native;
use kv_core::Compare;

/// A name as the server knows it: any bytes.
pub(crate) type Name = Vec<u8>;

/// One key, or the keys from `start` up to but without `end`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Range {
    pub(crate) start: Name,
    pub(crate) end: Option<Name>,
}

impl Range {
    pub(crate) fn one(name: impl Into<Name>) -> Self {
        Self { start: name.into(), end: None }
    }

    pub(crate) fn contains(&self, name: &[u8]) -> bool {
        match self.end.as_deref() {
            None => name == self.start,
            // No end.
            Some([0]) => name >= &self.start[..],
            Some(end) => name >= &self.start[..] && name < end,
        }
    }

    /// Everything that begins with `prefix`, which is empty or ends in a slash.
    pub(crate) fn below(prefix: &str) -> Self {
        let Some(path) = prefix.strip_suffix('/') else {
            // How etcd writes "every key".
            return Self { start: vec![0], end: Some(vec![0]) };
        };
        Self { start: prefix.into(), end: Some(behind(path)) }
    }

    /// `path` and everything below it. Names such as `a-b` lie between `a` and `a/b`, and are in it too.
    pub(crate) fn tree(path: &str) -> Self {
        Self { start: path.into(), end: Some(behind(path)) }
    }
}

/// The first name behind everything below `path`.
pub(crate) fn behind(path: &str) -> Name {
    // '0' is the character behind '/'.
    [path.as_bytes(), b"0"].concat()
}

/// What the server holds under one key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Record {
    pub(crate) name: Name,
    pub(crate) value: Bytes,
    pub(crate) version: i64,
    pub(crate) created: i64,
    /// The lease it is attached to, 0 for none.
    pub(crate) lease: i64,
}

impl Record {
    /// What it takes in memory, roughly.
    pub(crate) fn size(&self) -> usize {
        self.name.len() + self.value.len() + size_of::<Self>()
    }
}

/// The order of a [`Read`] that is not by key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Order {
    OldestFirst,
    NewestFirst,
}

/// A read of a range.
#[derive(Clone, Debug)]
pub(crate) struct Read {
    pub(crate) range: Range,
    /// At most so many; 0 for all.
    pub(crate) limit: i64,
    /// The state at this revision; 0 for the latest.
    pub(crate) revision: i64,
    pub(crate) keys_only: bool,
    pub(crate) stale: bool,
    /// Ordered by creation in place of by key.
    pub(crate) order: Option<Order>,
    /// Only what was created before this revision; 0 for all.
    pub(crate) created_before: i64,
}

impl Read {
    pub(crate) fn new(range: Range) -> Self {
        Self { range, limit: 0, revision: 0, keys_only: false, stale: false, order: None, created_before: 0 }
    }

    pub(crate) fn keys_only(mut self) -> Self {
        self.keys_only = true;
        self
    }

    pub(crate) fn limit(mut self, limit: i64) -> Self {
        self.limit = limit;
        self
    }

    fn options(&self) -> native::GetOptions {
        let mut options = native::GetOptions::new()
            .with_limit(self.limit)
            .with_revision(self.revision)
            .with_max_create_revision((self.created_before - 1).max(0));
        if let Some(end) = &self.range.end {
            options = options.with_range(end.clone());
        }
        if self.keys_only {
            options = options.with_keys_only();
        }
        if self.stale {
            options = options.with_serializable();
        }
        options = match self.order {
            None => options,
            Some(Order::OldestFirst) => {
                options.with_sort(native::SortTarget::Create, native::SortOrder::Ascend)
            }
            Some(Order::NewestFirst) => {
                options.with_sort(native::SortTarget::Create, native::SortOrder::Descend)
            }
        };
        options
    }

    pub(super) fn native(&self) -> (Name, native::GetOptions) {
        (self.range.start.clone(), self.options())
    }
}

/// What a [`Read`] found.
#[derive(Clone, Debug, Default)]
pub(crate) struct Page {
    pub(crate) records: Vec<Record>,
    /// Whether the limit cut it.
    pub(crate) more: bool,
    /// The revision of the store when it was read.
    pub(crate) revision: i64,
}

/// What a [`Check`] looks at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Field {
    Version(i64),
    /// 0 for an absent key.
    Created(i64),
    /// An absent key has none: every comparison with it is false.
    Value(Bytes),
    /// 0 for an absent key and one without.
    Lease(i64),
}

/// One comparison the server makes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Check {
    pub(crate) name: Name,
    pub(crate) is: Compare,
    pub(crate) field: Field,
}

impl Check {
    pub(crate) fn new(name: impl Into<Name>, is: Compare, field: Field) -> Self {
        Self { name: name.into(), is, field }
    }

    pub(crate) fn exists(name: impl Into<Name>) -> Self {
        Self::new(name, Compare::Greater, Field::Created(0))
    }

    pub(crate) fn absent(name: impl Into<Name>) -> Self {
        Self::new(name, Compare::Equal, Field::Created(0))
    }

    /// What never holds.
    pub(crate) fn never(name: impl Into<Name>) -> Self {
        Self::new(name, Compare::Less, Field::Created(0))
    }

    fn native(self) -> native::Compare {
        let is = match self.is {
            Compare::Equal => native::CompareOp::Equal,
            Compare::NotEqual => native::CompareOp::NotEqual,
            Compare::Less => native::CompareOp::Less,
            Compare::Greater => native::CompareOp::Greater,
        };
        match self.field {
            Field::Version(version) => native::Compare::mod_revision(self.name, is, version),
            Field::Created(created) => native::Compare::create_revision(self.name, is, created),
            Field::Value(value) => native::Compare::value(self.name, is, value),
            Field::Lease(lease) => native::Compare::lease(self.name, is, lease),
        }
    }

    /// What it takes in a request, without framing.
    fn size(&self) -> usize {
        self.name.len() + if let Field::Value(value) = &self.field { value.len() } else { 8 }
    }
}

/// Which lease a put attaches its key to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Attach {
    /// To none: the key never expires.
    Never,
    To(i64),
    /// To the one it has, or to none if it has none. The server refuses it for a key that is absent.
    Same,
}

/// One step of a [`Tree`].
#[derive(Clone, Debug)]
pub(crate) enum Step {
    Put { name: Name, value: Bytes, lease: Attach },
    Delete { range: Range, previous: bool },
    Read(Read),
    Branch(Tree),
}

impl Step {
    fn native(self) -> native::TxnOp {
        match self {
            Self::Put { name, value, lease } => native::TxnOp::put(name, value, attaching(lease)),
            Self::Delete { range, previous } => {
                let (name, options) = deletion(range, previous);
                native::TxnOp::delete(name, Some(options))
            }
            Self::Read(read) => {
                let (name, options) = read.native();
                native::TxnOp::get(name, Some(options))
            }
            Self::Branch(tree) => native::TxnOp::txn(tree.native()),
        }
    }

    fn writes(&self) -> bool {
        match self {
            Self::Put { .. } | Self::Delete { .. } => true,
            Self::Read(_) => false,
            Self::Branch(tree) => tree.writes(),
        }
    }

    fn size(&self) -> usize {
        match self {
            Self::Put { name, value, .. } => name.len() + value.len() + 16,
            Self::Delete { range, .. } | Self::Read(Read { range, .. }) => {
                range.start.len() + range.end.as_ref().map_or(0, Vec::len) + 16
            }
            Self::Branch(tree) => tree.size(),
        }
    }
}

pub(super) fn attaching(lease: Attach) -> Option<native::PutOptions> {
    match lease {
        Attach::Never => None,
        Attach::To(lease) => Some(native::PutOptions::new().with_lease(lease)),
        Attach::Same => Some(native::PutOptions::new().with_ignore_lease()),
    }
}

pub(super) fn deletion(range: Range, previous: bool) -> (Name, native::DeleteOptions) {
    let mut options = native::DeleteOptions::new();
    if let Some(end) = range.end {
        options = options.with_range(end);
    }
    if previous {
        options = options.with_prev_key();
    }
    (range.start, options)
}

/// A transaction: if all checks hold, one list of steps, else the other. All checks of a tree, those
/// of its branches too, look at the state before its first step.
#[derive(Clone, Debug, Default)]
pub(crate) struct Tree {
    pub(crate) when: Vec<Check>,
    pub(crate) then: Vec<Step>,
    pub(crate) or_else: Vec<Step>,
}

impl Tree {
    pub(crate) fn always(then: Vec<Step>) -> Self {
        Self { then, ..Self::default() }
    }

    pub(super) fn native(self) -> native::Txn {
        let steps = |steps: Vec<Step>| steps.into_iter().map(Step::native).collect::<Vec<_>>();
        native::Txn::new()
            .when(self.when.into_iter().map(Check::native).collect::<Vec<_>>())
            .and_then(steps(self.then))
            .or_else(steps(self.or_else))
    }

    /// Whether it may change anything.
    pub(crate) fn writes(&self) -> bool {
        self.then.iter().chain(&self.or_else).any(Step::writes)
    }

    /// What the server counts against its limit of operations: the longest list of each level.
    pub(crate) fn ops(&self) -> usize {
        let inner = self.then.iter().chain(&self.or_else).map(|step| match step {
            Step::Branch(tree) => tree.ops(),
            _ => 0,
        });
        self.when.len().max(self.then.len()).max(self.or_else.len()) + inner.max().unwrap_or(0)
    }

    /// What it takes in a request, roughly.
    pub(crate) fn size(&self) -> usize {
        let steps = self.then.iter().chain(&self.or_else).map(|step| step.size() + 16).sum::<usize>();
        steps + self.when.iter().map(|check| check.size() + 16).sum::<usize>()
    }
}

/// What came of a [`Tree`].
#[derive(Clone, Debug)]
pub(crate) struct TreeDone {
    pub(crate) succeeded: bool,
    pub(crate) steps: Vec<Done>,
    pub(crate) revision: i64,
}

/// What came of one [`Step`].
#[derive(Clone, Debug)]
pub(crate) enum Done {
    Put,
    Delete { deleted: i64, previous: Vec<Record> },
    Read(Page),
    Branch(TreeDone),
}

/// A change as the server reports it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Change {
    pub(crate) deleted: bool,
    pub(crate) record: Record,
    pub(crate) previous: Option<Record>,
}

impl Change {
    pub(crate) fn size(&self) -> usize {
        self.record.size() + self.previous.as_ref().map_or(0, Record::size)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prefix_ends_at_its_path_boundary() {
        let range = Range::below("a/b/");
        let end = range.end.unwrap();
        assert!(b"a/b/".to_vec() >= range.start && b"a/b/".to_vec() < end);
        assert!("a/b/\u{ffee}".as_bytes().to_vec() < end);
        for outside in ["a/b", "a/b0", "a/bc", "a/c"] {
            let name = outside.as_bytes().to_vec();
            assert!(name < range.start || name >= end, "{outside}");
        }
        assert_eq!(Range::below(""), Range { start: vec![0], end: Some(vec![0]) });
    }
}
