//! Keys and prefixes: checked and normalised once, here, for every backend.

use std::borrow::{Borrow, Cow};
use std::fmt;
use std::sync::Arc;

use crate::error::{Error, ErrorKind, Operation};

/// The longest canonical key, in bytes of UTF-8.
pub const MAX_KEY_BYTES: usize = 512;

/// The longest canonical namespace, in bytes of UTF-8.
pub const MAX_NAMESPACE_BYTES: usize = 256;

/// The name of one entry: one or more non-empty segments joined by `/`.
///
/// A `Key` is always canonical. Slashes at the ends and doubled slashes are accepted on input and
/// normalised away, so `/a//b/` is `a/b`. Refused everywhere, because some backend could not store
/// them: `.` and `..` segments, control characters (U+0000–1F, U+7F–9F), U+E000–F8FF, U+FFF0–FFFF,
/// everything above U+FFFF, and keys of more than [`MAX_KEY_BYTES`] bytes.
///
/// Keys compare by bytes: NFC and NFD spellings of one word are two keys. Cloning is cheap.
///
/// ```
/// use kv_core::Key;
///
/// let key: Key = "/jobs//nightly/".parse()?;
/// assert_eq!(key.as_str(), "jobs/nightly");
/// assert!("a/../b".parse::<Key>().is_err());
/// # Ok::<(), kv_core::Error>(())
/// ```
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key(Arc<str>);

impl Key {
    /// Checks and normalises `input`.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::InvalidKey`], naming the rule that was broken.
    pub fn new(input: &str) -> Result<Self, Error> {
        match canonical(input, MAX_KEY_BYTES).map_err(|broken| broken.into_error(input))? {
            Some(text) => Ok(Self(text.into())),
            None => Err(Broken::Empty.into_error(input)),
        }
    }

    /// The canonical text, without a leading or trailing slash.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The segments, in order.
    pub fn segments(&self) -> impl DoubleEndedIterator<Item = &str> {
        self.0.split('/')
    }

    /// The last segment.
    #[must_use]
    pub fn name(&self) -> &str {
        last_segment(&self.0)
    }

    /// Everything above the last segment; the empty prefix for a key of one segment.
    #[must_use]
    pub fn parent(&self) -> Prefix {
        match self.0.rfind('/') {
            Some(at) => Prefix(self.0[..at].into()),
            None => Prefix::root(),
        }
    }

    /// This key with `below` appended as further segments.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::InvalidKey`] if `below` is not a key or the result is too long.
    pub fn join(&self, below: &str) -> Result<Self, Error> {
        self.as_prefix().join(below)
    }

    /// The prefix that covers everything strictly below this key.
    #[must_use]
    pub fn as_prefix(&self) -> Prefix {
        Prefix(self.0.clone())
    }

    /// Whether this key lies strictly below `prefix`.
    #[must_use]
    pub fn is_below(&self, prefix: &Prefix) -> bool {
        prefix.covers(self)
    }

    /// Takes text that is already canonical, as read back from a store; `None` if it is not.
    ///
    /// Backends use this to tell entries of ours from foreign names: anything that would have been
    /// changed by normalisation is not ours.
    #[must_use]
    pub fn from_canonical(text: &str) -> Option<Self> {
        match canonical(text, MAX_KEY_BYTES) {
            Ok(Some(normal)) if normal == text => Some(Self(text.into())),
            _ => None,
        }
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&*self.0, f)
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl AsRef<str> for Key {
    fn as_ref(&self) -> &str {
        &self.0
    }
}

impl Borrow<str> for Key {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl std::str::FromStr for Key {
    type Err = Error;
    fn from_str(input: &str) -> Result<Self, Error> {
        Self::new(input)
    }
}

impl TryFrom<&str> for Key {
    type Error = Error;
    fn try_from(input: &str) -> Result<Self, Error> {
        Self::new(input)
    }
}

impl TryFrom<String> for Key {
    type Error = Error;
    fn try_from(input: String) -> Result<Self, Error> {
        Self::new(&input)
    }
}

impl TryFrom<&String> for Key {
    type Error = Error;
    fn try_from(input: &String) -> Result<Self, Error> {
        Self::new(input)
    }
}

impl From<&Key> for Key {
    fn from(key: &Key) -> Self {
        key.clone()
    }
}

/// A subtree: every key strictly below a path, or the whole namespace when empty.
///
/// A prefix is a path boundary: `a` covers `a/b`, never `ab`, never `a` itself. The same rules as
/// for [`Key`] apply, and the empty text is allowed.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Prefix(Arc<str>);

impl Prefix {
    /// Checks and normalises `input`; the empty text and `/` are the whole namespace.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::InvalidKey`], naming the rule that was broken.
    pub fn new(input: &str) -> Result<Self, Error> {
        let text = canonical(input, MAX_KEY_BYTES).map_err(|broken| broken.into_error(input))?;
        Ok(Self(text.unwrap_or_default().into()))
    }

