//! Each feature builds alone, and so does each package without any. In a build of everything one
//! package's features hide what another's lack.

use anyhow::Result;

use super::packages::{self, Package};
use super::{Ended, cargo};

pub(super) async fn each() -> Result<Ended> {
    for package in packages::all().await? {
        for args in builds(&package) {
            let ended = cargo(&args.iter().map(String::as_str).collect::<Vec<_>>(), &[]).await?;
            if matches!(ended, Ended::Failed(_)) {
                return Ok(ended);
            }
        }
    }
    Ok(Ended::Ok)
}

/// The builds of a package that has features: with none, and with each alone. Targets for tests are
/// left out, as dev-dependencies switch features on that users do not have.
fn builds(package: &Package) -> Vec<Vec<String>> {
    let features: Vec<_> = package.features.keys().filter(|feature| *feature != "default").collect();
    if features.is_empty() {
        return Vec::new();
    }
    let bare = ["check", "--quiet", "--package", &package.name, "--no-default-features"].map(str::to_owned);
    let mut builds = vec![bare.to_vec()];
    for feature in features {
        builds.push([&bare[..], &["--features".to_owned(), feature.clone()]].concat());
    }
    builds
}

#[cfg(test)]
mod tests {
    use super::{Package, builds};

    fn package(features: &str) -> Package {
        let text = format!(r#"{{"name": "x", "manifest_path": "/x/Cargo.toml", "features": {features}}}"#);
        serde_json::from_str(&text).unwrap()
    }

    #[test]
    fn each_feature_is_built_alone() {
        let builds = builds(&package(r#"{"default": ["a"], "a": [], "b": ["a"]}"#));
        let last: Vec<_> = builds.iter().map(|args| args.last().unwrap().as_str()).collect();
        assert_eq!(last, ["--no-default-features", "a", "b"]);
    }

    #[test]
    fn a_package_without_features_is_built_by_others() {
        assert!(builds(&package("{}")).is_empty());
        assert!(builds(&package(r#"{"default": []}"#)).is_empty());
    }
}
