//! What is measured against what: for each backend a raw client and a store on the same server.

use std::path::Path;

use anyhow::{Context, Result, bail};
use kv_testkit::{Cluster, Servers};

use crate::measure::{Plan, Row, measure};
use crate::raw;
use crate::store::StoreSubject;
use crate::workload::Kind;

/// The backends, in the order they are measured.
pub(crate) const ALL: &[&str] = &["mem", "sled", "etcd", "consul", "zk"];

/// Measures one backend.
pub(crate) async fn run(
    name: &str,
    plan: Plan,
    wanted: impl Fn(Kind) -> bool,
    say: impl Fn(&str),
) -> Result<Vec<Row>> {
    let store = |url: String| async move {
        let store = kv_any::open(&url).await.with_context(|| format!("opening {url}"))?;
        anyhow::Ok(StoreSubject(store))
    };
    match name {
        "mem" => {
            let raw = raw::mem::Mem::default();
            measure(name, raw, store("mem:".to_owned()).await?, plan, wanted, say).await
        }
        "sled" => {
            let folder = tempfile::tempdir()?;
            let raw = raw::sled::Sled::open(&folder.path().join("raw"))?;
            let url = format!("sled:{}", folder.path().join("store").display());
            measure(name, raw, store(url).await?, plan, wanted, say).await
        }
        "etcd" => {
            let server = server("kv-etcd").await?;
            let raw = raw::etcd::Etcd::connect(&server.endpoints()).await?;
            measure(name, raw, store(server.url()?).await?, plan, wanted, say).await
        }
        "consul" => {
            let server = server("kv-consul").await?;
            let raw = raw::consul::Consul::connect(&server.node(0).endpoint())?;
            measure(name, raw, store(server.url()?).await?, plan, wanted, say).await
        }
        "zk" => {
            let server = server("kv-zk").await?;
            let raw = raw::zk::Zk::connect(&server.node(0).endpoint()).await?;
            measure(name, raw, store(server.url()?).await?, plan, wanted, say).await
        }
        other => bail!("no backend is called {other:?}; there are {}", ALL.join(", ")),
    }
}

/// One node of the version every run tests, removed when the value is dropped.
async fn server(crate_name: &str) -> Result<Cluster> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(crate_name);
    Servers::available(&folder)?.start().await
}
