//! `kv completions`: what makes a shell ask `kv` for candidates.

use clap_complete::Shell;
use clap_complete::env::Shells;

use crate::complete::VARIABLE;
use crate::exit::Failure;
use crate::output::{Output, write_failed};

pub(crate) fn run(shell: Shell) -> Result<(), Failure> {
    let name = shell.to_string();
    let shells = Shells::builtins();
    let known = shells.completer(&name);
    let known = known.ok_or_else(|| Failure::Usage(format!("kv knows no completions for {name}")))?;
    let mut out = Output::stdout();
    known.write_registration(VARIABLE, "kv", "kv", "kv", &mut out).map_err(write_failed)?;
    out.flush()
}
