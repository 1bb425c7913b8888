//! The names of error kinds in traces, metrics and audit logs.

use kv_core::ErrorKind;

/// The name of an error's kind, such as `PreconditionFailed`, without what it carries.
pub(crate) fn name(kind: &ErrorKind) -> String {
    let text = format!("{kind:?}");
    let end = text.find(|c: char| !c.is_ascii_alphanumeric()).unwrap_or(text.len());
    text[..end].to_owned()
}
