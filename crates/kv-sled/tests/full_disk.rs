//! A full disk: an error that loses nothing, and the store goes on when there is space again.
//!
//! Needs a small file system of its own, which only root on Linux can make.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a test says what it did")]
#![cfg(target_os = "linux")]

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use kv_core::{Applied, ErrorKind, Key, StoreExt, Txn, TxnOp};
use kv_sled::{SledConfig, SledStore};

/// A file system of 24 MiB, unmounted at the end.
struct SmallDisk {
    mount: tempfile::TempDir,
}

impl SmallDisk {
    /// None where it cannot be had, which is said; with `KV_REQUIRE=1` that is a failure.
    fn mount() -> Option<Self> {
        let mount = tempfile::tempdir().unwrap();
        let mounted =
            Command::new("mount").args(["-t", "tmpfs", "-o", "size=24m", "tmpfs"]).arg(mount.path()).output();
        match mounted {
            Ok(output) if output.status.success() => return Some(Self { mount }),
            why => {
                eprintln!("SKIPPED: no small file system can be mounted here (root on Linux can): {why:?}")
            }
        }
        assert!(std::env::var_os("KV_REQUIRE").is_none_or(|value| value != "1"), "KV_REQUIRE=1");
        None
    }

    fn path(&self) -> &Path {
        self.mount.path()
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let unmounted = Command::new("umount").arg("-l").arg(self.mount.path()).status();
        assert!(unmounted.unwrap().success());
    }
}

fn value(n: u32) -> Vec<u8> {
    vec![u8::try_from(n % 251).unwrap(); 100_000]
}

/// Puts until the disk is full; returns how many were acknowledged. While they are not more than
/// `enough` it asks again, because sled makes room for them by cleaning its log in the background.
async fn fill(store: &SledStore, enough: u32) -> u32 {
    let deadline = Instant::now() + Duration::from_secs(30);
    let mut count = 0;
    loop {
        match store.put(format!("fill/{count}"), value(count)).await {
            Ok(_) => count += 1,
            Err(error) => {
                assert_eq!((error.kind(), error.applied()), (&ErrorKind::NoSpace, Applied::No), "{error}");
                if count > enough || Instant::now() > deadline {
                    return count;
                }
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    }
}

async fn assert_filled(store: &SledStore, count: u32) {
    for n in 0..count {
        assert_eq!(store.get(format!("fill/{n}")).await.unwrap().unwrap().value, value(n), "{n}");
    }
    assert!(!store.exists(format!("fill/{count}")).await.unwrap(), "what was refused is not there");
}

/// Polls, because sled cleans up its log in the background.
async fn eventually_puts(store: &SledStore) {
    let deadline = Instant::now() + Duration::from_secs(30);
    while let Err(error) = store.put("after", "x").await {
        assert!(Instant::now() < deadline, "{error}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test]
async fn a_full_disk_loses_nothing_and_deleting_makes_room() {
    let Some(disk) = SmallDisk::mount() else { return };
    let config = || SledConfig::new(disk.path().join("store"));
    let mut store = SledStore::open(config()).await.unwrap();
    // Again and again: what one round leaves must not be in the way of the next.
    for round in 0..4 {
        // Later there is less room, as the log is cleaned up only where half of it is dead.
        let enough = if round == 0 { 20 } else { 8 };
        let count = fill(&store, enough).await;
        assert!(count > enough, "round {round}: only {count} values of 100 KB went onto a disk of 24 MiB");
        assert_filled(&store, count).await;
        if round % 2 == 0 {
            // Also over a restart, on the full disk.
            store.close().await.unwrap();
            store = SledStore::open(config()).await.unwrap();
            assert_filled(&store, count).await;
        }
        for n in 0..count {
            store.delete(format!("fill/{n}")).await.unwrap();
        }
        eventually_puts(&store).await;
    }
    store.close().await.unwrap();
}

/// Puts small entries until there is no space for one more. Returns how many.
async fn fill_small(store: &SledStore) -> u64 {
    let mut count = 0;
    for at_once in [200, 1] {
        loop {
            let key = |n| Key::new(&format!("small/{:06}", count + n)).unwrap();
            let puts = (0..at_once).map(|n| TxnOp::put(key(n), vec![7; 100]));
            match StoreExt::transact(store, Txn::always().then(puts)).await {
                Ok(_) => count += at_once,
                Err(error) => {
                    assert_eq!(
                        (error.kind(), error.applied()),
                        (&ErrorKind::NoSpace, Applied::No),
                        "{error}"
                    );
                    break;
                }
            }
        }
    }
    count
}

/// Small entries die slowly: removing one takes more of the log than it frees at once. They go all the
/// same, one by one or as a tree, and what they held comes back.
#[tokio::test]
async fn a_disk_full_of_small_entries_can_be_emptied() {
    let Some(disk) = SmallDisk::mount() else { return };
    let config = || SledConfig::new(disk.path().join("store"));
    let mut store = SledStore::open(config()).await.unwrap();
    for round in 0..4 {
        let count = fill_small(&store).await;
        assert!(count >= 2_000, "round {round}: only {count} small entries");
        if round % 2 == 0 {
            for n in 0..count {
                let deleted = store.delete(format!("small/{n:06}")).await;
                assert!(deleted.unwrap_or_else(|error| panic!("round {round}, {n} of {count}: {error}")));
            }
        } else {
            assert_eq!(store.delete_tree("small").await.unwrap(), count);
        }
        assert!(store.keys("small").await.unwrap().is_empty());
        eventually_puts(&store).await;
        if round % 2 == 1 {
            store.close().await.unwrap();
            store = SledStore::open(config()).await.unwrap();
        }
    }
    store.close().await.unwrap();
}

#[tokio::test]
async fn the_store_goes_on_when_somebody_else_frees_the_disk() {
    let Some(disk) = SmallDisk::mount() else { return };
    let store = SledStore::open(SledConfig::new(disk.path().join("store"))).await.unwrap();
    store.put("a", "1").await.unwrap();
    let ballast = disk.path().join("ballast");
    // As much as there is.
    let written = Command::new("dd")
        .arg("if=/dev/zero")
        .arg(format!("of={}", ballast.display()))
        .arg("bs=64k")
        .output();
    assert!(!written.unwrap().status.success(), "the disk is full now");
    let error = store.put("b", "2").await.unwrap_err();
    assert_eq!((error.kind(), error.applied()), (&ErrorKind::NoSpace, Applied::No), "{error}");
    assert_eq!(&store.get("a").await.unwrap().unwrap().value[..], b"1");
    assert!(!store.exists("b").await.unwrap());
    std::fs::remove_file(ballast).unwrap();
    store.put("b", "2").await.unwrap();
    store.close().await.unwrap();
}

#[tokio::test]
async fn a_store_that_cannot_be_made_says_no_space() {
    let Some(disk) = SmallDisk::mount() else { return };
    let ballast = disk.path().join("ballast");
    let written = Command::new("dd")
        .arg("if=/dev/zero")
        .arg(format!("of={}", ballast.display()))
        .arg("bs=64k")
        .output();
    assert!(!written.unwrap().status.success(), "the disk is full now");
    let config = || SledConfig::new(disk.path().join("store"));
    let error = SledStore::open(config()).await.unwrap_err();
    assert_eq!(error.kind(), &ErrorKind::NoSpace, "{error}");
    std::fs::remove_file(ballast).unwrap();
    let store = SledStore::open(config()).await.unwrap();
    store.put("a", "1").await.unwrap();
    store.close().await.unwrap();
}
