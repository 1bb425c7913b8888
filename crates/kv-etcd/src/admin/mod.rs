//! What operators ask for: the past of the store.

mod history;
