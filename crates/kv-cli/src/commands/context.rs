//! `kv context`: stores with a name.

use kv_core::StoreUrl;
use serde::Serialize;

use crate::cli::{Context as Args, ContextCommand};
use crate::contexts::{Context, Contexts};
use crate::exit::Failure;
use crate::output::{Format, JsonItems, Output, for_reader, table};

/// A context as it is shown: its URL without secrets, should somebody have written one into the file.
#[derive(Serialize)]
struct Shown {
    name: String,
    current: bool,
    store: String,
    read_only: bool,
    secret_command: bool,
}

impl Shown {
    fn new(name: &str, context: &Context, contexts: &Contexts) -> Self {
        let store = StoreUrl::parse(&context.store);
        Self {
            name: name.to_owned(),
            current: contexts.current.as_deref() == Some(name),
            store: store.map_or_else(|_| "(not a URL)".to_owned(), |url| url.to_string()),
            read_only: context.read_only,
            secret_command: context.secret_command.is_some(),
        }
    }

    fn row(&self) -> [String; 3] {
        let mark = if self.current { "* " } else { "  " };
        let mut notes = Vec::new();
        if self.read_only {
            notes.push("read-only");
        }
        if self.secret_command {
            notes.push("secret by command");
        }
        let name = format!("{mark}{}", for_reader(&self.name));
        [name, for_reader(&self.store).into_owned(), notes.join(", ")]
    }
}

pub(crate) fn run(args: Args, format: Option<Format>) -> Result<(), Failure> {
    let mut contexts = Contexts::read()?;
    let done = match args.command {
        ContextCommand::List => return list(&contexts, format),
        ContextCommand::Set { name, url, read_only, secret_command } => {
            check_name(&name)?;
            let context = Context { store: url, read_only, secret_command };
            context.check()?;
            let known = contexts.contexts.insert(name.clone(), context).is_some();
            format!("{} {name}", if known { "changed" } else { "made" })
        }
        ContextCommand::Use { name } => {
            contexts.get(&name)?;
            let done = format!("{name} is used where no store is named");
            contexts.current = Some(name);
            done
        }
        ContextCommand::Unuse => {
            contexts.current = None;
            "no context is used where no store is named".to_owned()
        }
        ContextCommand::Delete { name } => {
            contexts.get(&name)?;
            contexts.contexts.remove(&name);
            if contexts.current.as_ref() == Some(&name) {
                contexts.current = None;
            }
            format!("deleted {name}")
        }
    };
    contexts.write()?;
    Output::stdout().text(&format!("{}\n", for_reader(&done)))
}

/// Refuses names that could be taken for something else on a command line.
fn check_name(name: &str) -> Result<(), Failure> {
    let plain = |c: char| c.is_alphanumeric() || matches!(c, '.' | '_' | '-');
    if name.is_empty() || name.starts_with('-') || !name.chars().all(plain) {
        return Err(Failure::Usage(format!(
            "{name:?} is no name for a context: it has letters, digits, dots, dashes and underscores"
        )));
    }
    Ok(())
}

fn list(contexts: &Contexts, format: Option<Format>) -> Result<(), Failure> {
    let all = contexts.contexts.iter().map(|(name, context)| Shown::new(name, context, contexts));
    let mut out = Output::stdout();
    match format {
        Some(format @ (Format::Json | Format::Jsonl)) => {
            let mut items = JsonItems::begin(format, &mut out)?;
            for shown in all {
                items.item(&mut out, &shown)?;
            }
            items.end(&mut out)?;
        }
        Some(Format::Table) | None => {
            let mut rows = table();
            rows.set_header(["  NAME", "STORE", "NOTES"]);
            let mut any = false;
            for shown in all {
                rows.add_row(shown.row());
                any = true;
            }
            if any {
                out.table(rows)?;
            }
        }
    }
    out.flush()
}
