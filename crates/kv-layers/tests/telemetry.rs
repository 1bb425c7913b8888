//! What the layers for traces and metrics record, and that they record no value.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // A test says what it means.

use std::io::Write;
use std::sync::Arc;

use kv_core::StoreExt;
use kv_layers::{LayerExt, Trace};
use kv_mem::{MemConfig, MemStore};
use parking_lot::Mutex;
use tracing_subscriber::fmt::format::FmtSpan;

fn mem() -> MemStore {
    MemStore::open(MemConfig::default()).unwrap()
}

#[derive(Clone, Default)]
struct Lines(Arc<Mutex<Vec<u8>>>);

impl Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// What the layer traces of a put and of one that fails.
fn traced(layer: Trace) -> String {
    let lines = Lines::default();
    let writer = lines.clone();
    let subscriber = tracing_subscriber::fmt()
        .with_ansi(false)
        .with_span_events(FmtSpan::CLOSE)
        .with_max_level(tracing::Level::DEBUG)
        .with_writer(move || writer.clone())
        .finish();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    tracing::subscriber::with_default(subscriber, || {
        runtime.block_on(async {
            let store = mem().layered(layer);
            store.put("the/key", "s3cret").await.unwrap();
            store.create("the/key", "s3cret").await.unwrap_err();
        });
    });
    let bytes = lines.0.lock().clone();
    String::from_utf8(bytes).unwrap()
}

#[test]
fn a_call_is_a_span_with_the_usual_names() {
    let text = traced(Trace::default());
    for part in [
        r#"db.system.name="mem""#,
        r#"db.operation.name="put""#,
        r#"error.type="AlreadyExists""#,
        "the call failed",
    ] {
        assert!(text.contains(part), "{part} in {text}");
    }
    assert!(!text.contains("kv.key") && !text.contains("s3cret"), "{text}");
    let text = traced(Trace::default().with_keys());
    assert!(text.contains(r#"kv.key="the/key""#) && !text.contains("s3cret"), "{text}");
}

#[cfg(feature = "metrics")]
#[test]
fn a_call_is_a_duration_with_the_usual_labels() {
    use metrics_util::debugging::{DebugValue, DebuggingRecorder};

    let recorder = DebuggingRecorder::new();
    let snapshotter = recorder.snapshotter();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    metrics::with_local_recorder(&recorder, || {
        runtime.block_on(async {
            let store = mem().layered(kv_layers::Metrics::default());
            for _ in 0..3 {
                store.put("the/key", "s3cret").await.unwrap();
            }
            store.create("the/key", "s3cret").await.unwrap_err();
        });
    });
    let mut seen: Vec<(Vec<String>, usize)> = Vec::new();
    for (key, _, _, value) in snapshotter.snapshot().into_vec() {
        assert_eq!(key.key().name(), "db.client.operation.duration");
        let DebugValue::Histogram(values) = value else { panic!("not a histogram: {value:?}") };
        assert!(values.iter().all(|seconds| (0.0..60.0).contains(&seconds.into_inner())));
        let labels = key.key().labels().map(|label| format!("{}={}", label.key(), label.value())).collect();
        seen.push((labels, values.len()));
    }
    seen.sort_by_key(|(labels, _)| labels.len());
    let usual = ["db.system.name=mem", "db.operation.name=put"];
    assert_eq!(seen.len(), 2, "{seen:?}");
    assert_eq!((seen[0].0.as_slice(), seen[0].1), (usual.map(str::to_owned).as_slice(), 3));
    assert_eq!(seen[1].0.last().unwrap(), "error.type=AlreadyExists");
    assert_eq!(seen[1].1, 1);
}
