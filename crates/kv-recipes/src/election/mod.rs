//! Leader election: at most one leader per term, and everybody can see who it is.

mod announcement;
mod candidate;
mod leader;
mod leaders;
mod leadership;
mod run;

pub use candidate::Election;
pub use leader::Leader;
pub use leaders::Leaders;
pub use leadership::Leadership;
pub use run::{Term, TermEnd};
