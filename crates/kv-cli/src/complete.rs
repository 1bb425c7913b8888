//! Completions that look into the store: keys, prefixes, schemes and contexts, as they are at the moment.
//!
//! A shell asks while somebody types. So whatever takes long, fails or would have to ask is no candidate, and
//! nothing is said.

use std::ffi::{OsStr, OsString};
use std::time::Duration;

use clap::Command;
use clap_complete::engine::{ArgValueCompleter, CompletionCandidate};
use kv_core::{ListItem, ListOptions, Prefix, Registry, StoreExt};

use crate::contexts::{Contexts, Named};
use crate::session;

/// The variable by which a shell asks for candidates.
pub(crate) const VARIABLE: &str = "COMPLETE";

/// How long the store may take, opening included.
const PATIENCE: Duration = Duration::from_secs(1);
/// How many candidates are worth showing.
const MOST: usize = 200;

/// Arguments that are the name of a key, or of a prefix, by command.
const KEYS: [(&str, &str); 17] = [
    ("get", "keys"),
    ("put", "key"),
    ("edit", "key"),
    ("del", "keys"),
    ("touch", "keys"),
    ("wait", "key"),
    ("lock", "key"),
    ("elect", "key"),
    ("mv", "source"),
    ("mv", "destination"),
    ("ls", "prefix"),
    ("tree", "prefix"),
    ("du", "prefix"),
    ("grep", "prefix"),
    ("watch", "target"),
    ("export", "prefix"),
    ("import", "prefix"),
];

/// Arguments that name a store.
const STORES: [(&str, &str); 4] =
    [("sync", "source"), ("sync", "destination"), ("diff", "source"), ("diff", "destination")];

/// Adds to the command line where its candidates come from.
pub(crate) fn prepared(mut command: Command, registry: &Registry) -> Command {
    let stores = schemes(registry);
    let store = ArgValueCompleter::new(move |current: &OsStr| matching(current, stores.clone()));
    command = with(command, "store", &store);
    for (name, id) in STORES {
        command = command.mut_subcommand(name, |command| with(command, id, &store));
    }
    for (name, id) in KEYS {
        let registry = registry.clone();
        let keys = ArgValueCompleter::new(move |current: &OsStr| keys(&registry, current));
        command = command.mut_subcommand(name, |command| with(command, id, &keys));
    }
    let contexts = ArgValueCompleter::new(|current: &OsStr| matching(current, contexts("")));
    for name in ["use", "set", "delete"] {
        command = command.mut_subcommand("context", |command| {
            command.mut_subcommand(name, |command| with(command, "name", &contexts))
        });
    }
    command
}

/// The command with candidates for one of its arguments, which keeps its place among them.
fn with(command: Command, id: &str, candidates: &ArgValueCompleter) -> Command {
    command.mut_args(|arg| if arg.get_id() == id { arg.add(candidates.clone()) } else { arg })
}

/// How URLs of the drivers begin, and the contexts there are.
fn schemes(registry: &Registry) -> Vec<String> {
    let with_hosts = |scheme: &str| !["mem", "sled"].contains(&scheme);
    let begin = |scheme: &str| if with_hosts(scheme) { format!("{scheme}://") } else { format!("{scheme}:") };
    registry.schemes().map(begin).chain(contexts("@")).collect()
}

fn contexts(mark: &str) -> Vec<String> {
    let contexts = Contexts::read().unwrap_or_default().contexts;
    contexts.keys().map(|name| format!("{mark}{name}")).collect()
}

fn matching(current: &OsStr, all: Vec<String>) -> Vec<CompletionCandidate> {
    let Some(current) = current.to_str() else { return Vec::new() };
    all.into_iter().filter(|known| known.starts_with(current)).map(CompletionCandidate::new).collect()
}

/// The keys and sub-prefixes that begin so, one level of them.
fn keys(registry: &Registry, current: &OsStr) -> Vec<CompletionCandidate> {
    let Some(current) = current.to_str() else { return Vec::new() };
    let words: Vec<_> = std::env::args_os().collect();
    let Ok(runtime) = tokio::runtime::Builder::new_current_thread().enable_all().build() else {
        return Vec::new();
    };
    // The clock begins within the runtime.
    let found =
        runtime.block_on(async { tokio::time::timeout(PATIENCE, found(registry, &words, current)).await });
    runtime.shutdown_background();
    found.ok().flatten().unwrap_or_default()
}

