//! `kv completions`: a script for the shell.

use clap::CommandFactory;
use clap_complete::Shell;

use crate::cli::Cli;
use crate::exit::Failure;
use crate::output::Output;

pub(crate) fn run(shell: Shell) -> Result<(), Failure> {
    // clap_complete panics when it cannot write.
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "kv", &mut script);
    let mut out = Output::stdout();
    out.bytes(&script)?;
    out.flush()
}
