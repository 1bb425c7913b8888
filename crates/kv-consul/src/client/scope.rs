//! Parts of Consul's key space, as one query can read them.

/// A part of Consul's key space one query can read.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Scope {
    /// One native name.
    Key(String),
    /// Every native name that begins so; empty, or ending in a slash.
    Tree(String),
    /// One native name and every name below it.
    Branch(String),
}

impl Scope {
    /// The native name or what the names begin with.
    pub(crate) fn text(&self) -> &str {
        match self {
            Self::Key(text) | Self::Tree(text) | Self::Branch(text) => text,
        }
    }

    /// Whether a native name lies within.
    pub(crate) fn contains(&self, native: &str) -> bool {
        match self {
            Self::Key(own) => own == native,
            Self::Tree(start) => native.starts_with(start.as_str()),
            Self::Branch(own) => {
                native.strip_prefix(own.as_str()).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
            }
        }
    }

    /// What Consul is asked for: it knows no branches, only all names that begin with a text.
    pub(crate) fn asked(&self) -> Self {
        match self {
            Self::Branch(own) => Self::Tree(own.clone()),
            own => own.clone(),
        }
    }

    /// The name on which a token needs the right to read the scope.
    pub(crate) fn right(&self) -> String {
        match self {
            Self::Branch(own) => format!("{own}/"),
            own => own.text().to_owned(),
        }
    }

    /// Whether all of `other` lies within.
    pub(crate) fn covers(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Key(own), Self::Key(other)) => own == other,
            (Self::Key(_), Self::Tree(_) | Self::Branch(_)) => false,
            (Self::Branch(_), other) => self.contains(other.text().trim_end_matches('/')),
            (Self::Tree(start), other) => other.text().starts_with(start.as_str()),
        }
    }

    /// A name nobody uses, within the scope or below it, where a token that may read the scope may read
    /// too. The index of its absence is that of the whole key space.
    pub(crate) fn absent(&self) -> Self {
        match self {
            Self::Key(own) | Self::Branch(own) => Self::Key(format!("{own}/.kv-absent")),
            Self::Tree(start) => Self::Key(format!("{start}.kv-absent")),
        }
    }

    /// The tree one level up.
    fn parent(&self) -> Self {
        let path = self.text().trim_end_matches('/');
        Self::Tree(path.rfind('/').map_or("", |at| &path[..=at]).to_owned())
    }

    /// The smallest tree that covers both.
    pub(crate) fn common(&self, other: &Self) -> Self {
        let mut tree = match self {
            Self::Key(_) => self.parent(),
            Self::Tree(_) | Self::Branch(_) => self.clone(),
        };
        while !tree.covers(other) {
            tree = tree.parent();
        }
        tree
    }

    /// The smallest scope around this one whose name every Consul accepts in a URL.
    ///
    /// From 1.21 on a server may refuse names with other characters than these, or with traversal
    /// and spaces at the edges, in URLs only.
    pub(crate) fn accepted(&self) -> Self {
        let plain = |c: u8| c.is_ascii_alphanumeric() || matches!(c, b',' | b'_' | b'.' | b'/' | b'-');
        let mut scope = self.clone();
        while !scope.text().bytes().all(plain) {
            scope = scope.parent();
        }
        scope
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn common_scopes_end_at_a_path_boundary() {
        let key = |text: &str| Scope::Key(text.into());
        let tree = |text: &str| Scope::Tree(text.into());
        assert_eq!(key("a/b/c").common(&key("a/b/d")), tree("a/b/"));
        assert_eq!(key("a/bc").common(&key("a/bd")), tree("a/"));
        assert_eq!(tree("a/b/").common(&key("a/b/c/d")), tree("a/b/"));
        assert_eq!(key("a/b").common(&tree("a/b/")), tree("a/"));
        assert_eq!(key("a").common(&key("b")), tree(""));
        assert!(tree("a/").covers(&key("a/b")) && !tree("a/").covers(&key("ab")));
        assert!(tree("").covers(&tree("x/")) && !key("a").covers(&tree("a/")));
        let branch = |text: &str| Scope::Branch(text.into());
        assert!(branch("a").covers(&key("a")) && branch("a").covers(&tree("a/")));
        assert!(branch("a").covers(&branch("a/b")) && !branch("a").covers(&key("a-b")));
        assert!(!branch("a").covers(&tree("")) && !tree("a/").covers(&branch("a")));
        assert!(!key("a").covers(&branch("a")) && tree("").covers(&branch("a")));
        assert_eq!(branch("a/b").common(&key("a/b/c")), branch("a/b"));
        assert_eq!(branch("a/b").common(&key("a/c")), tree("a/"));
    }

    #[test]
    fn refused_names_fall_back_to_an_ancestor() {
        assert_eq!(Scope::Key("app/a b/c".into()).accepted(), Scope::Tree("app/".into()));
        assert_eq!(Scope::Tree("app/ü/x/".into()).accepted(), Scope::Tree("app/".into()));
        assert_eq!(Scope::Key("ü".into()).accepted(), Scope::Tree(String::new()));
        assert_eq!(Scope::Key("app/x-1.y".into()).accepted(), Scope::Key("app/x-1.y".into()));
    }
}
