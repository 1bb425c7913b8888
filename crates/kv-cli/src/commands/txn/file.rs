//! A transaction as it is written in a file: JSON with conditions and two branches of operations.

use std::time::Duration;

use bytes::Bytes;
use kv_core::{Compare, Condition, Expiry, Key, Test, Txn, TxnOp, Version};
use serde::Deserialize;

/// The whole document.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Document {
    #[serde(default)]
    conditions: Vec<Asked>,
    #[serde(default)]
    then: Vec<Op>,
    #[serde(default, rename = "else")]
    or_else: Vec<Op>,
}

/// One condition: exactly one of `exists`, `version`, `created`, `value` and `base64`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Asked {
    key: String,
    exists: Option<bool>,
    version: Option<u64>,
    created: Option<u64>,
    value: Option<String>,
    base64: Option<String>,
    compare: Option<String>,
}

/// One operation: exactly one of `put`, `delete` and `get`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Op {
    put: Option<String>,
    delete: Option<String>,
    get: Option<String>,
    value: Option<String>,
    base64: Option<String>,
    ttl: Option<String>,
    #[serde(default)]
    keep_ttl: bool,
}

/// The transaction that this document describes, or what is wrong with it, in words that say where.
pub(super) fn read(text: &[u8]) -> Result<Txn, String> {
    let document: Document = serde_json::from_slice(text).map_err(|error| error.to_string())?;
    let conditions = all("conditions", document.conditions, condition)?;
    let (then, or_else) = (all("then", document.then, op)?, all("else", document.or_else, op)?);
    if then.is_empty() && or_else.is_empty() {
        return Err("there is nothing to do: \"then\" and \"else\" are both empty".to_owned());
    }
    if conditions.is_empty() && !or_else.is_empty() {
        return Err("\"else\" can never run: there are no \"conditions\"".to_owned());
    }
    Ok(Txn::when(conditions).then(then).or_else(or_else))
}

fn all<T, U>(list: &str, items: Vec<T>, read: fn(T) -> Result<U, String>) -> Result<Vec<U>, String> {
    let place = |(at, item)| read(item).map_err(|why| format!("{list}[{at}]: {why}"));
    items.into_iter().enumerate().map(place).collect()
}

fn key(name: &str) -> Result<Key, String> {
    Key::new(name).map_err(|error| error.to_string())
}

/// The one value of `value` and `base64`; `None` where there is neither.
fn value(text: Option<String>, code: Option<String>) -> Result<Option<Bytes>, String> {
    match (text, code) {
        (Some(_), Some(_)) => Err("it has both \"value\" and \"base64\"".to_owned()),
        (Some(text), None) => Ok(Some(text.into())),
        (None, Some(code)) => match data_encoding::BASE64.decode(code.as_bytes()) {
            Ok(bytes) => Ok(Some(bytes.into())),
            Err(error) => Err(format!("\"base64\" is not base64: {error}")),
        },
        (None, None) => Ok(None),
    }
}

fn condition(asked: Asked) -> Result<Condition, String> {
    let key = key(&asked.key)?;
    let compare = match asked.compare.as_deref() {
        None | Some("=") => Compare::Equal,
        Some("!=") => Compare::NotEqual,
        Some("<") => Compare::Less,
        Some(">") => Compare::Greater,
        Some(other) => return Err(format!("\"compare\" is =, !=, < or >, and not {other:?}")),
    };
    let tests = [
        asked.exists.map(|exists| if exists { Test::Present } else { Test::Absent }),
        asked.version.map(|version| Test::Version(compare, Version::new(version))),
        asked.created.map(|created| Test::Created(compare, Version::new(created))),
        value(asked.value, asked.base64)?.map(|value| Test::Value(compare, value)),
    ];
    let mut tests = tests.into_iter().flatten();
    let (Some(test), None) = (tests.next(), tests.next()) else {
        return Err(
            "it needs one of \"exists\", \"version\", \"created\", \"value\" and \"base64\"".to_owned()
        );
    };
    let condition = match test {
        Test::Present | Test::Absent if asked.compare.is_some() => {
            return Err("\"compare\" is for a version or a value".to_owned());
        }
        Test::Present => Condition::present(key),
        Test::Version(compare, version) => Condition::version(key, compare, version),
        Test::Created(compare, version) => Condition::created(key, compare, version),
        Test::Value(compare, value) => Condition::value(key, compare, value),
        _ => Condition::absent(key),
    };
    condition.map_err(|error| error.to_string())
}

fn op(op: Op) -> Result<TxnOp, String> {
    let value = value(op.value, op.base64)?;
    let ttl = op.ttl.as_deref().map(crate::input::duration).transpose()?;
    match (op.put, op.delete, op.get) {
        (Some(name), None, None) => {
            let value = value.ok_or("a put needs \"value\" or \"base64\"")?;
            TxnOp::put_expiring(key(&name)?, value, expiry(ttl, op.keep_ttl)?)
                .map_err(|error| error.to_string())
        }
        (None, delete, get) if value.is_some() || ttl.is_some() || op.keep_ttl => {
            let what = if delete.is_some() { "a delete" } else { "a get" };
            // Without a name it is told below what is missing.
            let named = delete.is_some() || get.is_some();
            Err(if named { format!("{what} has no value and no time to live") } else { which() })
        }
        (None, Some(name), None) => TxnOp::delete(key(&name)?).map_err(|error| error.to_string()),
        (None, None, Some(name)) => TxnOp::get(key(&name)?).map_err(|error| error.to_string()),
        _ => Err(which()),
    }
}

