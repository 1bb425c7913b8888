//! Store URLs: taken apart, refused in plain words, and never showing a secret.
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

use std::time::Duration;

use kv_core::{ErrorKind, Host, StoreUrl};
use proptest::prelude::*;

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
    assert_eq!(url.to_string(), "consul://u:***@h:8500/ns?…");
    for (text, shown) in [
        ("etcd://canary@h/ns", "etcd://***@h/ns"),
        ("etcd://u@h/ns?password_env=X", "etcd://u@h/ns?…"),
        ("etcd:root:canary@h/ns", "etcd:***@h/ns"),
        ("sled:data%1b/kv", r"sled:data\u{1b}/kv"),
        ("etcd://[::1],h2:1/", "etcd://[::1],h2:1/"),
    ] {
        assert_eq!(StoreUrl::parse(text).unwrap().to_string(), shown);
    }
}

#[test]
fn a_secret_comes_from_one_place() {
    let file = std::env::temp_dir().join(format!("kv-core-secret-{}", std::process::id()));
    std::fs::write(&file, "\u{feff}from-file\r\n").unwrap();
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
    // People put the secret itself there.
    for slip in ["etcd://h/?password_env=canary", "etcd://h/?password_file=canary"] {
        let error = StoreUrl::parse(slip).unwrap().params().secret("password").unwrap_err();
        assert!(error.to_string().contains("password_"), "{error}");
        assert!(!format!("{error:?}").contains("canary"), "{error:?}");
    }

    let twice = StoreUrl::parse("etcd://u:a@h/?password=b").unwrap();
    assert!(twice.params().secret("password").is_err());
}

/// What a driver that knows these parameters says to a URL.
fn finished(url: &str, known: &[&str]) -> Result<(), kv_core::Error> {
    let mut params = StoreUrl::parse(url)?.params();
    for name in known {
        params.text(name)?;
    }
    params.finish()
}

#[test]
fn parameters_nobody_took_are_errors() {
    let text = finished("mem:?namespace=a&histroy=3", &["history", "namespace"]).unwrap_err().to_string();
    assert!(text.contains("parameter number 2 of the URL is not one that this store knows"), "{text}");
    assert!(text.contains("perhaps history=; mem: URLs take history, namespace"), "{text}");
    let text = finished("mem:?x", &[]).unwrap_err().to_string();
    assert!(text.contains("mem: URLs take no parameters"), "{text}");
    let text = finished("etcd://u:secret@h/", &["timeout"]).unwrap_err().to_string();
    assert!(text.contains("has a password, and this store takes none; etcd: URLs take timeout"), "{text}");
    assert!(finished("mem:?a=1&a=2", &["a"]).unwrap_err().to_string().contains("twice"));
}

#[test]
fn a_slip_of_the_pen_is_recognised() {
    let perhaps = |given: &str| {
        let text = finished(&format!("x:?{given}=1"), &["history", "timeout"]).unwrap_err().to_string();
        text.contains("perhaps")
    };
    for near in ["histroy", "histor", "historyy", "hystory", "imeout", "timeoutt", "ttimeout", "timoeut"] {
        assert!(perhaps(near), "{near}");
    }
    for far in ["hist", "timeoff", "other", "", "yrotsih"] {
        assert!(!perhaps(far), "{far}");
    }
}

/// Words that no text for people may repeat, between what means something in a URL.
fn secret() -> impl Strategy<Value = String> {
    let word = prop::sample::select(&["canary", "12", "", "canary.1", "8canary"][..]);
    let mark = prop::sample::select(
        &["/", "?", "&", "#", "@", ":", ",", "=", "%", "%2", "[", "]", " ", "\\", "+"][..],
    );
    prop::collection::vec((word, mark), 1..5)
        .prop_map(|parts| parts.into_iter().flat_map(|(word, mark)| [word, mark]).collect::<String>())
        .prop_flat_map(|text| {
            prop::sample::select(&["canary", "12", ""][..]).prop_map(move |end| format!("{text}{end}"))
        })
}

proptest! {
    /// However a URL with a secret is mistyped, neither its errors nor what is shown of it repeat the secret.
    #[test]
    fn no_mistyping_shows_a_secret(
        secret in secret(),
        form in prop::sample::select(&[
            "etcd://root:{}@h/ns",
            "etcd://root:{}@h",
            "etcd://root:{}@h:2379,h2/?timeout=5s",
            "etcd://:{}@h/",
            "etcd+tls://root:{}@[::1]/ns?ca=/x",
            "ETCD://root:{}@@h/ns",
            "etcd:/root:{}@h/ns",
            "etcd:root:{}@h/ns",
            "etcd//root:{}@h/ns",
            "://root:{}@h/ns",
            "root:{}@h:2379/ns",
            "etcd://h/ns?password={}",
            "etcd://h/ns?password={}&timeout=5s",
            "etcd://h/?pasword={}",
            "consul://h?token={}",
            "consul://h/?token_file={}",
            "consul://h/?token_env={}",
            "zk://u@h/?password={}&x",
        ][..]),
    ) {
        let text = form.replace("{}", &secret);
        let mut shown = Vec::new();
        let mut tell = |error: kv_core::Error| shown.push(format!("{error} {error:?} {error:#?}"));
        match StoreUrl::parse(&text) {
            Err(error) => tell(error),
            Ok(url) => {
                let mut params = url.params();
                for name in ["password", "token"] {
                    params.secret(name).map_err(&mut tell).ok();
                }
                params.duration("timeout").map_err(&mut tell).ok();
                params.text("ca").map_err(&mut tell).ok();
                params.clone().finish().map_err(&mut tell).ok();
                url.namespace().map_err(&mut tell).ok();
                shown.push(format!("{url} {url:?} {params:?}"));
            }
        }
        for shown in shown {
            prop_assert!(!shown.contains("canary"), "{text}: {shown}");
        }
    }
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
