//! What `servers.toml` may say, and the words in which a wrong one is refused.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // Tests fail by panicking.

use kv_testkit::spec::Variant;
use kv_testkit::{Spec, Tier, workspace};

const GOOD: &str = r#"
product = "thing"
url = "thing://{endpoints}"
url_env = "KV_THING_URL"

[node]
port = 1234
command = ["thing"]
data = "/data"
peer = "{ip}"
ready = { tcp = "ruok", expect = "imok" }

[[version]]
name = "2"
tier = "nightly"
upstream = "thing:2"
debian = { suite = "trixie", packages = ["thing"] }

[[version]]
name = "1"
tier = "commit"
cluster_tier = "nightly"
upstream = "thing:1"
debian = { suite = "bookworm", packages = ["thing"] }
"#;

fn refused(from: &str, to: &str) -> String {
    assert!(GOOD.contains(from));
    format!("{:#}", Spec::parse(&GOOD.replacen(from, to, 1)).expect_err(to))
}

#[test]
fn defaults_are_the_common_case() {
    let spec = Spec::parse(GOOD).unwrap();
    assert_eq!(spec.node.scheme, "http");
    assert_eq!(spec.node.peer_separator, ",");
    assert_eq!(spec.node.ready_within_s, 60);
    assert_eq!(spec.default_version().name, "1");
    assert_eq!(spec.versions[0].cluster_tier, None);
    assert_eq!(spec.versions[1].cluster_tier, Some(Tier::Nightly));
    assert!(spec.variants.is_empty() && spec.faults.is_empty());
}

#[test]
fn unknown_and_missing_fields_are_refused() {
    let cases = [
        ("url_env =", "urlenv =", "urlenv"),
        ("port = 1234", "ports = 1234", "ports"),
        ("port = 1234", "port = 70000", "70000"),
        ("expect =", "expects =", "expects"),
        ("data = \"/data\"\n", "", "data"),
        ("tier = \"commit\"", "tier = \"weekly\"", "weekly"),
        ("debian = { suite = \"trixie\", packages = [\"thing\"] }\n", "", "upstream"),
    ];
    for (from, to, named) in cases {
        let error = refused(from, to);
        assert!(error.contains(named), "{to}: {error}");
    }
}

#[test]
fn nonsense_is_refused() {
    assert!(refused("tier = \"commit\"", "tier = \"nightly\"").contains("commit tier"));
    assert!(refused("upstream = \"thing:1\"", "upstream = \"thing\"").contains("pin one"));
    let no_question = "ready = { expect = \"imok\" }";
    let error = refused("ready = { tcp = \"ruok\", expect = \"imok\" }", no_question);
    assert!(error.contains("`http` or `tcp`"), "{error}");
}

#[test]
fn a_variant_adds_its_query() {
    let variant = Variant { query: "client=b".into(), ..Variant::default() };
    assert_eq!(variant.add_to("zk://h:1/app"), "zk://h:1/app?client=b");
    assert_eq!(variant.add_to("zk://h:1/app?a=1"), "zk://h:1/app?a=1&client=b");
    assert_eq!(Variant::default().add_to("zk://h:1/app"), "zk://h:1/app");
}

#[test]
fn an_unknown_version_is_told_the_known_ones() {
    let error = Spec::parse(GOOD).unwrap().version("3").unwrap_err().to_string();
    assert!(error.contains("`3`") && error.contains("2, 1"), "{error}");
}

#[test]
fn every_file_of_the_workspace_is_good() {
    let found = Spec::discover(&workspace::root()).unwrap();
    assert!(found.len() >= 3, "{found:?}");
    for (dir, spec) in found {
        assert!(spec.url.contains("{endpoints}"), "{}", dir.display());
        assert!(spec.node.leader.is_some(), "{}: fault tests need the leader", dir.display());
    }
}
