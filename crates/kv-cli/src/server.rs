//! What a URL says about its servers: which product, and each member by itself.

use kv_core::{ErrorKind, Prefix, StoreUrl};

/// A product, the name of its scheme, and the port it has as shipped.
const PRODUCTS: [(&str, &str, u16); 3] =
    [("etcd", "etcd", 2379), ("Consul", "consul", 8500), ("ZooKeeper", "zk", 2181)];

/// What to look at when this went wrong, where it can be that something else than the URL says listens
/// there.
pub(crate) fn doubt(url: &StoreUrl, kind: &ErrorKind) -> Option<String> {
    let scheme = url.scheme().strip_suffix("+tls").unwrap_or(url.scheme());
    let (product, _, port) = PRODUCTS.iter().find(|(_, known, _)| *known == scheme)?;
    let others = PRODUCTS.iter().filter(|(_, known, _)| *known != scheme);
    let other = others
        .filter_map(|(other, _, port)| {
            url.hosts().iter().find(|host| host.port == Some(*port)).map(|host| (other, host))
        })
        .next();
    match (kind, other) {
        (ErrorKind::Protocol | ErrorKind::Unavailable | ErrorKind::Timeout, Some((other, host))) => {
            Some(format!(
                "is it {product} that listens there? Port {} is where {other} listens as shipped, and {product} listens on {port}",
                host.port.unwrap_or_default()
            ))
        }
        (ErrorKind::Protocol, None) => Some(format!(
            "is it {product} that listens there? The URL says so; kv help urls tells how others are named"
        )),
        _ => None,
    }
}

/// Whether two prefixes of two stores are places of one store of which the one holds the other: copying from
/// one to the other would copy the copies.
pub(crate) fn overlap(one: &(StoreUrl, &Prefix), other: &(StoreUrl, &Prefix)) -> bool {
    let place = |(url, prefix): &(StoreUrl, &Prefix)| {
        let namespace = url.path().trim_matches('/').to_owned();
        [namespace.as_str(), prefix.as_str()].into_iter().filter(|part| !part.is_empty()).fold(
            String::from("/"),
            |mut path, part| {
                path.push_str(part);
                path.push('/');
                path
            },
        )
    };
    let product = |url: &StoreUrl| url.scheme().split('+').next().unwrap_or_default().to_owned();
    let same_product = product(&one.0) == product(&other.0);
    if !one.0.has_authority() {
        // Without hosts the path is the store itself, which is open once at a time.
        return same_product && !one.0.path().is_empty() && one.0.path() == other.0.path();
    }
    let same_server = same_product && one.0.hosts().iter().any(|host| other.0.hosts().contains(host));
    let (one, other) = (place(one), place(other));
    same_server && (one.starts_with(&other) || other.starts_with(&one))
}

/// Each host of a URL that names several, and the same URL with that host alone.
pub(crate) fn members(url: &str) -> Vec<(String, String)> {
    let Some((scheme, rest)) = url.split_once("://") else { return Vec::new() };
    let (authority, behind) = rest.find(['/', '?']).map_or((rest, ""), |at| rest.split_at(at));
    let (user, hosts) = authority.rsplit_once('@').map_or(("", authority), |(user, hosts)| (user, hosts));
    let at = if user.is_empty() { "" } else { "@" };
    let hosts: Vec<_> = hosts.split(',').collect();
    if hosts.len() < 2 {
        return Vec::new();
    }
    hosts.into_iter().map(|host| (host.to_owned(), format!("{scheme}://{user}{at}{host}{behind}"))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_product_s_port_is_doubted() {
        let doubted = |url: &str, kind| doubt(&StoreUrl::parse(url).unwrap(), &kind).unwrap_or_default();
        let words = doubted("consul://h:2379/ns", ErrorKind::Protocol);
        assert!(
            words.starts_with("is it Consul that listens there? Port 2379 is where etcd listens"),
            "{words}"
        );
        assert!(doubted("zk://a,b:2379", ErrorKind::Timeout).contains("is it ZooKeeper"));
        assert!(doubted("etcd+tls://h:8500", ErrorKind::Unavailable).contains("is it etcd"));
        assert!(doubted("consul://h:1", ErrorKind::Protocol).contains("kv help urls"));
        for (url, kind) in [
            ("consul://h:8500", ErrorKind::Timeout),
            ("consul://h:2379", ErrorKind::NotFound),
            ("sled:path", ErrorKind::Protocol),
        ] {
            assert_eq!(doubted(url, kind), "");
        }
    }

    #[test]
    fn places_that_hold_each_other() {
        let overlaps = |one: &str, other: &str, prefix: &str| {
            let (one, other) = (StoreUrl::parse(one).unwrap(), StoreUrl::parse(other).unwrap());
            let prefix = Prefix::new(prefix).unwrap();
            overlap(&(one, &prefix), &(other, &prefix))
        };
        assert!(overlaps("etcd://h:1/a", "etcd+tls://x,h:1/a/b", ""));
        assert!(overlaps("etcd://h:1", "etcd://h:1/a", ""));
        assert!(overlaps("sled:a", "sled:a?history=7", ""));
        for (one, other, prefix) in [
            ("etcd://h:1/a", "etcd://h:1/ab", ""),
            ("etcd://h:1/a", "etcd://h:2/a", ""),
            ("etcd://h:1/a", "consul://h:1/a", ""),
            ("etcd://h:1/a", "etcd://h:1/a/b", "x"),
            ("sled:a", "sled:b", ""),
            ("mem:", "mem:", ""),
        ] {
            assert!(!overlaps(one, other, prefix), "{one} {other} {prefix}");
        }
    }

    #[test]
    fn members_keep_everything_but_the_other_hosts() {
        assert_eq!(members("etcd://h:1/ns"), []);
        assert_eq!(members("sled:a,b"), []);
        assert_eq!(
            members("etcd+tls://u:p%40@a:1,[::1]:2/ns?ca=x,y"),
            [
                ("a:1".to_owned(), "etcd+tls://u:p%40@a:1/ns?ca=x,y".to_owned()),
                ("[::1]:2".to_owned(), "etcd+tls://u:p%40@[::1]:2/ns?ca=x,y".to_owned()),
            ]
        );
    }
}
