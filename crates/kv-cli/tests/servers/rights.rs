//! Tokens with few rights: what they may do works, and what they may not is said and never empty.

use kv_testkit::spec::Probe;
use kv_testkit::{Node, require_or_skip};

use crate::common::{Place, wait_for};

/// The token that may do everything.
const ROOT: &str = "11111111-aaaa-1111-1111-111111111111";
/// The one that may use keys below `app/` and make sessions.
const FEW: &str = "22222222-aaaa-1111-1111-111111111111";

async fn consul(node: &Node, args: &[&str]) -> bool {
    node.exec(&[&["consul"], args, &["-token", ROOT]].concat()).await.is_ok()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_with_few_rights_is_told_what_it_lacks() {
    let folder = format!("{}/../kv-consul", env!("CARGO_MANIFEST_DIR"));
    let Some(servers) = require_or_skip(&folder) else { return };
    let acl = format!(
        "acl {{ enabled = true, default_policy = \"deny\", tokens {{ master = \"{ROOT}\", agent = \"{ROOT}\" }} }}"
    );
    let ready =
        Probe { port: None, http: Some("/v1/status/leader".into()), tcp: None, expect: "8300".into() };
    let cluster = servers.arg(&format!("-hcl={acl}")).ready_when(ready).start().await.unwrap();
    let node = cluster.node(1);
    let at = |namespace: &str, token: &str| {
        Place::at(format!("consul://{}/{namespace}?token={token}", node.endpoint()))
    };
    wait_for("access control to be up", || at("other", ROOT).kv(["put", "hidden", "x"]).code == 0);
    let rules = r#"key_prefix "app/" { policy = "write" } session_prefix "" { policy = "write" }"#;
    assert!(consul(node, &["acl", "policy", "create", "-name", "few", "-rules", rules]).await);
    assert!(consul(node, &["acl", "token", "create", "-policy-name", "few", "-secret", FEW]).await);

    // It may not ask what the server is; all else is well.
    let mine = at("app", FEW);
    let doctor = mine.kv(["doctor", "--write", "-o", "json"]);
    assert_eq!((doctor.code, doctor.err.as_str()), (0, ""), "{doctor:?}");
    assert!(doctor.json().as_array().unwrap().iter().all(|check| check["outcome"] != "failed"), "{doctor:?}");
    mine.kv(["put", "a", "x"]).ok();
    mine.kv(["get", "nothing"]).fails(3, &["no such key"]);
    mine.kv(["lock", "job", "--holder"]).fails(3, &["nobody"]);
    assert_eq!(mine.kv(["export"]).ok().json()["key"], "a");

    // Nothing there is for it: that is said, and not that there is nothing.
    let other = at("other", FEW);
    for args in [
        &["get", "hidden"][..],
        &["get", "hidden", "nothing"],
        &["ls"],
        &["tree"],
        &["export"],
        &["export", "--consul"],
        &["watch", "--initial"],
        &["wait", "hidden"],
        &["lock", "job", "--holder"],
        &["del", "--tree", "/", "--yes"],
        &["put", "a", "x"],
    ] {
        let run = other.start_all(args).end();
        assert!(run.code == 6 && run.err.contains("permission denied"), "{args:?}: {run:?}");
    }
    let doctor = other.kv(["doctor"]);
    assert!(doctor.code == 6 && doctor.text().contains("permission denied"), "{doctor:?}");
    assert_eq!(at("other", ROOT).kv(["get", "hidden"]).ok().text(), "x");
}
