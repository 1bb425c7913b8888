//! Every server that a `servers.toml` of the workspace declares starts, survives each verb at an
//! unchanged address, and forms a cluster of three.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // Tests fail by panicking.
#![allow(clippy::print_stdout)] // How long servers take is worth reading.

use std::io::{ErrorKind, Read};
use std::net::TcpStream;
use std::sync::Arc;
use std::time::{Duration, Instant};

use kv_testkit::spec::Version;
use kv_testkit::{
    Cluster, Engine, ImagePolicy, Link, Node, Servers, Spec, Tier, image, is_nightly, skip, workspace,
};

/// The declared versions that can run here, in this run's tier.
fn declared(nodes: usize) -> Vec<Servers> {
    let tier = Tier::current().unwrap();
    let engine = match Engine::detect() {
        Ok(engine) => engine,
        Err(error) => {
            skip(&format!("{error:#}"));
            return Vec::new();
        }
    };
    let mut found = Vec::new();
    for (_, spec) in Spec::discover(&workspace::root()).unwrap() {
        let spec = Arc::new(spec);
        let due = |version: &&Version| match nodes {
            1 => version.tier <= tier,
            _ => version.cluster_tier.is_some_and(|cluster| cluster <= tier),
        };
        for version in spec.versions.iter().filter(due) {
            let policy = ImagePolicy::current().unwrap();
            match image::find(&engine, &spec, version, policy) {
                Ok(image) => {
                    let servers = Servers::new(engine.clone(), Arc::clone(&spec), version, image);
                    found.push(servers.nodes(nodes));
                }
                Err(error) => skip(&format!("{error:#}")),
            }
        }
    }
    found
}

fn refuses(node: &Node) -> bool {
    TcpStream::connect(node.endpoint()).is_err()
}

async fn not_ready(node: &Node) {
    let answer = tokio::time::timeout(Duration::from_secs(2), node.ready()).await;
    assert!(answer.is_err(), "{} answers", node.name());
}

fn containers_of(cluster: &Cluster) -> Vec<String> {
    cluster.nodes().iter().map(|node| node.name().to_owned()).collect()
}

fn exists(container: &str) -> bool {
    !docker(&["ps", "--all", "--quiet", "--filter", &format!("name={container}")]).is_empty()
}

#[tokio::test]
async fn one_node_survives_every_verb_at_its_address() {
    for servers in declared(1) {
        let start = Instant::now();
        let cluster = servers.start().await.unwrap();
        let started = start.elapsed();
        let node = cluster.node(1);
        let endpoint = node.endpoint();

        node.pause().await.unwrap();
        not_ready(node).await;
        node.unpause().await.unwrap();
        node.ready().await.unwrap();

        node.kill().await.unwrap();
        assert!(!node.is_running().await.unwrap());
        assert!(refuses(node));
        node.start().await.unwrap();
        node.ready().await.unwrap();

        node.restart().await.unwrap();

        let mut open = TcpStream::connect(&endpoint).unwrap();
        node.disconnect(Link::Clients).await.unwrap();
        assert!(refuses(node));
        open.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        let end = open.read(&mut [0]).map_err(|error| error.kind());
        assert!(matches!(end, Ok(0) | Err(ErrorKind::ConnectionReset)), "{end:?}");
        assert!(node.is_running().await.unwrap());
        node.reconnect(Link::Clients).await.unwrap();
        node.ready().await.unwrap();

        let marker = "/data/marker-of-this-test";
        node.exec(&["touch", marker]).await.unwrap();
        node.kill().await.unwrap();
        node.start().await.unwrap();
        node.exec(&["ls", marker]).await.expect("a kill lost data");
        node.wipe().await.unwrap();
        assert!(!node.is_running().await.unwrap());
        node.start().await.unwrap();
        node.ready().await.unwrap();
        node.exec(&["ls", marker]).await.expect_err("a wipe kept data");

        assert_eq!(node.endpoint(), endpoint);
        assert!(cluster.url().unwrap().ends_with(&endpoint));
        assert!(!node.logs().await.unwrap().is_empty());
        let (image, all) = (servers.image(), start.elapsed());
        println!("{image}: started in {started:.1?}, all verbs in {all:.1?}");
        let containers = containers_of(&cluster);
        drop(cluster);
        assert!(!exists(&containers[0]), "{} still stands", containers[0]);
    }
}