fn which() -> String {
    "it needs one of \"put\", \"delete\" and \"get\"".to_owned()
}

fn expiry(ttl: Option<Duration>, keep: bool) -> Result<Expiry, String> {
    match (ttl, keep) {
        (Some(_), true) => Err("it has both \"ttl\" and \"keep_ttl\"".to_owned()),
        (Some(ttl), false) => Ok(Expiry::Ttl(ttl)),
        (None, true) => Ok(Expiry::Keep),
        (None, false) => Ok(Expiry::Never),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_part_is_read() {
        let text = br#"{
            "conditions": [
                {"key": "a", "exists": true},
                {"key": "b", "exists": false},
                {"key": "c", "version": 7},
                {"key": "d", "created": 7, "compare": "<"},
                {"key": "e", "value": "x", "compare": "!="},
                {"key": "f", "base64": "AP8=", "compare": ">"}
            ],
            "then": [
                {"put": "/a//b/", "value": "x", "ttl": "1m"},
                {"put": "c", "base64": "AP8=", "keep_ttl": true},
                {"put": "d", "value": ""},
                {"delete": "e"}
            ],
            "else": [{"get": "a"}]
        }"#;
        let key = |name: &str| Key::new(name).unwrap();
        let conditions = [
            Condition::present(key("a")),
            Condition::absent(key("b")),
            Condition::version(key("c"), Compare::Equal, Version::new(7)),
            Condition::created(key("d"), Compare::Less, Version::new(7)),
            Condition::value(key("e"), Compare::NotEqual, "x"),
            Condition::value(key("f"), Compare::Greater, &[0, 255][..]),
        ];
        let txn = read(text).unwrap();
        assert_eq!(txn.conditions, conditions.map(kv_core::Result::unwrap));
        let then = [
            TxnOp::put_expiring(key("a/b"), "x", Expiry::Ttl(Duration::from_secs(60))),
            TxnOp::put_expiring(key("c"), &[0, 255][..], Expiry::Keep),
            TxnOp::put(key("d"), ""),
            TxnOp::delete(key("e")),
        ];
        assert_eq!(
            (txn.then, txn.or_else),
            (then.map(kv_core::Result::unwrap).to_vec(), vec![TxnOp::get(key("a")).unwrap()])
        );
    }

    #[test]
    fn what_makes_no_sense_is_told_with_its_place() {
        for (text, expected) in [
            ("", "EOF"),
            ("7", "expected struct"),
            ("{}", "nothing to do"),
            (r#"{"than": []}"#, "unknown field `than`"),
            (r#"{"else": [{"get": "a"}]}"#, "can never run"),
            (r#"{"then": [{}]}"#, "then[0]: it needs one of"),
            (r#"{"then": [{"value": "x"}]}"#, "then[0]: it needs one of"),
            (r#"{"then": [{"get": "a"}, {"put": "a"}]}"#, "then[1]: a put needs"),
            (r#"{"then": [{"put": "a", "delete": "b", "value": ""}]}"#, "then[0]: it needs one of"),
            (r#"{"then": [{"get": "a", "value": "x"}]}"#, "then[0]: a get has no value"),
            (r#"{"then": [{"delete": "a", "keep_ttl": true}]}"#, "then[0]: a delete has no value"),
            (r#"{"then": [{"put": "a", "value": "", "base64": ""}]}"#, "then[0]: it has both"),
            (r#"{"then": [{"put": "a", "base64": "x"}]}"#, "then[0]: \"base64\" is not base64"),
            (r#"{"then": [{"put": "a", "value": "", "ttl": "5"}]}"#, "then[0]: not a time"),
            (
                r#"{"then": [{"put": "a", "value": "", "ttl": "5s", "keep_ttl": true}]}"#,
                "then[0]: it has both",
            ),
            (r#"{"then": [{"get": ".."}]}"#, "then[0]: \"..\": invalid key"),
            (r#"{"conditions": [{"key": "a"}], "then": [{"get": "a"}]}"#, "conditions[0]: it needs one of"),
            (
                r#"{"conditions": [{"key": "a", "exists": true, "version": 1}], "then": [{"get": "a"}]}"#,
                "conditions[0]: it needs one of",
            ),
            (
                r#"{"conditions": [{"key": "a", "version": 1, "compare": "<="}], "then": [{"get": "a"}]}"#,
                "conditions[0]: \"compare\" is",
            ),
            (
                r#"{"conditions": [{"key": "a", "exists": true, "compare": "="}], "then": [{"get": "a"}]}"#,
                "conditions[0]: \"compare\" is for",
            ),
        ] {
            let why = read(text.as_bytes()).unwrap_err();
            assert!(why.contains(expected), "{text}: {why}");
        }
    }
}
