#![doc = include_str!("../README.md")]

mod ask;
#[cfg(unix)]
mod child;
mod cli;
mod commands;
mod complete;
mod contexts;
mod exit;
mod faults;
mod formats;
mod input;
mod layers;
mod log;
mod native;
mod output;
mod progress;
mod reader;
mod server;
mod session;
mod signals;
mod urls;

use std::process::ExitCode;
use std::time::Instant;

use clap::error::{ContextKind, ContextValue};
use clap::{ColorChoice, CommandFactory, FromArgMatches};
use clap_complete::CompleteEnv;
use kv_core::Registry;

use crate::cli::{Cli, Command};
use crate::exit::Failure;
use crate::output::Output;
use crate::session::Session;
use crate::signals::Ending;

/// Runs the `kv` command of this process with these drivers: reads the command line, does what it
/// says, tells on standard error what went wrong, and returns the exit code.
///
/// The `kv` program is this with [`kv_any::registry`]; a program with other drivers is as short.
#[must_use]
pub fn run(registry: Registry) -> ExitCode {
    complete(&registry);
    let cli = match parse() {
        Ok(cli) => cli,
        Err(error) => return not_parsed(&error),
    };
    let verbose = cli.global.verbose > 0;
    log::begin(cli.global.verbose);
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return report(&Failure::io("cannot start", error), verbose),
    };
    let done = runtime.block_on(dispatch(cli, registry));
    // A thread may still wait for input that does not come.
    runtime.shutdown_background();
    match done {
        Ok(code) => ExitCode::from(code),
        Err(failure) => report(&failure, verbose),
    }
}

/// Where a shell asks for candidates, tells them and ends the process.
fn complete(registry: &Registry) {
    let command = || complete::prepared(Cli::command(), registry);
    CompleteEnv::with_factory(command).var(complete::VARIABLE).complete();
}

/// Reads the command line. Where `CI` is set, clap takes every terminal for one with colours.
fn parse() -> Result<Cli, clap::Error> {
    let is_dumb = std::env::var_os("TERM").is_some_and(|term| term == "dumb");
    let colours = if is_dumb { ColorChoice::Never } else { ColorChoice::Auto };
    let mut command = Cli::command().color(colours);
    let matches = command.try_get_matches_from_mut(std::env::args_os())?;
    Cli::from_arg_matches(&matches).map_err(|error| error.format(&mut command))
}

/// Shows what was asked for in place of a command, or what is wrong with the command line.
fn not_parsed(error: &clap::Error) -> ExitCode {
    if !error.use_stderr() {
        // A closed output leaves nobody to tell.
        let _ = error.print();
        return ExitCode::SUCCESS;
    }
    let text = error.render().to_string();
    output::say(&format!("kv: {}", text.strip_prefix("error: ").unwrap_or(&text).trim_end()));
    if let Some(form) = behind_dashes(error, &text) {
        output::say(&format!("kv: the command to run stands behind `--`: {form}"));
    }
    ExitCode::from(exit::USAGE)
}

/// How a command that runs another is written, where a word too many looks like that other.
fn behind_dashes(error: &clap::Error, text: &str) -> Option<&'static str> {
    let Some(ContextValue::String(word)) = error.get(ContextKind::InvalidArg) else { return None };
    if error.kind() != clap::error::ErrorKind::UnknownArgument || word.starts_with('-') {
        return None;
    }
    const FORMS: [(&str, &str); 2] =
        [("Usage: kv lock ", "kv lock KEY -- COMMAND"), ("Usage: kv watch ", "kv watch PREFIX -- COMMAND")];
    FORMS.iter().find(|(usage, _)| text.contains(usage)).map(|(_, form)| *form)
}

fn report(failure: &Failure, verbose: bool) -> ExitCode {
    if let Some(text) = failure.report(verbose) {
        output::say(&text);
    }
    ExitCode::from(failure.code())
}

async fn dispatch(cli: Cli, registry: Registry) -> Result<u8, Failure> {
    let Cli { global, command } = cli;
    // Those that are about no store.
    let command = match command {
        Command::Completions { shell } => return commands::completions::run(shell).map(|()| 0),
        Command::Man(args) => return commands::man::run(Cli::command(), &args).map(|()| 0),
        Command::Context(args) => return commands::context::run(args, global.output).map(|()| 0),
        Command::Urls => return Output::stdout().text(urls::HELP).map(|()| 0),
        command => command,
    };
    let mut global = global;
    if matches!(command, Command::Diff(_) | Command::Sync(_)) {
        // They name their stores themselves, and need none beside; the variable is for other commands.
        let given =
            global.store.as_deref().filter(|given| std::env::var("KV_STORE").as_deref() != Ok(*given));
        if given.is_some() {
            return Err(Failure::Usage(
                "diff and sync take two stores as arguments, and no --store".to_owned(),
            ));
        }
        global.store = Some("mem:".to_owned());
    }
    let begin = Instant::now();
    let session = Session::new(registry, global)?;
    let done = match command {
        // It runs until its command ends, and passes signals on to it.
        Command::Lock(args) if args.runs() => commands::lock::run(&session, args).await,
        Command::Elect(args) if !args.command.is_empty() => commands::elect::run(&session, args).await,
        // It waits for an editor, to which the keys of the terminal belong.
        Command::Edit(args) => commands::edit::run(&session, args).await,
        Command::Watch(args) if !args.command.is_empty() => commands::on_change::run(&session, args).await,
        command => Ending::listen()?.or(other(command, &session)).await.map(|()| 0),
    };
    session.close().await;
    tracing::info!("all of it took {}", output::duration(begin.elapsed()));
    done.map_err(|failure| session.advised(failure))
}

async fn other(command: Command, session: &Session) -> Result<(), Failure> {
    match command {
        Command::Get(args) => commands::get::run(session, args).await,
        Command::Put(args) => commands::put::run(session, args).await,
        Command::Edit(args) => commands::edit::run(session, args).await.map(drop),
        Command::Del(args) => commands::del::run(session, args).await,
        Command::Touch(args) => commands::touch::run(session, args).await,
        Command::Txn(args) => commands::txn::run(session, args).await,
        Command::Wait(args) => commands::wait::run(session, args).await,
        Command::Mv(args) => commands::sync::mv(session, args).await,
        Command::Ls(args) => commands::ls::run(session, args).await,
        Command::Tree(args) => commands::tree::run(session, args).await,
        Command::Du(args) => commands::du::run(session, args).await,
        Command::Grep(args) => commands::grep::run(session, args).await,
        Command::Watch(args) => commands::watch::run(session, args).await,
        Command::Lock(args) => commands::locks::one(session, args).await,
        Command::Elect(args) => commands::leader::run(session, args).await,
        Command::Locks(args) => commands::locks::run(session, args).await,
        Command::Import(args) => commands::import::run(session, args).await,
        Command::Export(args) => commands::export::run(session, args).await,
        Command::Diff(args) => commands::sync::diff(session, args).await,
        Command::Sync(args) => commands::sync::run(session, args).await,
        Command::Conformance(args) => commands::conformance::run(session, args).await,
        Command::Ping(args) => commands::ping::run(session, args).await,
        Command::Capabilities => commands::capabilities::run(session).await,
        Command::Doctor(args) => commands::doctor::run(session, args).await,
        // They have been carried out without a session.
        Command::Completions { .. } | Command::Man(_) | Command::Context(_) | Command::Urls => Ok(()),
    }
}