#[tokio::test]
async fn three_nodes_elect_another_leader() {
    if !is_nightly() {
        return;
    }
    for servers in declared(3) {
        let start = Instant::now();
        let cluster = servers.start().await.unwrap();
        let started = start.elapsed();
        let first = cluster.leader().await.unwrap();

        first.disconnect(Link::Peers).await.unwrap();
        let second = cluster.leader_other_than(first).await.unwrap();
        assert!(!refuses(first), "clients are cut off too");
        first.reconnect(Link::Peers).await.unwrap();
        cluster.ready().await.unwrap();

        second.kill().await.unwrap();
        let third = cluster.leader_other_than(second).await.unwrap();
        second.start().await.unwrap();
        cluster.ready().await.unwrap();

        third.pause().await.unwrap();
        cluster.leader_other_than(third).await.unwrap();
        let (image, all) = (servers.image(), start.elapsed());
        println!("{image}: three nodes in {started:.1?}, three leaders lost in {all:.1?}");
        let containers = containers_of(&cluster);
        drop(cluster);
        assert!(!containers.iter().any(|name| exists(name)), "one of {containers:?} still stands");
    }
}

#[tokio::test]
async fn a_server_that_ends_at_once_is_an_error_with_its_log() {
    let Some(servers) = declared(1).into_iter().next() else { return };
    let error = servers.arg("--no-such-option=7").start().await.unwrap_err();
    let text = format!("{error:#}");
    assert!(text.contains("does not run"), "{text}");
    let log = text.split_whitespace().find(|word| word.ends_with(".log")).expect("no log named");
    let log = std::fs::read_to_string(log).unwrap();
    assert!(log.contains("no-such-option"), "the log says {log}");
}

#[tokio::test]
async fn a_start_that_is_given_up_leaves_nothing() {
    let Some(servers) = declared(1).into_iter().next() else { return };
    let marker = format!("KV_GIVEN_UP={}", std::process::id());
    let (name, value) = marker.split_once('=').unwrap();
    let servers = servers.env(name, value).nodes(3);
    let start = tokio::spawn(async move { servers.start().await.map(drop) });
    until("it starts", || count_with(&marker) > 0).await;
    start.abort();
    assert!(start.await.unwrap_err().is_cancelled(), "it started before this test gave up");
    until("all is removed", || count_with(&marker) == 0).await;
}

#[test]
fn what_somebody_runs_by_hand_from_an_image_is_not_swept() {
    let Some(servers) = declared(1).into_iter().next() else { return };
    let id = docker(&["create", &servers.image().reference]);
    let id = id.trim();
    let removed = Engine::detect().and_then(|engine| engine.sweep());
    let is_there =
        !docker(&["ps", "--all", "--quiet", "--no-trunc", "--filter", &format!("id={id}")]).is_empty();
    docker(&["rm", id]);
    assert!(is_there, "it was swept along with {removed:?}");
}

async fn until(what: &str, is_so: impl Fn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(60);
    while !is_so() {
        assert!(Instant::now() < deadline, "waited in vain until {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// How many containers have this in their environment.
fn count_with(variable: &str) -> usize {
    let all = docker(&["ps", "--all", "--quiet", "--filter", "label=kv.testkit=1"]);
    let env = |id: &str| docker(&["inspect", "--format", "{{.Config.Env}}", id]);
    all.split_whitespace().filter(|id| env(id).contains(variable)).count()
}

/// A container that vanishes while asked about is none.
fn docker(args: &[&str]) -> String {
    let output = std::process::Command::new("docker").args(args).output().unwrap();
    String::from_utf8(output.stdout).unwrap()
}
