//! Store URLs: taken apart, refused in plain words, and never showing a secret.
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

use std::time::Duration;

use kv_core::{ErrorKind, Host, StoreUrl};

fn host(name: &str, port: Option<u16>) -> Host {
    Host::new(name, port)
}

#[test]
fn several_hosts_ipv6_user_and_namespace() {
    let url =
        StoreUrl::parse("ETCD+tls://me:p%40ss@h1:2379,[::1]:2380,h3/app/x?timeout=5s&ca=%2Fca.pem").unwrap();
    assert_eq!(url.scheme(), "etcd+tls");
    assert_eq!(url.user(), Some("me"));
    assert_eq!(url.hosts(), [host("h1", Some(2379)), host("::1", Some(2380)), host("h3", None)]);
    assert_eq!(url.hosts()[1].authority(1), "[::1]:2380");
    assert_eq!(url.hosts()[2].authority(2379), "h3:2379");
    assert_eq!(url.namespace().unwrap().as_str(), "app/x");
    let mut params = url.params();
    assert_eq!(params.secret("password").unwrap().unwrap().expose(), "p@ss");
    assert_eq!(params.duration("timeout").unwrap(), Some(Duration::from_secs(5)));
    assert_eq!(params.text("ca").unwrap().as_deref(), Some("/ca.pem"));
    params.finish().unwrap();
}

#[test]
fn paths_without_hosts() {
    for (text, path) in [
        ("sled:data/kv", "data/kv"),
        ("sled:/var/a%20b", "/var/a b"),
        ("sled:///var/x", "/var/x"),
        ("mem:", ""),
        ("mem:NAME", "NAME"),
    ] {
        let url = StoreUrl::parse(text).unwrap();
        assert!(url.hosts().is_empty());
        assert_eq!(url.path(), path);
    }
}

#[test]
fn nonsense_is_refused_without_repeating_what_could_be_secret() {
    for text in [
        "",
        "etcd",
        "://h",
        "1a://h",
        "etcd://::1:2379/",
        "etcd://[::1/",
        "etcd://[::1]x/",
        "etcd://[127.0.0.1:2379]/",
        "etcd://[canary]:2379/",
        "etcd://h:0/",
        "etcd://h:99999/",
        "etcd://h:canary/",
        "etcd://,h/",
        "etcd://u:canary@@h:x/",
        "etcd://h/%ff",
        "etcd://h /",
    ] {
        let error = StoreUrl::parse(text).unwrap_err();
        assert!(matches!(error.kind(), ErrorKind::InvalidConfig { .. }), "{text}");
        assert!(!format!("{error} {error:?}").contains("canary"), "{error:?}");
    }
    assert!(StoreUrl::parse("etcd://h/a/../b").unwrap().namespace().is_err());
}

#[test]
fn secrets_are_never_shown() {
    let url = StoreUrl::parse(
        "consul://u:canary1@h:8500/ns?token=canary2&password=canary3&Token=canary4&token_file=/f",
    )
    .unwrap();
    for shown in [url.to_string(), format!("{url:?}"), format!("{:?}", url.params())] {
        assert!(!shown.contains("canary"), "{shown}");
    }
    assert!(url.to_string().starts_with("consul://u:***@h:8500/ns?"));
    assert!(url.to_string().contains("token_file=/f"));
}

#[test]
fn a_secret_comes_from_one_place() {
    let file = std::env::temp_dir().join(format!("kv-core-secret-{}", std::process::id()));
    std::fs::write(&file, "from-file\n").unwrap();
    let from_file = StoreUrl::parse(&format!("etcd://h/?password_file={}", file.display())).unwrap();
    assert_eq!(from_file.params().secret("password").unwrap().unwrap().expose(), "from-file");
    std::fs::remove_file(&file).unwrap();
    let error = from_file.params().secret("password").unwrap_err();
    assert!(error.to_string().contains("password_file"), "{error}");

    let from_env = StoreUrl::parse("etcd://h/?password_env=PATH").unwrap();
    assert_eq!(
        from_env.params().secret("password").unwrap().unwrap().expose(),
        std::env::var("PATH").unwrap()
    );
    let unset = StoreUrl::parse("etcd://h/?password_env=KV_CORE_TEST_UNSET").unwrap();
    assert!(unset.params().secret("password").unwrap_err().to_string().contains("KV_CORE_TEST_UNSET"));

    let twice = StoreUrl::parse("etcd://u:a@h/?password=b").unwrap();
    assert!(twice.params().secret("password").is_err());
}

#[test]
fn parameters_nobody_took_are_errors() {
    let url = StoreUrl::parse("mem:?histroy=3").unwrap();
    assert!(url.params().finish().unwrap_err().to_string().contains("histroy"));
    let url = StoreUrl::parse("etcd://u:secret@h/").unwrap();
    assert!(url.params().finish().is_err(), "a password nobody asked for is not ignored");
    let url = StoreUrl::parse("mem:?a=1&a=2").unwrap();
    assert!(url.params().text("a").unwrap_err().to_string().contains("twice"));
}

#[test]
fn typed_parameters() {
    let url = StoreUrl::parse("mem:?on&off=false&n=7&bad=x&zero=0s&namespace=/a//b/").unwrap();
    let mut params = url.params();
    assert_eq!(params.flag("on").unwrap(), Some(true));
    assert_eq!(params.flag("off").unwrap(), Some(false));
    assert_eq!(params.flag("absent").unwrap(), None);
    assert_eq!(params.parsed::<usize>("n").unwrap(), Some(7));
    assert!(params.clone().parsed::<usize>("bad").is_err());
    assert!(params.clone().flag("bad").is_err());
    assert!(params.duration("bad").is_err());
    assert!(params.duration("zero").is_err());
    assert_eq!(params.namespace("namespace").unwrap().as_str(), "a/b");
    params.finish().unwrap();
}
