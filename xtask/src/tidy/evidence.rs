//! Tests that pages name as evidence: `CRATE::NAME` in backticks. One that is gone proves nothing.

use std::collections::BTreeMap;

/// The source of every crate, tests included, by the crate's name.
#[derive(Debug, Default)]
pub(super) struct Code(BTreeMap<String, String>);

impl Code {
    pub(super) fn add(&mut self, name: &str, source: &str) {
        self.0.entry(name.to_owned()).or_default().push_str(source);
    }

    /// Tests that `page` names and that are not there.
    pub(super) fn faults(&self, page: &str) -> Vec<String> {
        let mut faults = Vec::new();
        for (at, line) in page.lines().enumerate() {
            for (name, test) in line.split('`').skip(1).step_by(2).filter_map(named) {
                let functions = [format!("fn {test}("), format!("fn {test}<")];
                let code = self.0.get(name);
                if !code.is_some_and(|code| functions.iter().any(|function| code.contains(function))) {
                    faults.push(format!("line {}: no test `{test}` is in {name}", at + 1));
                }
            }
        }
        faults
    }
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
        assert!(code.faults("`kv_x::it` `Store::get` `a-b` `kv-x::Store`").is_empty());
    }
}