async fn found(registry: &Registry, words: &[OsString], current: &str) -> Option<Vec<CompletionCandidate>> {
    let argument = store_of(words).or_else(|| std::env::var("KV_STORE").ok());
    let is_named = argument.is_some() || Contexts::read().is_ok_and(|contexts| contexts.current.is_some());
    let named = Named::unasked(argument);
    if is_named && named.is_none() {
        return None;
    }
    let url = session::quiet_url_of(named)?;
    let (parent, _) = current.rsplit_once('/').unwrap_or(("", current));
    let prefix = Prefix::new(parent).ok()?;
    let store = registry.open(&url).await.ok()?;
    let options = ListOptions::default().with_keys_only().with_one_level();
    let mut listing = store.list_with(&prefix, options).await.ok()?;
    let mut candidates = Vec::new();
    while let Some(Ok(item)) = listing.next().await {
        let slash = if matches!(item, ListItem::Prefix(_)) { "/" } else { "" };
        let name = format!("{}{slash}", item.path());
        // What would act on a terminal, or is no word for a shell, is not offered.
        if name.starts_with(current.trim_start_matches('/')) && kv_core::text::escape(&name) == name {
            candidates.push(CompletionCandidate::new(name));
        }
        if candidates.len() >= MOST {
            break;
        }
    }
    drop(listing);
    // Whoever waits for the candidates need not wait for this.
    let _ = tokio::time::timeout(PATIENCE / 4, store.close()).await;
    Some(candidates)
}

/// The store that the words typed so far name.
fn store_of(words: &[OsString]) -> Option<String> {
    let mut words = words.iter().filter_map(|word| word.to_str());
    while let Some(word) = words.next() {
        match word {
            "--store" | "-s" => return Some(rejoined(words)).filter(|store| !store.is_empty()),
            _ => {
                if let Some(url) = word.strip_prefix("--store=") {
                    return Some(url.to_owned());
                }
            }
        }
    }
    None
}

/// The first of these words. Bash takes words apart at some characters that URLs and contexts have.
fn rejoined<'w>(words: impl Iterator<Item = &'w str>) -> String {
    const APART: [char; 3] = [':', '=', '@'];
    let mut joined = String::new();
    for word in words {
        let goes_on = word.starts_with(APART) || joined.ends_with(APART);
        if !joined.is_empty() && !goes_on {
            break;
        }
        // That of `--store=URL`.
        if !(joined.is_empty() && word == "=") {
            joined.push_str(word);
        }
    }
    joined
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;
    use kv_core::Key;

    use super::*;
    use crate::cli::Cli;

    fn words(line: &str) -> Vec<OsString> {
        line.split(' ').map(OsString::from).collect()
    }

    #[test]
    fn every_argument_with_candidates_is_one() {
        prepared(Cli::command(), &kv_any::registry()).debug_assert();
    }

    #[test]
    fn the_store_is_that_of_the_line() {
        for (line, expected) in [
            ("kv -- kv get a", None),
            ("kv -- kv --store sled:x get a", Some("sled:x")),
            ("kv -- kv get --store=sled:x a", Some("sled:x")),
            ("kv -- kv get -s @prod a", Some("@prod")),
            ("kv -- kv get -s", None),
            ("kv -- kv --store etcd : //u @ h : 2379/ns get a", Some("etcd://u@h:2379/ns")),
            ("kv -- kv --store = sled : /x get a", Some("sled:/x")),
            ("kv -- kv -s @ prod get a", Some("@prod")),
        ] {
            assert_eq!(store_of(&words(line)).as_deref(), expected, "{line}");
        }
    }

    #[tokio::test]
    async fn keys_are_those_of_the_level_that_is_typed() {
        let store = kv_any::open("mem:cli-complete").await.unwrap();
        for key in ["app", "app/db/host", "app/web", "apple", "zoo"] {
            store.put_with(&Key::new(key).unwrap(), "x", Default::default()).await.unwrap();
        }
        let words = words("kv -- kv -s mem:cli-complete get");
        for (current, expected) in [
            ("", &["app", "app/", "apple", "zoo"][..]),
            ("ap", &["app", "app/", "apple"]),
            ("app/", &["app/db/", "app/web"]),
            ("app/db/h", &["app/db/host"]),
            ("nothing", &[]),
            ("../", &[]),
        ] {
            let found = found(&kv_any::registry(), &words, current).await.unwrap_or_default();
            let found: Vec<_> = found.iter().map(|known| known.get_value().to_str().unwrap()).collect();
            assert_eq!(found, expected, "{current}");
        }
    }
}
