//! Whether another process started this one, directly or through others.

/// More ancestors than any process has: a bound on what is read.
const MOST: usize = 256;

/// Whether `process` is the parent of this process, or its parent, and so on. Where the system does not tell
/// who started whom, only the parent is known.
pub(crate) fn is_ancestor(process: u32) -> bool {
    let mut at = parent();
    for _ in 0..MOST {
        match at {
            Some(found) if found == process => return true,
            // 1 is everybody's ancestor, and holds a store only where it is the parent, as in a container.
            Some(found) if found > 1 => at = parent_of(found),
            _ => return false,
        }
    }
    false
}

#[cfg(unix)]
fn parent() -> Option<u32> {
    Some(std::os::unix::process::parent_id())
}

#[cfg(not(unix))]
fn parent() -> Option<u32> {
    None
}

/// The parent of a process, as Linux tells it.
fn parent_of(process: u32) -> Option<u32> {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).ok()?;
    status.lines().find_map(|line| line.strip_prefix("PPid:"))?.trim().parse().ok()
}

/// What a process is called, as Linux tells it.
pub(crate) fn name(process: u32) -> Option<String> {
    let name = std::fs::read_to_string(format!("/proc/{process}/comm")).ok()?;
    Some(name.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[cfg(target_os = "linux")]
    fn ancestors_are_found_and_nobody_else() {
        let parent = parent().unwrap();
        assert!(is_ancestor(parent));
        if let Some(grandparent) = parent_of(parent).filter(|grandparent| *grandparent > 0) {
            assert!(is_ancestor(grandparent));
        }
        assert!(!is_ancestor(std::process::id()));
        assert!(!is_ancestor(u32::MAX));
        assert!(name(std::process::id()).is_some());
    }
}
