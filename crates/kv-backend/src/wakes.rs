//! Waking tasks only after the store's own lock is released.

use std::task::Waker;

/// Tasks to wake. A critical section collects them and returns them, so that nobody is woken into a
/// lock that is still held, and no foreign waker runs inside it.
///
/// Dropping it wakes them too: no path can lose a wake-up.
#[derive(Debug, Default)]
#[must_use = "keep it until the store's lock is released, then drop it"]
pub struct Wakes {
    wakers: Vec<Waker>,
}

impl Wakes {
    /// Nobody to wake.
    pub const fn none() -> Self {
        Self { wakers: Vec::new() }
    }

    /// Adds a task.
    pub fn push(&mut self, waker: Waker) {
        self.wakers.push(waker);
    }

    /// Adds the task that waits, if one does.
    pub fn extend(&mut self, waker: Option<Waker>) {
        self.wakers.extend(waker);
    }

    /// Adds the tasks of another critical section.
    pub fn append(&mut self, mut other: Self) {
        self.wakers.append(&mut other.wakers);
    }

    /// How many are to be woken.
    #[must_use]
    pub fn len(&self) -> usize {
        self.wakers.len()
    }

    /// Whether nobody is to be woken.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.wakers.is_empty()
    }

    /// Wakes them now.
    pub fn wake(self) {
        drop(self);
    }
}

impl Drop for Wakes {
    fn drop(&mut self) {
        for waker in self.wakers.drain(..) {
            waker.wake();
        }
    }
}
