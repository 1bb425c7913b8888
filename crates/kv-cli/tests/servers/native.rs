//! The same keys and bytes as the native tools see.

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader};
use std::path::Path;

use data_encoding::BASE64;
use kv_testkit::Node;
use serde_json::Value;

use crate::common::Place;

type Tree = BTreeMap<String, Vec<u8>>;

/// Files whose names and bytes are worth a look, in the folder `tree`.
fn plant(place: &Place) -> Tree {
    let every_byte: Vec<u8> = (0..=255).collect();
    let tree: Tree = [
        ("hostname", &b"machine\n"[..]),
        ("sub/a b", b""),
        ("sub/a%20b", b"\0"),
        ("sub/q?x#y+z", b"?"),
        ("sub/\u{fc}", "\u{fc}".as_bytes()),
        ("sub/u\u{308}", b"decomposed"),
        ("sub-way", &every_byte),
    ]
    .into_iter()
    .map(|(name, bytes)| (format!("app/etc/{name}"), bytes.to_vec()))
    .collect();
    for (key, bytes) in &tree {
        let path = place.path("tree").join(key.strip_prefix("app/etc/").unwrap());
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, bytes).unwrap();
    }
    tree
}

fn decoded(value: &Value) -> Vec<u8> {
    BASE64.decode(value.as_str().unwrap_or_default().as_bytes()).unwrap()
}

/// What `kv export` writes, decoded.
fn exported(place: &Place) -> Tree {
    let rows = place.kv(["export", "--consul"]).ok().json();
    rows.as_array()
        .unwrap()
        .iter()
        .map(|row| (row["key"].as_str().unwrap().to_owned(), decoded(&row["value"])))
        .collect()
}

async fn etcdctl(node: &Node, args: &[&str]) -> String {
    node.exec(&[&["env", "ETCDCTL_API=3", "etcdctl"], args].concat()).await.unwrap()
}

/// What `etcdctl get --prefix` shows, decoded.
async fn listed(node: &Node, prefix: &str) -> Tree {
    let listing: Value =
        serde_json::from_str(&etcdctl(node, &["get", prefix, "--prefix", "-w", "json"]).await).unwrap();
    let rows = listing["kvs"].as_array().into_iter().flatten();
    rows.map(|kv| (String::from_utf8(decoded(&kv["key"])).unwrap(), decoded(&kv["value"]))).collect()
}

