//! Who started a container, so that leftovers of the dead are swept and nobody else's.
//!
//! A process id alone says too little: ids are used again, and several machines or process
//! namespaces can share one container engine. So an owner is named by the boot of its kernel,
//! its process namespace, its id and its start time.

use std::fs;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

/// The name of this process, for labels. Empty where the system has no `/proc`.
pub(crate) fn me() -> &'static str {
    static ME: OnceLock<String> = OnceLock::new();
    ME.get_or_init(|| {
        let pid = std::process::id();
        match (here(), start_time(pid)) {
            (Some(here), Some(start)) => format!("{here}/{pid}/{start}"),
            _ => String::new(),
        }
    })
}

/// Whether the named process surely runs no more. An owner that cannot be judged from here lives.
///
/// `running` tells whether what it owns runs. Nothing of ours starts by itself after a reboot, so
/// what an earlier boot left does not run; what does belongs to another machine on this engine.
pub(crate) fn is_dead(owner: &str, running: bool) -> bool {
    let mut parts = owner.split('/');
    let (Some(boot), Some(namespace), Some(pid), Some(start), None) =
        (parts.next(), parts.next(), parts.next(), parts.next(), parts.next())
    else {
        return false;
    };
    let (Some(my_boot), Some(my_namespace)) = (boot_id(), namespace_id()) else {
        return false;
    };
    if boot != my_boot {
        return !running;
    }
    namespace == my_namespace && pid.parse().is_ok_and(|pid| start_time(pid).as_deref() != Some(start))
}

fn here() -> Option<String> {
    Some(format!("{}/{}", boot_id()?, namespace_id()?))
}

fn boot_id() -> Option<String> {
    Some(fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?.trim().to_owned())
}

/// The number in `pid:[4026531836]`.
fn namespace_id() -> Option<String> {
    let link = fs::read_link("/proc/self/ns/pid").ok()?;
    Some(link.to_str()?.chars().filter(char::is_ascii_digit).collect())
}

/// Waits until the programs this process started run no more: those that were killed take a moment.
/// Returns whether none is left.
pub fn wait_for_children(limit: Duration) -> bool {
    let deadline = Instant::now() + limit;
    while children().into_iter().any(|pid| start_time(pid).is_some()) {
        if Instant::now() > deadline {
            return false;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    true
}

/// None on a kernel that does not tell.
fn children() -> Vec<u32> {
    let threads = fs::read_dir("/proc/self/task").into_iter().flatten().flatten();
    let lists = threads.filter_map(|thread| fs::read_to_string(thread.path().join("children")).ok());
    lists
        .flat_map(|list| list.split_whitespace().filter_map(|pid| pid.parse().ok()).collect::<Vec<_>>())
        .collect()
}

/// Field 22 of `/proc/PID/stat`; the second field is in brackets and may hold anything. Nothing for a
/// process that ended, also while nobody has asked for its status.
fn start_time(pid: u32) -> Option<String> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let mut after_name = stat[stat.rfind(')')? + 1..].split_whitespace();
    match after_name.next()? {
        "Z" | "X" => None,
        _ => after_name.nth(18).map(str::to_owned),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::{is_dead, me};

    #[test]
    fn this_process_lives_and_a_reused_id_is_somebody_else() {
        let me = me();
        assert!(!me.is_empty());
        assert!(!is_dead(me, true));
        let (rest, start) = me.rsplit_once('/').unwrap();
        assert!(is_dead(&format!("{rest}/{}", start.parse::<u64>().unwrap() + 1), true));
    }

    #[test]
    fn an_ended_process_is_dead() {
        let mut child = std::process::Command::new("true").spawn().unwrap();
        let pid = child.id();
        child.wait().unwrap();
        let here = super::here().unwrap();
        assert!(is_dead(&format!("{here}/{pid}/1"), true));
    }

    #[test]
    fn a_killed_process_whose_status_nobody_asked_for_is_dead() {
        let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        let start = super::start_time(child.id()).unwrap();
        let owner = format!("{}/{}/{start}", super::here().unwrap(), child.id());
        assert!(!is_dead(&owner, true));
        assert!(super::children().contains(&child.id()));
        child.kill().unwrap();
        let deadline = std::time::Instant::now() + Duration::from_secs(10);
        while !is_dead(&owner, true) {
            assert!(std::time::Instant::now() < deadline, "a zombie is taken for alive");
            std::thread::sleep(Duration::from_millis(5));
        }
        child.wait().unwrap();
    }

    #[test]
    fn owners_that_cannot_be_judged_live() {
        let boot = super::boot_id().unwrap();
        let others = format!("{boot}/1/1/1");
        for owner in ["", "somebody", &others, "another-boot/1/1/1"] {
            assert!(!is_dead(owner, true), "{owner}");
        }
    }

    #[test]
    fn what_an_earlier_boot_left_standing_still_is_dead() {
        assert!(is_dead("earlier-boot/1/1/1", false));
    }
}
