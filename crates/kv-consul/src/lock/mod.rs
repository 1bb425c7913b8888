//! Locks: acquired, held, released, and seen from outside.

pub(crate) mod acquire;
pub(crate) mod fence;
mod first_tokens;
mod hold;
mod holder;
mod lock_queue;
pub(crate) mod locks;
mod release;
pub(crate) mod view;
