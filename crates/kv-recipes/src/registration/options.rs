//! What a registration is asked for, and how it stands.

use crate::kept::{EntryLoss, Lifetime};

/// What a registration does when its entry is lost while the process lives.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum OnLoss {
    /// Puts the entry again: after a lost session under a new one.
    #[default]
    Rejoin,
    /// Ends, so that the process can decide, or end itself.
    Stop,
}

/// Options of a [`Registration`](super::Registration).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct RegistrationOptions {
    /// What the entry lives by. The default is the session of the store handle.
    pub lifetime: Lifetime,
    /// What happens when the entry is lost. The default is to put it again.
    pub on_loss: OnLoss,
}

impl RegistrationOptions {
    /// The same with an entry that lives by this.
    #[must_use]
    pub fn with_lifetime(mut self, lifetime: Lifetime) -> Self {
        self.lifetime = lifetime;
        self
    }

    /// The same, doing this when the entry is lost.
    #[must_use]
    pub fn with_on_loss(mut self, on_loss: OnLoss) -> Self {
        self.on_loss = on_loss;
        self
    }
}

/// How a registration stands.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum RegistrationState {
    /// The entry is there, as far as this process can know.
    Registered,
    /// The entry was lost and is put again.
    Rejoining(EntryLoss),
    /// The entry was lost, or given up, and is not put again.
    Ended(EntryLoss),
}
