//! The project's own kit for tests against real servers. See the README.
#![doc = include_str!("../README.md")]

pub mod big_tree;
mod cluster;
mod debian;
mod engine;
pub mod image;
mod memory;
mod node;
mod owner;
mod ports;
mod probe;
mod proxy;
mod servers;
mod skip;
pub mod spec;
mod template;
pub mod workspace;

pub use cluster::Cluster;
pub use engine::Engine;
pub use image::{Image, ImagePolicy};
pub use memory::{Growth, peak_kib};
pub use node::{Link, Node};
pub use owner::wait_for_children;
pub use proxy::{Counts, Mode, Proxy};
pub use servers::Servers;
pub use skip::{is_nightly, require_or_skip, skip};
pub use spec::{Spec, Tier};
