//! Copies from one kind of server to the next, around to where they began.

use serde_json::json;

use crate::BACKENDS;
use crate::common::{Place, random};

#[tokio::test(flavor = "multi_thread")]
async fn a_tree_goes_around_all_stores_and_comes_back_the_same() {
    let (_, mut random) = random();
    let here = Place::new();
    let mut servers = Vec::new();
    for backend in BACKENDS {
        let Some(server) = crate::server(backend).await else { return };
        servers.push(server);
    }
    let mut urls: Vec<_> = servers.iter().map(|server| crate::place(server).url().to_owned()).collect();
    urls.push(here.url().to_owned());
    urls.push(crate::place(&servers[0]).url().to_owned());

    let mut rows = String::new();
    for number in 0..400 {
        let length = if number % 20 == 0 { random.usize(..100 << 10) } else { random.usize(..50) };
        let value: String = std::iter::repeat_with(|| random.alphanumeric()).take(length).collect();
        let key = format!("app/{}/ü {number}", random.u8(..5));
        rows.push_str(&format!("{}\n", json!({"key": key, "value": value})));
    }
    let first = Place::at(urls[0].as_str());
    first.kv_with(["import", "-"], rows.as_bytes()).ok();
    let whole = first.kv(["export", "--no-expiry"]).ok().out;
    for pair in urls.windows(2) {
        let [from, to] = pair else { continue };
        let plan = here.kv(["sync", from, to, "--plan"]);
        assert!(plan.code == 4 && plan.err.contains("to make 400, "), "{}", plan.err);
        assert_eq!(plan.text().lines().count(), 400);
        let run = here.kv(["sync", from, to, "--delete", "-o", "json"]).ok();
        assert_eq!(run.json()["made"], 400, "{to}: {run:?}");
        let diff = here.kv(["diff", from, to]);
        assert_eq!((diff.code, diff.text()), (0, ""), "{diff:?}");
    }
    let last = Place::at(urls.last().unwrap().as_str());
    assert!(last.kv(["export", "--no-expiry"]).ok().out == whole, "the last copy is not the first");

    // What Consul cannot take is told before anything is written there.
    let big = "x".repeat(600 << 10);
    first.kv_with(["put", "app/big", "-"], big.as_bytes()).ok();
    first.kv(["put", "app/small", "x"]).ok();
    let run = here.kv(["sync", &urls[0], &urls[1]]);
    assert!(run.code == 1 && run.err.contains("refused \"app/big\": too large"), "{run:?}");
    let consul = Place::at(urls[1].as_str());
    consul.kv(["get", "app/small"]).fails(3, &[]);
    let run = here.kv(["sync", &urls[0], &urls[1], "--skip-refused"]);
    assert_eq!((run.code, run.text().starts_with("made 1, changed 0")), (0, true), "{run:?}");
    consul.kv(["get", "app/small"]).ok();

    // Times to live go along.
    first.kv(["put", "ttl/k", "x", "--ttl", "10m"]).ok();
    for pair in urls.windows(2) {
        let [from, to] = pair else { continue };
        here.kv(["sync", from, to, "ttl", "--keep-ttl"]).ok();
        let entry = Place::at(to.as_str()).kv(["get", "ttl/k", "--meta", "-o", "json"]).ok().json();
        let granted = entry["expiry"]["ttl_seconds"].as_f64().unwrap();
        assert!(granted > 500.0 && granted <= 600.0, "{to}: {entry}");
    }
}
