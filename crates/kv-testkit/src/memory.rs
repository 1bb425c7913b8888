//! How much memory a piece of work takes at its peak, of this whole process.

use std::fs;

use anyhow::{Context, Result};

/// Where Linux tells the memory of a process, and where its peak is set back.
const STATUS: &str = "/proc/self/status";
const CLEAR: &str = "/proc/self/clear_refs";

/// What this process takes more than when this was made.
///
/// All threads count: a test that uses it has its process for itself. Memory that was freed before
/// and is used again does not count.
#[derive(Debug)]
pub struct Growth {
    before: u64,
}

impl Growth {
    /// Begins to count.
    ///
    /// # Errors
    /// Where the system does not tell, as it is with all but Linux.
    pub fn begin() -> Result<Self> {
        // By proc(5), this sets the peak back to what is resident now.
        fs::write(CLEAR, "5").context(CLEAR)?;
        Ok(Self { before: kib("VmRSS")? })
    }

    /// The most that was resident since then beyond what was resident then, in KiB.
    ///
    /// # Errors
    /// As [`begin`](Self::begin).
    pub fn peak_kib(&self) -> Result<u64> {
        Ok(peak_kib()?.saturating_sub(self.before))
    }
}

/// The most that was resident in this process, in KiB.
///
/// # Errors
/// As [`Growth::begin`].
pub fn peak_kib() -> Result<u64> {
    kib("VmHWM")
}

fn kib(name: &str) -> Result<u64> {
    let status = fs::read_to_string(STATUS).context(STATUS)?;
    let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    let line = line.with_context(|| format!("{name} is not in {STATUS}"))?;
    line.trim().trim_end_matches(" kB").parse().with_context(|| format!("{name}:{line}"))
}
