//! What is known of servers by their version, and matters to whoever uses them.

/// A version as servers write it.
type Triple = (u64, u64, u64);

struct Known {
    product: &'static str,
    /// The first releases without it, one for each line of releases, oldest first.
    fixed: &'static [Triple],
    /// Lines older than these have it too.
    older: bool,
    words: &'static str,
}

const FAULTS: [Known; 3] = [
    Known {
        product: "etcd",
        fixed: &[(3, 5, 28), (3, 6, 9)],
        older: true,
        words: "its authorization can be bypassed (CVE-2026-33413, CVE-2026-33343)",
    },
    Known {
        product: "etcd",
        fixed: &[(3, 5, 33), (3, 6, 14), (3, 7, 1)],
        older: true,
        words: "who may read one key can watch every later one (GHSA-xg4h-6gfc-h4m8)",
    },
    Known {
        product: "zookeeper",
        fixed: &[(3, 9, 4)],
        older: false,
        words: "it can lose data (ZOOKEEPER-4925)",
    },
];

/// The first release of Consul that takes some keys only.
const CONSUL_KEYS: Triple = (1, 21, 5);

/// What is known of this version of this product.
pub(crate) fn known(product: &str, version: &str) -> Vec<String> {
    let Some(version) = parse(version) else { return Vec::new() };
    let faults =
        FAULTS.iter().filter(|fault| product.eq_ignore_ascii_case(fault.product) && has(fault, version));
    let mut known: Vec<_> = faults
        .map(|fault| {
            let fixed: Vec<_> = fault.fixed.iter().map(|(a, b, c)| format!("{a}.{b}.{c}")).collect();
            format!("{}; mended in {}", fault.words, fixed.join(", "))
        })
        .collect();
    if product.eq_ignore_ascii_case("consul") && version >= CONSUL_KEYS {
        known.push("it takes keys of ASCII letters, digits and ,_./-?&= only".to_owned());
    }
    known
}

fn has(fault: &Known, version: Triple) -> bool {
    let line = (version.0, version.1);
    match fault.fixed.iter().find(|fixed| (fixed.0, fixed.1) == line) {
        Some(fixed) => version < *fixed,
        None => fault.older && fault.fixed.first().is_some_and(|first| line < (first.0, first.1)),
    }
}

/// The first three numbers of a version, whatever stands around them.
fn parse(version: &str) -> Option<Triple> {
    let begin = version.find(|c: char| c.is_ascii_digit())?;
    let mut numbers = version.get(begin..)?.split('.').map(|part| {
        let digits = part.find(|c: char| !c.is_ascii_digit()).unwrap_or(part.len());
        part.get(..digits).unwrap_or_default().parse().unwrap_or_default()
    });
    Some((numbers.next()?, numbers.next()?, numbers.next().unwrap_or_default()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_line_of_releases_has_its_own_end_of_a_fault() {
        for (product, version, expected) in [
            ("etcd", "3.4.30", 2),
            ("etcd", "3.5.16", 2),
            ("etcd", "3.5.28", 1),
            ("etcd", "3.5.33", 0),
            ("etcd", "3.6.9", 1),
            ("etcd", "3.6.14", 0),
            ("etcd", "3.7.0", 1),
            ("etcd", "3.8.0", 0),
            ("ZooKeeper", "3.9.3-c26634f34490bb0ea7a09cc51e05ede3b4e320ee, built on 2024", 1),
            ("ZooKeeper", "3.9.4", 0),
            ("ZooKeeper", "3.8.4", 0),
            ("Consul", "1.8.7+dfsg1", 0),
            ("Consul", "v1.22.0", 1),
            ("sled", "0.34.7", 0),
            ("etcd", "unknown", 0),
        ] {
            assert_eq!(known(product, version).len(), expected, "{product} {version}");
        }
    }
}
