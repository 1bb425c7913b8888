//! Powers and guarantees: the names of what stores differ in.

/// Declares a fieldless enum together with its list, names and descriptions, so that tables,
/// conformance needs and the enum cannot drift apart.
macro_rules! declared {
    ($(#[$meta:meta])* $name:ident { $($variant:ident = $text:literal: $doc:literal,)* }) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[non_exhaustive]
        pub enum $name { $(#[doc = $doc] $variant,)* }

        impl $name {
            /// All there are, in the order they are documented.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)*];

            /// The name used in tables, reports and messages.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $text,)* }
            }

            /// What it promises, in one sentence.
            #[must_use]
            pub const fn promise(self) -> &'static str {
                match self { $(Self::$variant => $doc,)* }
            }

            pub(crate) const fn bit(self) -> u32 {
                1 << self as u32
            }
        }
    };
}

declared! {
    /// Something a store can be asked for. Declared absent, asking is `Unsupported` before any change.
    Power {
        Transactions = "transactions": "Several keys change at once, under conditions on several keys.",
        Ttl = "ttl": "A put can carry a time to live.",
        SessionKeys = "session_keys": "A put can live as long as the store handle's session.",
        ExpiryChange = "expiry_change": "A put can change how an existing key expires, without the key being absent in between.",
        KeepExpiry = "keep_expiry": "A put can keep the expiry that the key has.",
        ExpiryWithChildren = "expiry_with_children": "An expiring key can have keys below it.",
        FencedWrites = "fenced_writes": "Writes can be tied to a lock and are applied only while it is held.",
        WatchHistory = "watch_history": "A watch can begin at an older version and gets the changes since, or `Compacted`.",
        StaleReads = "stale_reads": "A read can settle for a possibly older state.",
        ListExpiry = "list_expiry": "A list can tell how each entry expires.",
        LockView = "lock_view": "Locks can be listed and watched, and a hold can be ended from outside.",
        History = "history": "The state at an older version can be read, and history can be compacted.",
        Cluster = "cluster": "The servers can be listed, and the endpoints of a handle changed.",
        Storage = "storage": "What the data take on the disk can be told, and what is not in use given back.",
        Access = "access": "Users can be made and given rights on what lies below a prefix.",
    }
}

declared! {
    /// Something a store promises of what it does. A store may be better than it declares.
    Guarantee {
        LinearizableReads = "linearizable_reads": "A read sees every write acknowledged before it began.",
        ListSnapshot = "list_snapshot": "One list is the state at one version.",
        ListPaged = "list_paged": "A list takes memory for a page, however large the tree.",
        DeleteTreeAtomic = "delete_tree_atomic": "delete_tree is all or nothing.",
        WatchComplete = "watch_complete": "A watch delivers every change and merges none.",
        WatchExpiry = "watch_expiry": "A watch marks the deletes that were expiries.",
        WatchPrevious = "watch_previous": "A watch's deletes carry the entry that was deleted.",
        CasDetectsRecreate = "cas_detects_recreate": "A precondition on a version notices a delete and re-create at any moment.",
        LockFifo = "lock_fifo": "Waiters get a lock in the order they asked.",
    }
}
