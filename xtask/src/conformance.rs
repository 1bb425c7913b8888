//! `cargo xtask conformance`: the shared suite, and the fault tests, against real servers.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use kv_testkit::{Cluster, Engine, ImagePolicy, Servers, Tier, image, workspace};

use crate::backend;
use crate::capabilities::Declarations;
use crate::executables::Executable;
use crate::job::{self, TEST_LIMIT};
use crate::plan::{Item, Setup};
use crate::report::{Faults, NotRun, Outcome, Part, Report, Tested};
use crate::tally::Tally;

/// Run the conformance suite and the fault tests against servers in containers.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Args {
    /// Backends to test, separated by commas; all of them if not given
    #[arg(long, value_name = "NAMES", value_delimiter = ',')]
    pub(crate) backend: Vec<String>,
    /// Where servers come from: started here, or named by KV_ETCD_URL and its like
    #[arg(long, value_enum, default_value_t = Provider::Docker)]
    pub(crate) provider: Provider,
    /// Images to use: whatever is here (auto), upstream or debian
    #[arg(long, value_name = "SOURCE", default_value_t = ImagePolicy::Auto)]
    pub(crate) images: ImagePolicy,
    /// commit: one version of each server, one node, fast faults; nightly: every version that Debian
    /// packages; upstream: those too that only public images bring
    #[arg(long, default_value_t = Tier::Commit)]
    pub(crate) tier: Tier,
    /// Only these versions of servers, separated by commas, one node of each whatever its tier
    #[arg(long, value_name = "VERSIONS", value_delimiter = ',')]
    pub(crate) server_version: Vec<String>,
    /// Fail on whatever would be skipped
    #[arg(long)]
    pub(crate) require: bool,
    /// Only cases with this in their name; leaves the fault tests out
    #[arg(long, value_name = "TEXT")]
    pub(crate) filter: Option<String>,
    /// The seed of the suite's random choices
    #[arg(long)]
    pub(crate) seed: Option<String>,
    /// Write all outcomes to this file, as JSON
    #[arg(long, value_name = "FILE")]
    pub(crate) report: Option<PathBuf>,
    /// Write the README's table of capabilities anew from what the stores declare
    #[arg(long)]
    pub(crate) write_table: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Provider {
    Docker,
    External,
}

pub(crate) fn run(args: Args) -> Result<ExitCode> {
    job::run(async move {
        let tally = conform(&args).await?;
        println!("{tally}");
        Ok(if tally.failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    })
}

/// Does what the arguments say and tells how it went, all but the closing line.
pub(crate) async fn conform(args: &Args) -> Result<Tally> {
    let start = Instant::now();
    let items = Item::build_all(backend::named(&args.backend)?, args.tier).await?;
    let built = start.elapsed();
    let mut run =
        Run { args, report: Report::default(), summary: Vec::new(), declarations: Declarations::default() };
    for item in &items {
        match (&item.backend.spec, args.provider) {
            (None, _) => run.suite(item, &Target::default()).await?,
            (Some(_), Provider::External) => run.external(item).await?,
            (Some(_), Provider::Docker) => run.docker(item).await?,
        }
    }
    let mut backends: Vec<_> = items.iter().map(|item| &item.backend.name).collect();
    backends.dedup();
    run.check_table(backends.len())?;
    run.finish(start.elapsed(), built)
}

/// Where a suite runs.
#[derive(Default)]
struct Target<'a> {
    url: Option<String>,
    cluster: Option<&'a Cluster>,
    image: String,
    /// What a person reads.
    place: String,
}

struct Run<'a> {
    args: &'a Args,
    report: Report,
    summary: Vec<String>,
    declarations: Declarations,
}

