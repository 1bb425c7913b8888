//! Consul's HTTP interface over reqwest.

use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use serde_json::{Value, json};

use crate::subject::{Changes, Subject};

/// One HTTP client on one agent.
#[derive(Clone)]
pub(crate) struct Consul {
    http: reqwest::Client,
    base: String,
    endpoint: String,
}

impl Consul {
    pub(crate) async fn connect(endpoint: String) -> Result<Self> {
        let http = reqwest::Client::builder().no_proxy().build()?;
        Ok(Self { http, base: format!("http://{endpoint}/v1"), endpoint })
    }

    /// A transaction: the only request that writes and tells the version.
    async fn txn(&self, ops: Value) -> Result<Value> {
        let answer = self.http.put(format!("{}/txn", self.base)).json(&ops).send().await?;
        ensure!(answer.status().is_success(), "refused: {}", answer.text().await?);
        Ok(answer.json().await?)
    }

    async fn session(&self, settings: Value) -> Result<String> {
        let answer = self.http.put(format!("{}/session/create", self.base)).json(&settings).send().await?;
        let answer: Value = answer.error_for_status()?.json().await?;
        Ok(answer["ID"].as_str().context("a session without an id")?.to_owned())
    }

    async fn destroy(&self, session: &str) -> Result<()> {
        self.http.put(format!("{}/session/destroy/{session}", self.base)).send().await?.error_for_status()?;
        Ok(())
    }
}

fn kv(op: &Value) -> Value {
    json!({ "KV": op })
}

fn version(answer: &Value) -> Result<u64> {
    answer["Results"][0]["KV"]["ModifyIndex"].as_u64().context("an answer without a version")
}

fn index(answer: &reqwest::Response) -> Option<u64> {
    answer.headers().get("X-Consul-Index")?.to_str().ok()?.parse().ok()
}

fn set(key: &str, value: &[u8], flags: u64) -> Value {
    kv(&json!({ "Verb": "set", "Key": key, "Value": STANDARD.encode(value), "Flags": flags }))
}

impl Subject for Consul {
    async fn get(&self, key: &str) -> Result<usize> {
        let answer = self.http.get(format!("{}/kv/{key}?consistent", self.base)).send().await?;
        let answer: Value = answer.error_for_status()?.json().await?;
        let value = answer[0]["Value"].as_str().unwrap_or_default();
        Ok(STANDARD.decode(value)?.len())
    }

    async fn put(&self, key: &str, value: Bytes) -> Result<u64> {
        // An equal value is no write there, so the flags vary as ours do.
        version(&self.txn(json!([set(key, &value, fastrand::u64(..))])).await?)
    }

    async fn compare_and_set(&self, key: &str, known: u64, value: Bytes) -> Result<u64> {
        let mut op = set(key, &value, fastrand::u64(..));
        op["KV"]["Verb"] = "cas".into();
        op["KV"]["Index"] = known.into();
        version(&self.txn(json!([op])).await?)
    }

    async fn put_ttl(&self, key: &str, value: Bytes, ttl: Duration) -> Result<()> {
        let settings = json!({ "TTL": format!("{}s", ttl.as_secs()), "Behavior": "delete", "LockDelay": "0s", "NodeChecks": [] });
        let session = self.session(settings).await?;
        let put = |verb: &str| {
            kv(&json!({ "Verb": verb, "Key": key, "Value": STANDARD.encode(&value), "Session": session }))
        };
        self.txn(json!([put("lock")])).await?;
        Ok(())
    }

    async fn delete(&self, key: &str) -> Result<bool> {
        // A plain delete does not tell whether the key was there; reading it first, in one request,
        // fails if it was not.
        let ops =
            json!([kv(&json!({"Verb": "get", "Key": key})), kv(&json!({"Verb": "delete", "Key": key}))]);
        Ok(self.txn(ops).await.is_ok())
    }

    async fn list(&self, prefix: &str) -> Result<usize> {
        let answer = self.http.get(format!("{}/kv/{prefix}/?recurse&consistent", self.base)).send().await?;
        let answer: Vec<Value> = answer.error_for_status()?.json().await?;
        for entry in &answer {
            STANDARD.decode(entry["Value"].as_str().unwrap_or_default())?;
        }
        Ok(answer.len())
    }

    async fn transact(&self, keys: [&str; 4], value: Bytes) -> Result<bool> {
        let [first, ..] = keys;
        let mut ops = vec![kv(&json!({ "Verb": "check-not-exists", "Key": first }))];
        ops.extend(keys.iter().map(|key| set(key, &value, 0)));
        Ok(self.txn(ops.into()).await.is_ok())
    }

    async fn open(&self) -> Result<()> {
        let opened = Self::connect(self.endpoint.clone()).await?;
        let status = opened.http.get(format!("{}/kv/absent?consistent", opened.base)).send().await?.status();
        ensure!(status == reqwest::StatusCode::NOT_FOUND, "{status}");
        Ok(())
    }

    async fn lock_unlock(&self, name: &str) -> Result<()> {
        // In the order of Consul's own client: a session, a look at the record, which may be another
        // program's or held, and only then the attempt.
        let session = self.session(json!({ "TTL": "15s", "Behavior": "release", "NodeChecks": [] })).await?;
        let op =
            |verb: &str| kv(&json!({ "Verb": verb, "Key": format!("{name}/.lock"), "Session": session }));
        let url = format!("{}/kv/{name}/.lock?consistent", self.base);
        loop {
            let answer = self.http.get(&url).send().await?;
            let Some(index) = index(&answer) else { bail!("an answer without an index") };
            let held: Value = answer.json().await.unwrap_or_default();
            if !held[0]["Session"].is_null() {
                self.http.get(format!("{url}&index={index}&wait=1m")).send().await?;
            } else if self.txn(json!([op("lock")])).await.is_ok() {
                break;
            }
        }
        let delete = kv(&json!({ "Verb": "delete", "Key": format!("{name}/.lock") }));
        self.txn(json!([op("unlock"), delete])).await?;
        self.destroy(&session).await
    }

    async fn watch(&self, prefix: &str) -> Result<Changes> {
        let (this, url) = (self.clone(), format!("{}/kv/{prefix}/?recurse", self.base));
        let mut seen = index(&this.http.get(&url).send().await?).context("an answer without an index")?;
        let (sender, changes) = tokio::sync::mpsc::unbounded_channel();
        tokio::spawn(async move {
            while !sender.is_closed() {
                let Ok(answer) = this.http.get(format!("{url}&index={seen}&wait=1m")).send().await else {
                    return;
                };
                seen = index(&answer).unwrap_or(0).max(1);
                let Ok(entries) = answer.json::<Vec<Value>>().await else { continue };
                for entry in entries {
                    let value =
                        STANDARD.decode(entry["Value"].as_str().unwrap_or_default()).unwrap_or_default();
                    if sender.send(value.into()).is_err() {
                        return;
                    }
                }
            }
        });
        Ok(changes)
    }

    async fn clear(&self, prefix: &str) -> Result<()> {
        let url = format!("{}/kv/{prefix}/?recurse", self.base);
        self.http.delete(url).send().await?.error_for_status()?;
        Ok(())
    }
}
