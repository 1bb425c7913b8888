//! Who this process is to others: the holder of a lock, a candidate, a key of its own.

/// The host and the process, `host:4711`.
pub(super) fn default_owner() -> String {
    format!("{}:{}", host(), std::process::id())
}

#[cfg(unix)]
fn host() -> String {
    let host = nix::unistd::gethostname().ok();
    host.map_or_else(|| "localhost".to_owned(), |host| host.to_string_lossy().into_owned())
}

#[cfg(not(unix))]
fn host() -> String {
    "localhost".to_owned()
}
