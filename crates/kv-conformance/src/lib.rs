#![doc = include_str!("../README.md")]
//!
//! # Where things are
//!
//! `case` says what a case is, `cases` holds them, one file for each part of the contract; `probe`
//! checks that what is declared absent is refused. `fixture` is what a case gets, `steps` and `follow`
//! what cases share. `factory` opens stores, `runner` runs cases, `report` is what comes of them, `cli`
//! the command line.

mod case;
mod cases;
mod cli;
mod factory;
mod fixture;
mod follow;
mod probe;
mod report;
mod runner;
mod steps;

pub use case::{Case, Need};
pub use cases::all as cases;
pub use cli::main;
pub use factory::{Factory, UrlFactory};
pub use report::{CaseReport, Declared, Outcome, Report};
pub use runner::{RunOptions, run};
