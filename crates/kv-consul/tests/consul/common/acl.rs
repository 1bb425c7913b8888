//! A Consul with ACLs, and tokens with few rights.

use std::time::Duration;

use kv_consul::kv_core::{Result, StoreExt, StoreUrl};
use kv_consul::{ConsulConfig, ConsulStore};
use kv_testkit::spec::Probe;
use kv_testkit::{Cluster, require_or_skip};

use super::until;

/// The token that may do everything.
pub(crate) const ROOT: &str = "11111111-aaaa-1111-1111-111111111111";

/// A server with ACLs that denies what no policy allows.
pub(crate) struct AclServer {
    cluster: Cluster,
}

impl AclServer {
    /// `None` after saying why there is none. `more` is added to the ACL settings.
    pub(crate) async fn start(more: &str) -> Option<Self> {
        let servers = require_or_skip(env!("CARGO_MANIFEST_DIR"))?;
        let acl = format!(
            "acl {{ enabled = true, default_policy = \"deny\", {more} tokens {{ master = \"{ROOT}\", agent = \"{ROOT}\" }} }}"
        );
        let ready =
            Probe { port: None, http: Some("/v1/status/leader".into()), tcp: None, expect: "8300".into() };
        let cluster = servers.arg(&format!("-hcl={acl}")).ready_when(ready).start().await.unwrap();
        let server = Self { cluster };
        until("access control should be up", Duration::from_secs(30), || async {
            match server.open("up", ROOT, "").await {
                Ok(store) => store.put("a", "x").await.is_ok(),
                Err(_) => false,
            }
        })
        .await;
        Some(server)
    }

    pub(crate) fn endpoint(&self) -> String {
        self.cluster.node(1).endpoint()
    }

    /// A store in this namespace with this token.
    pub(crate) async fn open(&self, namespace: &str, token: &str, query: &str) -> Result<ConsulStore> {
        let query = format!("token={token}&{query}");
        let url = super::url(&self.endpoint(), namespace, query.trim_end_matches('&'), super::variant());
        ConsulStore::connect(ConsulConfig::from_url(&StoreUrl::parse(&url)?)?).await
    }

    /// Makes something of access control; what Consul answers.
    pub(crate) async fn make(&self, path: &str, body: String) -> String {
        let url = format!("http://{}/v1/acl/{path}", self.endpoint());
        let http = reqwest::Client::builder().no_proxy().build().unwrap();
        let response = http.put(url).header("X-Consul-Token", ROOT).body(body).send().await.unwrap();
        assert!(response.status().is_success(), "{}", response.text().await.unwrap());
        response.text().await.unwrap()
    }

    /// Makes a policy with these rules and a token that has it; the id of the policy.
    pub(crate) async fn token(&self, name: &str, token: &str, rules: &str) -> String {
        let made = self.make("policy", policy(name, rules)).await;
        let body = format!(r#"{{"SecretID":"{token}","Policies":[{{"Name":"{name}"}}]}}"#);
        self.make("token", body).await;
        made.split("\"ID\"").nth(1).unwrap().split('"').nth(1).unwrap().to_owned()
    }

    /// Gives a policy other rules.
    pub(crate) async fn change(&self, id: &str, name: &str, rules: &str) {
        self.make(&format!("policy/{id}"), policy(name, rules)).await;
    }
}

fn policy(name: &str, rules: &str) -> String {
    serde_json::json!({"Name": name, "Rules": rules}).to_string()
}
