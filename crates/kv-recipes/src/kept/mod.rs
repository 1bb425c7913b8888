//! An entry that a recipe keeps alive, under its session or a time to live, until it is given up or lost.

mod held;
mod keeping;
mod lifetime;
mod loss;
mod place;

pub(crate) use held::{Held, OnDrop};
pub(crate) use keeping::Keeping;
pub use lifetime::Lifetime;
pub use loss::EntryLoss;
pub(crate) use place::{Over, Unplaced, forget, place};
