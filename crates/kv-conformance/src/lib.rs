#![doc = include_str!("../README.md")]
//!
//! # Where things are
//!
//! `case` says what a case is, `cases` holds them, one file for each part of the contract; `probe`
//! checks that what is declared absent is refused. `fixture` is what a case gets, `steps` and `follow`
//! what cases share. `standstill` is a holder of a lock that can stand still, `line` and `relay` are a way to
//! the servers that can be cut. `factory` opens stores, `runner` runs cases, `report` is what comes of them, `cli`
//! the command line.

mod case;
mod cases;
mod cli;
mod factory;
mod fixture;
mod follow;
mod line;
mod probe;
mod relay;
mod report;
mod runner;
mod standstill;
mod steps;

pub use case::{Case, Need};
pub use cases::all as cases;
pub use cli::main;
pub use factory::{Factory, UrlFactory};
pub use line::Line;
pub use report::{CaseReport, Declared, Outcome, Report};
pub use runner::{RunOptions, run};
