//! Locks: acquiring, holding and seeing them, by records below the key in the layout of Curator or kazoo.

mod acquire;
mod hold;
mod record;
pub(crate) mod view;