    /// The prefix that covers the whole namespace.
    #[must_use]
    pub fn root() -> Self {
        Self("".into())
    }

    /// Whether this is the whole namespace.
    #[must_use]
    pub fn is_root(&self) -> bool {
        self.0.is_empty()
    }

    /// The canonical text, without slashes at the ends; empty for the whole namespace.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The last segment; empty for the whole namespace.
    #[must_use]
    pub fn name(&self) -> &str {
        last_segment(&self.0)
    }

    /// Whether `key` lies strictly below this prefix.
    #[must_use]
    pub fn covers(&self, key: &Key) -> bool {
        self.relative(key).is_some()
    }

    /// Whether everything below `other` lies below this prefix: it is the same or a prefix further down.
    ///
    /// ```
    /// # use kv_core::Prefix;
    /// let prefix = |text| Prefix::new(text).unwrap();
    /// assert!(prefix("a").covers_prefix(&prefix("a/b")) && prefix("").covers_prefix(&prefix("a")));
    /// assert!(!prefix("a").covers_prefix(&prefix("ab")));
    /// ```
    #[must_use]
    pub fn covers_prefix(&self, other: &Self) -> bool {
        self == other || other.to_key().is_some_and(|key| self.covers(&key))
    }

    /// What of `key` is left below this prefix, if it lies there.
    #[must_use]
    pub fn relative<'k>(&self, key: &'k Key) -> Option<&'k str> {
        if self.is_root() {
            return Some(key.as_str());
        }
        key.as_str().strip_prefix(&*self.0)?.strip_prefix('/')
    }

    /// The key at this path itself; `None` for the whole namespace.
    #[must_use]
    pub fn to_key(&self) -> Option<Key> {
        (!self.is_root()).then(|| Key(self.0.clone()))
    }

    /// The key `below` this prefix.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::InvalidKey`] if `below` is not a key or the result is too long.
    pub fn join(&self, below: &str) -> Result<Key, Error> {
        if self.is_root() {
            return Key::new(below);
        }
        // Checked on its own first, so that an empty `below` cannot name the prefix itself.
        let below = Key::new(below)?;
        Key::new(&format!("{}/{below}", self.0))
    }

    /// Checks that this prefix may serve as a store's namespace.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::InvalidKey`] when longer than [`MAX_NAMESPACE_BYTES`].
    pub fn check_namespace(&self) -> Result<(), Error> {
        if self.0.len() > MAX_NAMESPACE_BYTES {
            return Err(Broken::TooLong { len: self.0.len(), max: MAX_NAMESPACE_BYTES }.into_error(&self.0));
        }
        Ok(())
    }
}

impl Default for Prefix {
    fn default() -> Self {
        Self::root()
    }
}

impl fmt::Debug for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{}/\"", &*self.0)
    }
}

impl fmt::Display for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl AsRef<str> for Prefix {
    fn as_ref(&self) -> &str {
        &self.0
    }
}

impl std::str::FromStr for Prefix {
    type Err = Error;
    fn from_str(input: &str) -> Result<Self, Error> {
        Self::new(input)
    }
}

impl TryFrom<&str> for Prefix {
    type Error = Error;
    fn try_from(input: &str) -> Result<Self, Error> {
        Self::new(input)
    }
}

impl TryFrom<String> for Prefix {
    type Error = Error;
    fn try_from(input: String) -> Result<Self, Error> {
        Self::new(&input)
    }
}

