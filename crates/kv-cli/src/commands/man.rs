//! `kv man`: the manual, for `man`.

use std::io;
use std::path::Path;

use clap::Command;
use clap_mangen::Man as Page;

use crate::cli::Man;
use crate::exit::Failure;
use crate::output::{Output, say, write_failed};

/// Prints a page of the manual of this command line, or writes all of them to a folder.
pub(crate) fn run(mut command: Command, args: &Man) -> Result<(), Failure> {
    command.build();
    if let Some(folder) = &args.dir {
        return all(command, folder);
    }
    let command = match args.command.as_deref() {
        None => command,
        Some(name) => match command.find_subcommand(name) {
            Some(found) => found.clone(),
            None => return Err(Failure::Usage(format!("man: kv has no command {name:?}"))),
        },
    };
    let mut out = Output::stdout();
    Page::new(command).render(&mut out).map_err(write_failed)?;
    out.flush()
}

fn all(command: Command, folder: &Path) -> Result<(), Failure> {
    let failed = |error: io::Error| Failure::io(format!("cannot write pages to {folder:?}"), error);
    clap_mangen::generate_to(command, folder).map_err(failed)?;
    say(&format!("kv: wrote the manual to {folder:?}: man -l {}", folder.join("kv.1").display()));
    Ok(())
}