impl Run<'_> {
    async fn external(&mut self, item: &Item) -> Result<()> {
        let Some(spec) = &item.backend.spec else { return Ok(()) };
        match std::env::var(&spec.url_env) {
            Ok(url) => {
                let url = item.variant.add_to(&url);
                let place = format!("{} at {}", item.label(), spec.url_env);
                self.suite(item, &Target { url: Some(url), place, ..Target::default() }).await?;
            }
            Err(_) => self.not_run(item.label(), format!("{} is not set", spec.url_env)),
        }
        Ok(())
    }

    async fn docker(&mut self, item: &Item) -> Result<()> {
        let engine = match Engine::detect() {
            Ok(engine) => engine,
            Err(error) => {
                self.not_run(item.label(), format!("{error:#}"));
                return Ok(());
            }
        };
        let mut faults_done = Vec::new();
        for setup in item.setups(self.args.tier, &self.args.server_version)? {
            let servers = match self.servers(&engine, item, &setup) {
                Ok(servers) => servers,
                Err(error) => {
                    self.not_run(place(item, &setup), format!("{error:#}"));
                    continue;
                }
            };
            self.suite_on(item, &setup, &servers).await?;
            // Fault tests start what they need, so one run for each version is enough.
            if self.args.filter.is_none() && !faults_done.contains(&setup.version) {
                self.faults(item, &setup).await?;
                faults_done.push(setup.version);
            }
        }
        Ok(())
    }

    fn servers(&self, engine: &Engine, item: &Item, setup: &Setup) -> Result<Servers> {
        let spec = item.backend.spec.clone().context("a backend without servers")?;
        let version = spec.version(&setup.version)?.clone();
        let say = |what: &str| println!("{what}");
        let image = image::provide(engine, &spec, &version, self.args.images, &say)?;
        Ok(Servers::new(engine.clone(), spec, &version, image)
            .nodes(setup.nodes)
            .variant(item.variant.clone()))
    }

    async fn suite_on(&mut self, item: &Item, setup: &Setup, servers: &Servers) -> Result<()> {
        let cluster = match servers.start().await {
            Ok(cluster) => cluster,
            Err(error) => {
                self.failed(&place(item, setup), &format!("{error:#}"));
                return Ok(());
            }
        };
        let target = Target {
            url: Some(cluster.url()?),
            cluster: Some(&cluster),
            image: servers.image().to_string(),
            place: place(item, setup),
        };
        self.suite(item, &target).await
    }

    /// Runs the suite's program once and takes its report in.
    async fn suite(&mut self, item: &Item, target: &Target<'_>) -> Result<()> {
        let (Some(program), _) = item.programs() else {
            self.failed(&item.label(), "its conformance program was not built");
            return Ok(());
        };
        let label = item.label();
        let place = if target.place.is_empty() { &label } else { &target.place };
        println!("\n{label}: conformance on {place} {}", target.image);
        let file = workspace::output_dir("reports")?.join(format!("{}.json", file_name(place)));
        let _ = std::fs::remove_file(&file);
        let mut command = job::test_program(&program.path, &program.dir);
        command.arg("--report").arg(&file).envs(self.env(item));
        if let Some(filter) = &self.args.filter {
            command.args(["--filter", filter]);
        }
        if let Some(seed) = &self.args.seed {
            command.args(["--seed", seed]);
        }
        if let (Some(url), Some(spec)) = (&target.url, &item.backend.spec) {
            command.env(&spec.url_env, url);
        }
        let start = Instant::now();
        let ended = tokio::time::timeout(TEST_LIMIT, job::status(command)).await;
        let took = start.elapsed();
        let failure = match ended {
            Err(_) => Some(format!("it ran longer than {TEST_LIMIT:?} and was ended")),
            Ok(status) => {
                let status = status?;
                (!status.success()).then(|| status.to_string())
            }
        };
        let part = Part::read(&file);
        let counted = part.as_ref().is_ok_and(|part| part.tally().failed > 0);
        match part {
            Ok(part) => self.take_in(item, target, place, part, took),
            Err(error) if failure.is_none() => self.failed(place, &format!("{error:#}")),
            Err(_) => {}
        }
        if let Some(failure) = &failure {
            // Failed cases say so themselves; this is for a program that ended otherwise.
            if !counted {
                self.failed(place, failure);
            }
        }
        if let (true, Some(cluster)) = (counted || failure.is_some(), target.cluster) {
            for log in cluster.save_logs().await? {
                println!("server log kept: {}", log.display());
            }
        }
        Ok(())
    }

    fn take_in(&mut self, item: &Item, target: &Target<'_>, place: &str, part: Part, took: Duration) {
        let tally = part.tally();
        let absent = part.count(Outcome::NotApplicable);
        let dishonest = part.count(Outcome::Dishonest);
        let server = &part.server;
        self.summary.push(format!(
            "{place} [{server}]: {tally}, {absent} not applicable, {dishonest} dishonest, {took:.1?}"
        ));
        self.add(tally);
        self.report.suite = part.suite;
        self.declarations.add(item, part.declared.clone());
        self.report.backends.push(Tested {
            name: item.backend.name.clone(),
            variant: item.variant.name.clone(),
            server: part.server,
            declared: part.declared,
            nodes: target.cluster.map_or(0, |cluster| cluster.nodes().len()),
            image: target.image.clone(),
            seed: part.seed,
            ms: u64::try_from(took.as_millis()).unwrap_or(u64::MAX),
            cases: part.cases,
        });
    }

    async fn faults(&mut self, item: &Item, setup: &Setup) -> Result<()> {
        let (_, programs) = item.programs();
        for program in programs {
            let (tally, skips) = self.fault_tests(item, setup, program).await?;
            let what = format!("{} {} {}", item.label(), setup.version, program.target);
            self.summary.push(format!("{what}: {tally}"));
            self.add(tally);
            self.report.faults.push(Faults {
                name: item.label(),
                version: setup.version.clone(),
                target: program.target.clone(),
                passed: tally.passed,
                failed: tally.failed,
                skipped: tally.skipped,
            });
            for why in skips {
                self.report.not_run.push(NotRun { what: what.clone(), why });
            }
        }
        Ok(())
    }

    async fn fault_tests(
        &self,
        item: &Item,
        setup: &Setup,
        program: &Executable,
    ) -> Result<(Tally, Vec<String>)> {
        println!("\n{}: {} on version {}", item.label(), program.target, setup.version);
        let mut command = job::test_program(&program.path, &program.dir);
        command.envs(self.env(item)).env("KV_SERVER_VERSION", &setup.version);
        job::tests_with_skips(command).await
    }

    fn env(&self, item: &Item) -> BTreeMap<String, String> {
        let mut env = item.variant.env.clone();
        env.insert("KV_TIER".into(), self.args.tier.to_string());
        env.insert("KV_IMAGES".into(), self.args.images.to_string());
        env.insert("KV_VARIANT".into(), item.variant.name.clone());
        env.insert("KV_REQUIRE".into(), u8::from(self.args.require).to_string());
        env
    }

    fn add(&mut self, tally: Tally) {
        self.report.passed += tally.passed;
        self.report.failed += tally.failed;
        self.report.skipped += tally.skipped;
    }

    fn failed(&mut self, what: &str, why: &str) {
        println!("FAILED: {what}: {why}");
        self.summary.push(format!("{what}: FAILED: {why}"));
        self.add(Tally::ONE_FAILED);
        self.report.not_run.push(NotRun { what: what.to_owned(), why: why.to_owned() });
    }

    fn not_run(&mut self, what: String, why: String) {
        if self.args.require {
            return self.failed(&what, &format!("it must run (--require): {why}"));
        }
        self.summary.push(format!("{what}: skipped: {why}"));
        self.add(Tally::skipped(1));
        self.report.not_run.push(NotRun { what, why });
    }

    /// The README's table says what the stores declare; a server from elsewhere may be set up otherwise.
    fn check_table(&mut self, backends: usize) -> Result<()> {
        if self.args.provider == Provider::External {
            return Ok(());
        }
        let declarations = std::mem::take(&mut self.declarations);
        if self.args.write_table {
            return declarations.write(backends);
        }
        for difference in declarations.differences()? {
            self.failed("capabilities", &difference);
        }
        Ok(())
    }

    /// Prints the summary, writes the report.
    fn finish(mut self, took: Duration, built: Duration) -> Result<Tally> {
        match self.report.suite.as_str() {
            "" => println!("\nconformance: no suite ran"),
            version => println!("\nconformance, suite {version}:"),
        }
        for line in &self.summary {
            println!("  {line}");
        }
        let budget = budget(self.args.tier);
        let over = if took > budget { ", OVER BUDGET" } else { "" };
        println!(
            "tier {}: {} of {} used{over}; building took {}",
            self.args.tier,
            minutes(took),
            minutes(budget),
            minutes(built)
        );
        self.report.tier = self.args.tier.to_string();
        self.report.seconds = took.as_secs();
        if let Some(file) = &self.args.report {
            write_report(file, &self.report)?;
        }
        let Report { passed, failed, skipped, .. } = self.report;
        Ok(Tally { passed, failed, skipped })
    }
}

fn write_report(file: &Path, report: &Report) -> Result<()> {
    let text = serde_json::to_string_pretty(report)?;
    std::fs::write(file, text).with_context(|| format!("cannot write {}", file.display()))
}

/// What a tier may take on two cores, from a cold build.
fn budget(tier: Tier) -> Duration {
    let minutes = match tier {
        Tier::Commit => 25,
        Tier::Nightly | Tier::Upstream => 120,
    };
    Duration::from_secs(60 * minutes)
}

pub(crate) fn minutes(time: Duration) -> String {
    format!("{}:{:02} min", time.as_secs() / 60, time.as_secs() % 60)
}

fn place(item: &Item, setup: &Setup) -> String {
    let nodes = if setup.nodes == 1 { "1 node".to_owned() } else { format!("{} nodes", setup.nodes) };
    format!("{} {}, {nodes}", item.label(), setup.version)
}

fn file_name(place: &str) -> String {
    place.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '-' }).collect()
}
