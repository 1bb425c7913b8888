//! What pages name of the code, in backticks: tests as evidence (`CRATE::NAME`), and calls of a store, a
//! guard or an options struct. One that is gone proves nothing and helps nobody.

use std::collections::BTreeMap;

/// Where the methods are that pages call.
const CORE: &str = "kv-core";
/// What stands before a method in a page.
const RECEIVERS: [&str; 4] = ["store.", "guard.", "lock.", ".with_"];

/// The source of every crate, tests included, by the crate's name.
#[derive(Debug, Default)]
pub(super) struct Code(BTreeMap<String, String>);

impl Code {
    pub(super) fn add(&mut self, name: &str, source: &str) {
        self.0.entry(name.to_owned()).or_default().push_str(source);
    }

    /// Tests and methods that `page` names and that are not there.
    pub(super) fn faults(&self, page: &str) -> Vec<String> {
        let mut faults = Vec::new();
        let mut in_code = false;
        for (at, line) in page.lines().enumerate() {
            in_code ^= line.trim_start().starts_with("```");
            for span in line.split('`').skip(1).step_by(2).filter(|_| !in_code) {
                let tests = named(span).into_iter();
                let methods = methods(span).map(|method| (CORE, method));
                for (name, function) in tests.chain(methods) {
                    if !self.has(name, function) {
                        faults.push(format!("line {}: no `{function}` is in {name}", at + 1));
                    }
                }
            }
        }
        faults
    }

    fn has(&self, name: &str, function: &str) -> bool {
        let heads = [format!("fn {function}("), format!("fn {function}<")];
        self.0.get(name).is_some_and(|code| heads.iter().any(|head| code.contains(head)))
    }
}

/// The methods that a span calls on what a page calls `store` or `guard`, and the setters of options.
fn methods(span: &str) -> impl Iterator<Item = &str> {
    RECEIVERS.iter().flat_map(move |receiver| {
        span.match_indices(receiver).filter_map(|(at, _)| {
            let from = if receiver.starts_with('.') { at + 1 } else { at + receiver.len() };
            let is_word = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
            let method = span[from..].split(|c| !is_word(c)).next()?;
            span[from + method.len()..].starts_with('(').then_some(method)
        })
    })
}

/// The crate and the test in `kv-x::a_test`. A path in code has no hyphen in it.
fn named(span: &str) -> Option<(&str, &str)> {
    let (name, test) = span.split_once("::")?;
    let is_word =
        !test.is_empty() && test.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_');
    (name.contains('-') && is_word).then_some((name, test))
}

#[cfg(test)]
mod tests {
    use super::Code;

    #[test]
    fn a_test_that_a_page_names_exists() {
        let mut code = Code::default();
        code.add("kv-x", "async fn it_holds() {}\nfn on_each<T>() {}");
        assert!(code.faults("It holds (`kv-x::it_holds`, `kv-x::on_each`).").is_empty());
        assert_eq!(code.faults("`kv-x::it_hold` `kv-y::it_holds`").len(), 2);
        assert!(code.faults("```\n`kv-x::it_hold`\n```").is_empty());
        assert!(code.faults("`kv_x::it` `Store::get` `a-b` `kv-x::Store`").is_empty());
    }

    #[test]
    fn a_method_that_a_page_calls_exists() {
        let mut code = Code::default();
        code.add("kv-core", "fn get<K>() {} fn with_ttl() {} fn lost() {}");
        assert!(
            code.faults("`store.get(k)` `guard.lost()` `X::default().with_ttl(d)` `store.rs`").is_empty()
        );
        assert_eq!(code.faults("`store.got(k)` `guard.last()` `.with_tll(d)`").len(), 3);
    }
}