impl TryFrom<&String> for Prefix {
    type Error = Error;
    fn try_from(input: &String) -> Result<Self, Error> {
        Self::new(input)
    }
}

impl From<&Prefix> for Prefix {
    fn from(prefix: &Prefix) -> Self {
        prefix.clone()
    }
}

impl From<Key> for Prefix {
    fn from(key: Key) -> Self {
        Self(key.0)
    }
}

impl From<&Key> for Prefix {
    fn from(key: &Key) -> Self {
        key.as_prefix()
    }
}

/// What the methods of [`StoreExt`](crate::StoreExt) and transactions take as a key: a [`Key`], a reference
/// to one, or text that is checked. Not to be implemented by hand.
pub trait IntoKey: Send {
    /// The key, for this operation.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::InvalidKey`], naming the operation.
    fn into_key(self, operation: Operation) -> Result<Key, Error>;
}

impl<K: TryInto<Key, Error: Into<Error>> + Send> IntoKey for K {
    fn into_key(self, operation: Operation) -> Result<Key, Error> {
        self.try_into().map_err(|error| error.into().with_operation(operation))
    }
}

/// What the methods of [`StoreExt`](crate::StoreExt) take as a prefix: a [`Prefix`], a [`Key`] that others
/// lie below, a reference to either, or text that is checked. Not to be implemented by hand.
pub trait IntoPrefix: Send {
    /// The prefix, for this operation.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::InvalidKey`], naming the operation.
    fn into_prefix(self, operation: Operation) -> Result<Prefix, Error>;
}

impl<P: TryInto<Prefix, Error: Into<Error>> + Send> IntoPrefix for P {
    fn into_prefix(self, operation: Operation) -> Result<Prefix, Error> {
        self.try_into().map_err(|error| error.into().with_operation(operation))
    }
}

fn last_segment(text: &str) -> &str {
    text.rsplit('/').next().unwrap_or(text)
}

/// The rule a text breaks.
enum Broken {
    Empty,
    Dots(String),
    Character(char),
    TooLong { len: usize, max: usize },
}

impl Broken {
    fn into_error(self, input: &str) -> Error {
        let reason = match self {
            Self::Empty => "a key needs at least one segment".to_owned(),
            Self::Dots(segment) => format!("the segment {segment:?} is not allowed"),
            Self::Character(c) => format!(
                "the character U+{:04X} is not allowed (control, private-use, U+FFF0-FFFF or above U+FFFF)",
                u32::from(c)
            ),
            Self::TooLong { len, max } => format!("{len} bytes, the limit is {max}"),
        };
        Error::new(ErrorKind::InvalidKey { reason }).with_key(shortened(input))
    }
}

/// What of a refused text an error may repeat: enough to find it, never kilobytes.
fn shortened(input: &str) -> String {
    const SHOWN: usize = 80;
    match input.char_indices().nth(SHOWN) {
        Some((at, _)) => format!("{}…", &input[..at]),
        None => input.to_owned(),
    }
}

/// The canonical form of `input`, `None` where no segment is left. Most input is canonical already and is
/// not copied.
fn canonical(input: &str, max: usize) -> Result<Option<Cow<'_, str>>, Broken> {
    // Printable ASCII is seen at a glance.
    let plain = input.bytes().all(|byte| matches!(byte, 0x20..0x7f));
    if !plain && let Some(c) = input.chars().find(|c| !allowed(*c)) {
        return Err(Broken::Character(c));
    }
    if let Some(dots) = input.split('/').find(|segment| matches!(*segment, "." | "..")) {
        return Err(Broken::Dots(dots.to_owned()));
    }
    let text = if input.split('/').all(|segment| !segment.is_empty()) {
        Cow::Borrowed(input)
    } else {
        let segments: Vec<_> = input.split('/').filter(|segment| !segment.is_empty()).collect();
        Cow::Owned(segments.join("/"))
    };
    if text.len() > max {
        return Err(Broken::TooLong { len: text.len(), max });
    }
    Ok((!text.is_empty()).then_some(text))
}

fn allowed(c: char) -> bool {
    !matches!(c, '\u{0}'..='\u{1f}' | '\u{7f}'..='\u{9f}' | '\u{e000}'..='\u{f8ff}' | '\u{fff0}'..)
}
