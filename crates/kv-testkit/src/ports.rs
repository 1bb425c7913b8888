//! Loopback ports that a container keeps over restarts.
//!
//! Docker gives a container whose port it chose itself another one at each start. A fixed one has
//! to be free at every later start too, so it is taken from below the range from which kernels
//! hand out ports by themselves, and not from those of containers that stand still.

use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;
use std::net::{Ipv4Addr, TcpListener};

use anyhow::{Result, bail};

use crate::engine::Engine;

const FIRST: u16 = 18_000;
const COUNT: u16 = 14_000;
const TRIES: u32 = 1_000;

/// A number that differs from call to call and process to process.
pub(crate) fn random() -> u64 {
    RandomState::new().hash_one(std::process::id())
}

/// Picks free ports. Another process may take one before its container starts: then try again.
pub(crate) fn pick(engine: &Engine, count: usize) -> Result<Vec<u16>> {
    let taken = engine.ports_taken()?;
    let mut picked = Vec::with_capacity(count);
    for _ in 0..TRIES {
        if picked.len() == count {
            return Ok(picked);
        }
        let offset = u16::try_from(random() % u64::from(COUNT))?;
        let port = FIRST + offset;
        let is_free = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok();
        if is_free && !taken.contains(&port) && !picked.contains(&port) {
            picked.push(port);
        }
    }
    bail!("found no {count} free loopback ports between {FIRST} and {}", FIRST + COUNT)
}
