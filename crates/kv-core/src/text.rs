//! Text for people: foreign text made harmless, and times as people write them.
//!
//! Everything that a server, a key or a file name puts into an [`Error`](crate::Error) passes
//! [`escape`] on its way in, so that no error text can move the cursor of a terminal, forge a line of a
//! log, or show its letters in another order than it has them. Programs that print names or values
//! themselves call it too.

use std::borrow::Cow;
use std::fmt::Write as _;
use std::time::Duration;

/// Writes out every character of `text` that acts on a terminal or hides other text.
///
/// These are control characters (line ends, tabs, ESC, U+0080–9F), line and paragraph separators,
/// marks that change the direction of writing (U+061C, U+200E–F, U+202A–E, U+2066–9), characters
/// without a width (U+200B–D, U+2060–4, U+FEFF, the soft hyphen), and tags (U+E0000–E007F). They become
/// `\n`, `\t`, `\r` or `\u{…}`. A backslash stays as it is, so that text that was escaped once stays the
/// same when it is escaped again.
///
/// ```
/// use kv_core::text::escape;
///
/// assert_eq!(escape("permission denied"), "permission denied");
/// assert_eq!(escape("gone\r\n\u{1b}[2J"), r"gone\r\n\u{1b}[2J");
/// assert_eq!(escape("safe\u{202e}exe.txt"), r"safe\u{202e}exe.txt");
/// ```
#[must_use]
pub fn escape(text: &str) -> Cow<'_, str> {
    let Some(first) = text.find(acts) else { return Cow::Borrowed(text) };
    let (plain, rest) = text.split_at(first);
    let mut escaped = String::with_capacity(text.len() + 16);
    escaped.push_str(plain);
    for c in rest.chars() {
        match c {
            '\n' => escaped.push_str("\\n"),
            '\r' => escaped.push_str("\\r"),
            '\t' => escaped.push_str("\\t"),
            c if acts(c) => escaped.extend(c.escape_unicode()),
            c => escaped.push(c),
        }
    }
    Cow::Owned(escaped)
}

/// The same for a text that is owned already.
pub(crate) fn escaped(text: String) -> String {
    match escape(&text) {
        Cow::Borrowed(_) => text,
        Cow::Owned(escaped) => escaped,
    }
}

/// Whether a character does something else than show itself.
fn acts(c: char) -> bool {
    c.is_control()
        || matches!(c,
            '\u{ad}' | '\u{61c}' | '\u{180e}'
            | '\u{200b}'..='\u{200f}'
            | '\u{2028}'..='\u{202e}'
            | '\u{2060}'..='\u{206f}'
            | '\u{feff}'
            | '\u{fff9}'..='\u{fffb}'
            | '\u{e0000}'..='\u{e007f}')
}

/// A time as people write it: `1 ms`, `1 min 30 s`, `365 days`.
///
/// ```
/// use std::time::Duration;
/// use kv_core::text::duration;
///
/// assert_eq!(duration(Duration::from_millis(1)), "1 ms");
/// assert_eq!(duration(Duration::from_secs(90)), "1 min 30 s");
/// assert_eq!(duration(Duration::from_secs(365 * 24 * 3600)), "365 days");
/// assert_eq!(duration(Duration::ZERO), "0 s");
/// ```
#[must_use]
pub fn duration(time: Duration) -> String {
    const DAY: u64 = 24 * 3600;
    let (seconds, nanos) = (time.as_secs(), time.subsec_nanos());
    let parts = [
        (seconds / DAY, if seconds / DAY == 1 { "day" } else { "days" }),
        (seconds % DAY / 3600, "h"),
        (seconds % 3600 / 60, "min"),
        (seconds % 60, "s"),
        (u64::from(nanos / 1_000_000), "ms"),
        (u64::from(nanos / 1_000 % 1_000), "µs"),
        (u64::from(nanos % 1_000), "ns"),
    ];
    let mut text = String::new();
    for (count, unit) in parts.into_iter().filter(|(count, _)| *count > 0) {
        let space = if text.is_empty() { "" } else { " " };
        // Writing to a `String` cannot fail.
        let _ = write!(text, "{space}{count} {unit}");
    }
    if text.is_empty() { "0 s".to_owned() } else { text }
}