/// Every regular file below a folder that can be read, by its path below it.
fn files(root: &Path, below: &Path, found: &mut Tree) {
    for entry in fs::read_dir(root.join(below)).into_iter().flatten().flatten() {
        let (kind, path) = (entry.file_type().unwrap(), below.join(entry.file_name()));
        if kind.is_dir() {
            files(root, &path, found);
        } else if kind.is_file()
            && let (Some(name), Ok(bytes)) = (path.to_str(), fs::read(root.join(&path)))
        {
            found.insert(name.to_owned(), bytes);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn etcdctl_sees_the_files_of_this_machine_and_kv_what_etcdctl_changes() {
    let Some(server) = crate::server("kv-etcd").await else { return };
    let place = Place::at(server.url().unwrap());
    // What cannot be a key or be read is refused by name, links among it.
    let run = place.kv(["import", "/etc", "app/etc"]);
    let seen = listed(server.node(1), "app/etc/").await;
    let mut expected = Tree::new();
    files(Path::new("/etc"), Path::new(""), &mut expected);
    expected
        .retain(|name, _| seen.contains_key(&format!("app/etc/{name}")) || !run.err.contains(name.as_str()));
    let expected: Tree =
        expected.into_iter().map(|(name, bytes)| (format!("app/etc/{name}"), bytes)).collect();
    assert!(expected.len() > 20, "{run:?}");
    let different: Vec<_> = expected.keys().filter(|key| seen.get(*key) != expected.get(*key)).collect();
    assert!(different.is_empty() && seen.len() == expected.len(), "{different:?}");

    let mut watch = place.start(["watch", "app/etc", "--initial"]);
    let mut lines = BufReader::new(watch.child().stdout.take().unwrap()).lines();
    let mut next = || -> Value { serde_json::from_str(&lines.next().unwrap().unwrap()).unwrap() };
    for _ in &expected {
        assert_eq!(next()["event"], "put");
    }
    assert_eq!(next()["event"], "synced");
    etcdctl(server.node(1), &["put", "app/etc/added", "native"]).await;
    let put = next();
    assert_eq!((&put["key"], &put["value"]), (&"app/etc/added".into(), &"native".into()));
    assert!(place.kv(["ls", "app/etc"]).ok().text().lines().any(|line| line == "app/etc/added"));
    assert_eq!(place.kv(["get", "app/etc/added"]).ok().text(), "native");
    etcdctl(server.node(1), &["del", "app/etc/added"]).await;
    let delete = next();
    assert_eq!((&delete["event"], &delete["key"]), (&"delete".into(), &"app/etc/added".into()));
    watch.signal("TERM");
    watch.end();
}

#[tokio::test(flavor = "multi_thread")]
async fn etcdctl_sees_what_kv_imports_and_kv_sees_what_etcdctl_puts() {
    let Some(server) = crate::server("kv-etcd").await else { return };
    let place = Place::at(server.url().unwrap());
    let tree = plant(&place);
    assert_eq!(place.kv(["import", "tree", "app/etc"]).ok().text(), "imported 7 keys, 278 bytes\n");

    assert_eq!(listed(server.node(1), "").await, tree);

    // What etcdctl writes is read, too, also where a lease is on a key.
    let lease = etcdctl(server.node(1), &["lease", "grant", "600"]).await;
    let lease = lease.split_whitespace().nth(1).unwrap();
    etcdctl(server.node(1), &["put", "leased", "x", &format!("--lease={lease}")]).await;
    let dump = etcdctl(server.node(1), &["get", "", "--prefix", "-w", "json"]).await;
    let copy = Place::new();
    let run = copy.kv_with(["import", "-", "--skip-refused"], dump.as_bytes());
    assert_eq!((run.code, run.text()), (0, "imported 7 keys, 278 bytes\n"), "{run:?}");
    assert!(run.err.contains("refused \"leased\": it ends with a lease"), "{run:?}");
    assert_eq!(exported(&copy), tree);
    etcdctl(server.node(1), &["lease", "revoke", lease]).await;

    etcdctl(server.node(1), &["put", "other/\u{fc} b", "native"]).await;
    assert_eq!(place.kv(["get", "other/\u{fc} b"]).ok().text(), "native");
    assert_eq!(place.kv(["ls"]).ok().text(), "app/\nother/\n");
    let watched = place.kv(["watch", "other", "--from", "0", "--count", "1"]).ok().json();
    assert_eq!(watched["value"], "native");

    // The tool's own variables name the server too.
    let mut command = place.command(["--store", "etcd://", "get", "app/etc/hostname"]);
    let output = command.env("ETCDCTL_ENDPOINTS", server.node(1).endpoint()).output().unwrap();
    assert_eq!(output.stdout, b"machine\n", "{output:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn consul_and_kv_agree_on_exports_and_read_each_others() {
    let Some(server) = crate::server("kv-consul").await else { return };
    let place = Place::at(server.url().unwrap());
    let tree = plant(&place);
    place.kv(["import", "tree", "app/etc"]).ok();

    let native = server.node(1).exec(&["consul", "kv", "export", ""]).await.unwrap();
    let rows: Value = serde_json::from_str(&native).unwrap();
    let seen: Tree = rows
        .as_array()
        .unwrap()
        .iter()
        .map(|row| (row["key"].as_str().unwrap().to_owned(), decoded(&row["value"])))
        .collect();
    assert_eq!(seen, tree);
    assert_eq!(exported(&place), tree);

    // Theirs into a store of another kind and into a namespace of Consul …
    for other in [Place::new(), Place::at(format!("{}/copy", server.url().unwrap()))] {
        let imported = other.kv_with(["import", "-"], native.as_bytes()).ok();
        assert_eq!(imported.text(), "imported 7 keys, 278 bytes\n");
        assert_eq!(exported(&other), tree);
    }
    // … and ours into Consul.
    place.kv(["del", "--tree", "/", "--yes"]);
    let other = Place::new();
    other.kv_with(["import", "-"], native.as_bytes()).ok();
    let ours = BASE64.encode(&other.kv(["export", "--consul"]).ok().out);
    let import = format!("echo {ours} | base64 -d | consul kv import -");
    server.node(1).exec(&["sh", "-c", &import]).await.unwrap();
    assert_eq!(exported(&place), tree);

    let mut command = place.command(["--store", "consul://", "get", "app/etc/hostname"]);
    let output = command.env("CONSUL_HTTP_ADDR", server.node(1).endpoint()).output().unwrap();
    assert_eq!(output.stdout, b"machine\n", "{output:?}");
}
