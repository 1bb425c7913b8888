//! Building images from Debian packages, for machines that reach no image registry.
//!
//! A base image per Debian release comes from `debootstrap` and `docker import`; a server's image
//! is that base plus its packages, installed in a container and committed.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use process_control::{ChildExt, Control};

use crate::engine::{Engine, KIT, OWNER};
use crate::image::{RECIPE, is_built};
use crate::ports::random;
use crate::spec::{Recipe, Spec};
use crate::workspace;

const LIMIT: Duration = Duration::from_secs(1200);

/// How base images are made: a change here rebuilds all images.
pub(crate) const BASE: &str = "minbase-2";
/// Part of every recipe: a change here rebuilds all images.
pub(crate) const STEPS: &str = r#"set -e
export DEBIAN_FRONTEND=noninteractive
printf '#!/bin/sh\nexit 101\n' > /usr/sbin/policy-rc.d
chmod +x /usr/sbin/policy-rc.d
printf '%s\n' "$APT_SETTINGS" > /etc/apt/apt.conf.d/99machine
apt-get update --quiet
apt-get install --quiet --yes --no-install-recommends $PACKAGES
eval "$SETUP"
rm -rf /var/lib/apt/lists/* /var/cache/apt/*.bin /var/cache/apt/archives/*.deb
"#;

pub(crate) fn build(
    engine: &Engine,
    spec: &Spec,
    recipe: &Recipe,
    reference: &str,
    hash: &str,
    say: &dyn Fn(&str),
) -> Result<()> {
    let base = base(engine, &recipe.suite, say)?;
    say(&format!("{reference}: installing {}", recipe.packages.join(", ")));
    let name = format!("kv-testkit-build-{:x}", random());
    let [kit, owner] = engine.labels();
    let settings = format!("APT_SETTINGS={}", apt_settings()?);
    let packages = format!("PACKAGES={}", recipe.packages.join(" "));
    let setup = format!("SETUP=set -e\n{}", spec.debian_setup);
    let create = [
        "create",
        "--name",
        &name,
        "--network=host",
        &kit,
        &owner,
        "--env",
        &settings,
        "--env",
        &packages,
        "--env",
        &setup,
        &base,
        "sh",
        "-c",
        STEPS,
    ];
    engine.docker(&create)?;
    let built = engine.docker_within(LIMIT, &["start", "--attach", &name]).and_then(|_| {
        // Labels pass on to containers, and one that somebody runs by hand is not the kit's.
        let label = format!("LABEL {KIT}= {OWNER}= {RECIPE}={hash}");
        // The build's own variables do not belong into the image.
        let clean = "ENV APT_SETTINGS= PACKAGES= SETUP=";
        let change = ["--change", &label, "--change", clean, "--change", "CMD [\"sh\"]"];
        engine.docker(&[&["commit"], &change[..], &[&name, reference]].concat())
    });
    engine.remove_container(&name)?;
    built.map(drop)
}

/// The image every server on a Debian release starts from; shared, so it is made once.
fn base(engine: &Engine, suite: &str, say: &dyn Fn(&str)) -> Result<String> {
    let reference = format!("kv-testkit/debian:{suite}");
    if is_built(engine, &reference, BASE) {
        return Ok(reference);
    }
    check_machine()?;
    let mirror = mirror()?;
    say(&format!("{reference}: debootstrap {suite}"));
    let root = Root::new(suite)?;
    let log = root.dir.with_extension("log");
    let out = fs::File::create(&log)?;
    let mut bootstrap = Command::new("debootstrap");
    bootstrap
        .args(["--variant=minbase", "--components=main", suite])
        .arg(&root.dir)
        .arg(&mirror)
        .args(script(suite))
        .stdin(Stdio::null())
        .stdout(out.try_clone()?)
        .stderr(out);
    if let Some(proxy) = apt_proxy()? {
        bootstrap.env("http_proxy", proxy);
    }
    let ended = bootstrap
        .spawn()?
        .controlled()
        .time_limit(LIMIT)
        .terminate_for_timeout()
        .wait()?
        .with_context(|| format!("debootstrap did not end within {LIMIT:?}"))?;
    ensure!(ended.success(), "debootstrap failed; its log is {}", log.display());
    import(&root.dir, &reference, BASE)?;
    fs::remove_file(&log)?;
    Ok(reference)
}

/// The script to make a release by, where debootstrap is older than the release and has none of that
/// name: all releases of Debian are made by the same one.
fn script(suite: &str) -> Option<PathBuf> {
    let scripts = Path::new("/usr/share/debootstrap/scripts");
    (!scripts.join(suite).exists()).then(|| scripts.join("sid"))
}

fn import(root: &Path, reference: &str, hash: &str) -> Result<()> {
    let mut tar = Command::new("tar")
        .args(["--create", "--numeric-owner", "--directory"])
        .arg(root)
        .arg(".")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .context("cannot run tar")?;
    let archive = tar.stdout.take().context("tar has no output")?;
    let label = format!("LABEL {RECIPE}={hash}");
    let imported = Command::new("docker")
        .args(["import", "--change", &label, "-", reference])
        .stdin(archive)
        .output()?;
    ensure!(tar.wait()?.success(), "tar failed on {}", root.display());
    let said = String::from_utf8_lossy(&imported.stderr);
    ensure!(imported.status.success(), "docker import failed: {}", said.trim());
    Ok(())
}

fn check_machine() -> Result<()> {
    if Command::new("debootstrap").arg("--version").output().is_err() {
        bail!("debootstrap is missing: `apt-get install debootstrap` brings it");
    }
    let user = output("id", &["-u"])?;
    ensure!(user == "0", "debootstrap needs root: run `cargo xtask images` as root");
    Ok(())
}

/// The Debian mirror this machine's apt uses, so that the images come the same way.
fn mirror() -> Result<String> {
    if let Ok(mirror) = std::env::var("KV_DEBIAN_MIRROR") {
        return Ok(mirror);
    }
    let format = ["indextargets", "--format", "$(REPO_URI)", "Created-By: Packages"];
    let mirrors = output("apt-get", &format)?;
    let mirror = mirrors.lines().find(|uri| uri.trim_end_matches('/').ends_with("/debian"));
    mirror.map(str::to_owned).context(
        "apt on this machine knows no Debian mirror (an address that ends in /debian): \
         name one in KV_DEBIAN_MIRROR",
    )
}

/// How this machine's apt fetches (proxies, retries, date checks), for apt in the image.
fn apt_settings() -> Result<String> {
    let all = output("apt-config", &["dump", "Acquire"])?;
    let wanted = ["Acquire::http", "Acquire::https", "Acquire::Check-", "Acquire::Retries"];
    let lines = all.lines().filter(|line| wanted.iter().any(|start| line.starts_with(start)));
    Ok(lines.collect::<Vec<_>>().join("\n"))
}

fn apt_proxy() -> Result<Option<String>> {
    let line = output("apt-config", &["dump", "--format", "%v%n", "Acquire::http::Proxy"])?;
    Ok((!line.is_empty() && line != "DIRECT").then_some(line))
}

fn output(program: &str, args: &[&str]) -> Result<String> {
    let output = Command::new(program)
        .args(args)
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("cannot run {program}"))?;
    ensure!(output.status.success(), "{program} failed");
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

/// The folder a release is unpacked into; removed when dropped.
struct Root {
    dir: PathBuf,
}

impl Root {
    fn new(suite: &str) -> Result<Self> {
        let dir = workspace::output_dir("images")?.join(format!("{suite}-{:x}", random()));
        fs::create_dir_all(&dir)?;
        Ok(Self { dir })
    }
}

impl Drop for Root {
    fn drop(&mut self) {
        // An interrupted debootstrap leaves /proc and /sys mounted in there, and what is behind
        // a mount must not be deleted.
        for mounted in ["proc", "sys"] {
            let _ = Command::new("umount").arg(self.dir.join(mounted)).stderr(Stdio::null()).status();
        }
        let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
        if !mounts.contains(&*self.dir.to_string_lossy()) {
            let _ = fs::remove_dir_all(&self.dir);
        }
    }
}
