//! A campaign that hunts: random operations of several processes under random faults of the servers
//! and of the processes themselves, and a checker over the whole history. `cargo xtask torture` runs
//! it; docs/reliability.md tells what is hunted and what was found.

pub mod campaign;
pub mod check;
pub mod history;
pub mod nemesis;
pub mod target;
pub mod worker;
