//! Native names: the namespace and the key, as one text that is compared and ordered.

use std::borrow::{Borrow, Cow};
use std::cmp::Ordering;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use kv_backend::Namespace;
use kv_core::Key;

use crate::record::Record;

/// A native name that is kept. Where there is no namespace it is the key's own text: a second copy
/// would be one more place in memory to visit for each get.
#[derive(Clone)]
pub(crate) enum Name {
    Key(Key),
    Below(Arc<str>),
}

impl Name {
    pub(crate) fn new(namespace: &Namespace, key: &Key) -> Self {
        if namespace.path().is_empty() {
            Self::Key(key.clone())
        } else {
            Self::Below(namespace.native(key).into())
        }
    }

    pub(crate) fn as_str(&self) -> &str {
        match self {
            Self::Key(key) => key.as_str(),
            Self::Below(native) => native,
        }
    }
}

/// The native name of a key, to look something up.
pub(crate) fn native<'k>(namespace: &Namespace, key: &'k Key) -> Cow<'k, str> {
    if namespace.path().is_empty() { Cow::Borrowed(key.as_str()) } else { Cow::Owned(namespace.native(key)) }
}

impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self.as_str(), f)
    }
}

/// A record that is found by its name.
#[derive(Debug)]
pub(crate) struct ByName(pub(crate) Arc<Record>);

impl ByName {
    fn as_str(&self) -> &str {
        self.0.native()
    }
}

/// Both compare, hash and are looked up as the text.
macro_rules! as_text {
    ($name:ty) => {
        impl Borrow<str> for $name {
            fn borrow(&self) -> &str {
                self.as_str()
            }
        }

        impl PartialEq for $name {
            fn eq(&self, other: &Self) -> bool {
                self.as_str() == other.as_str()
            }
        }

        impl Eq for $name {}

        impl Hash for $name {
            fn hash<H: Hasher>(&self, state: &mut H) {
                self.as_str().hash(state);
            }
        }
    };
}

as_text!(Name);
as_text!(ByName);

impl Ord for Name {
    fn cmp(&self, other: &Self) -> Ordering {
        self.as_str().cmp(other.as_str())
    }
}

impl PartialOrd for Name {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}
