//! `kv tree`: the keys below a prefix, drawn.

use std::collections::BTreeMap;

use futures_util::TryStreamExt;
use kv_core::{ListOptions, Operation, StoreExt};
use serde::Serialize;
use serde::ser::{SerializeSeq, Serializer};

use super::level;
use crate::cli::Tree;
use crate::exit::Failure;
use crate::output::{Format, Output, for_reader};
use crate::session::Session;

/// One name. It can be a key, have keys below it, or both.
#[derive(Debug, Default, Serialize)]
struct Node {
    key: bool,
    /// There are keys below it, drawn or not.
    below: bool,
    #[serde(skip_serializing_if = "BTreeMap::is_empty", serialize_with = "as_list")]
    children: BTreeMap<String, Node>,
}

#[derive(Serialize)]
struct Named<'n> {
    name: &'n str,
    #[serde(flatten)]
    node: &'n Node,
}

fn as_list<S: Serializer>(children: &BTreeMap<String, Node>, serializer: S) -> Result<S::Ok, S::Error> {
    let mut list = serializer.serialize_seq(Some(children.len()))?;
    for (name, node) in children {
        list.serialize_element(&Named { name, node })?;
    }
    list.end()
}

impl Node {
    /// Adds the key at this path below the node, down to `depth` levels.
    fn add(&mut self, path: &str, depth: u16) {
        self.below = true;
        if depth == 0 {
            return;
        }
        let (name, rest) = path.split_once('/').map_or((path, None), |(name, rest)| (name, Some(rest)));
        // Most keys share their parents with the one before: no name is copied for those.
        let child = match self.children.contains_key(name) {
            true => self.children.get_mut(name),
            false => Some(self.children.entry(name.to_owned()).or_default()),
        };
        match (child, rest) {
            (Some(child), Some(rest)) => child.add(rest, depth - 1),
            (Some(child), None) => child.key = true,
            (None, _) => {}
        }
    }

    fn draw(&self, before: &str, line: &mut dyn FnMut(String) -> Result<(), Failure>) -> Result<(), Failure> {
        let last = self.children.len().saturating_sub(1);
        for (at, (name, child)) in self.children.iter().enumerate() {
            let name = for_reader(name);
            let (turn, beside) = if at == last { ("└── ", "    ") } else { ("├── ", "│   ") };
            if child.key {
                let turn = if child.below { "├── " } else { turn };
                line(format!("{before}{turn}{name}"))?;
            }
            if child.below {
                line(format!("{before}{turn}{name}/"))?;
                child.draw(&format!("{before}{beside}"), line)?;
            }
        }
        Ok(())
    }
}

pub(crate) async fn run(session: &Session, args: Tree) -> Result<(), Failure> {
    let prefix = super::prefix(&args.prefix, Operation::List)?;
    let mut options = ListOptions::default().with_keys_only();
    options.timeout = session.timeout();
    let listing = session.store().await?.list_with(&prefix, options);
    let mut listing = session.request(Operation::List, prefix.as_str(), listing).await?;
    let depth = args.depth.unwrap_or(u16::MAX);
    let mut root = Node::default();
    let mut keys = 0_u64;
    while let Some(item) = listing.try_next().await? {
        let path = item.path();
        let relative = path.strip_prefix(prefix.as_str()).unwrap_or(path).trim_start_matches('/');
        root.add(relative, depth);
        keys += 1;
    }

    let mut out = Output::stdout();
    match session.output() {
        None | Some(Format::Table) => {
            out.line(&format!("{}/", for_reader(prefix.as_str())))?;
            root.draw("", &mut |line| out.line(&line))?;
            out.line(&format!("\n{keys} {}", if keys == 1 { "key" } else { "keys" }))?;
        }
        Some(Format::Json | Format::Jsonl) => out.json(&Named { name: prefix.as_str(), node: &root })?,
    }
    out.flush()?;
    if keys == 0 {
        level::tell_entry(session, &prefix).await;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::Node;

    fn drawn(keys: &[&str], depth: u16) -> String {
        let mut root = Node::default();
        for key in keys {
            root.add(key, depth);
        }
        let mut text = String::new();
        root.draw("", &mut |line| {
            text.push_str(&line);
            text.push('\n');
            Ok(())
        })
        .unwrap();
        text
    }

    #[test]
    fn a_name_can_be_a_key_and_have_keys_below() {
        let expected = "\
├── a
├── a/
│   ├── b
│   └── c/
│       └── d
├── a-b
├── z
└── z/
    └── y
";
        assert_eq!(drawn(&["a", "a-b", "a/b", "a/c/d", "z", "z/y"], 9), expected);
    }

    #[test]
    fn what_is_too_deep_is_hinted_at() {
        assert_eq!(drawn(&["a/b/c", "a/d", "e"], 1), "├── a/\n└── e\n");
    }
}
