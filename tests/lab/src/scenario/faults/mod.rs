//! `cargo lab faults`: a protected VM, a client, and everything that goes wrong around them.
//!
//! ```text
//!   boot once ─▶ [ protect ─▶ client writes ─▶ break, wait, mend ─▶ client reads back ─▶ judge ─▶ mend all, protect, compare ] …
//!             ─▶ stop in order ─▶ both replicas, byte for byte
//! ```
//!
//! The scenarios are data (`table`), each is played with one or more seeds, and each alone by its name and seed. Hosts
//! live on from one to the next: the loser of one is the backup of the other. A scenario that could not be played to its
//! end, or that leaves something behind that cannot be mended, is a violation too, and the next one gets fresh hosts.
//!
//! - `plan`: what a scenario is made of. - `table`: the scenarios. - `campaign`: how they are played. - `breaking`: how
//!   a fault is made. - `by_hand`: what operators do. - `verdict`: what of it breaks a promise.

mod breaking;
mod by_hand;
mod campaign;
mod plan;
mod table;
mod verdict;

use super::Setup;
use super::report::{Form, conclude};
use super::sites::Copies;
use crate::debian::KernelFlavour;
use crate::image::Service;
use anyhow::{Result, bail, ensure};
use campaign::Campaign;
use plan::Scenario;
use serde::Serialize;
use std::ops::Range;
use std::process::ExitCode;
use std::time::Instant;

/// Break two datacenters in every way while a client writes to a protected VM
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Only the subset for every change
    #[arg(long)]
    quick: bool,
    /// Only this one; may be given again
    #[arg(long, value_name = "NAME", conflicts_with = "quick")]
    scenario: Vec<String>,
    /// What the choices are drawn from
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// How many seeds, from that one on, each scenario is played with
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..))]
    seeds: u64,
    #[command(flatten)]
    copies: Copies,
    /// What the guest runs
    #[arg(long, value_enum, default_value = "redis")]
    service: Service,
    #[command(flatten)]
    form: Form,
}

/// What came of it.
#[derive(Debug, Clone, PartialEq, Serialize)]
struct Summary {
    ok: bool,
    /// Pairs of scenario and seed that were played.
    scenarios: u64,
    /// Copies that differed and were repaired, as far as their processes still told at the end of a scenario.
    repairs: u64,
    /// Sites that were refused to go live with such a copy.
    refused: u64,
    violations: usize,
    took_s: u64,
}

/// Plays what was asked for and says what it has shown.
#[must_use]
pub fn run(args: &Args) -> ExitCode {
    conclude(args.form, play(args), |summary| {
        format!(
            "{} times something was broken: nothing that the client was told was lost, and never were two sites live.",
            summary.scenarios
        )
    })
}

fn play(args: &Args) -> Result<Summary> {
    let scenarios = chosen(args)?;
    let setup = Setup::prepare(args.service, KernelFlavour::Cloud)?;
    let begun = Instant::now();
    let seeds = args.seed..args.seed.saturating_add(args.seeds);
    let tally = play_all(&setup, &scenarios, seeds, args.copies)?;
    ensure!(
        tally.violations.is_empty(),
        "{} violations in {} scenarios:\n{}",
        tally.violations.len(),
        tally.played,
        tally.violations.join("\n")
    );
    Ok(Summary {
        ok: true,
        scenarios: tally.played,
        repairs: tally.repairs,
        refused: tally.refused,
        violations: tally.violations.len(),
        took_s: begun.elapsed().as_secs(),
    })
}

/// Plays the scenarios of these names with each of `seeds`, stops the VM in order, and compares its replicas.
pub(crate) fn play_named(setup: &Setup, names: &[&str], seeds: Range<u64>, copies: Copies) -> Result<Tally> {
    play_all(setup, &named(names)?, seeds, copies)
}

fn play_all(setup: &Setup, scenarios: &[&Scenario], seeds: Range<u64>, copies: Copies) -> Result<Tally> {
    let mut tally = Tally::default();
    let mut campaign = None;
    for seed in seeds {
        for scenario in scenarios {
            campaign = tally.play(setup, campaign, scenario, (seed, copies))?;
        }
    }
    if let Some(mut campaign) = campaign {
        eprintln!("lab: the VM stops in order, and its replicas are compared");
        match campaign.compare_replicas() {
            Ok(0) => campaign.finish(),
            Ok(leaves) => tally
                .violations
                .push(format!("in the end, the replicas differ in {leaves} leaves")),
            Err(error) => tally
                .violations
                .push(format!("comparing the replicas: {error:#}")),
        }
    }
    if copies.differ() && tally.repairs == 0 {
        tally
            .violations
            .push("copies were made to differ, and none was repaired".to_owned());
    }
    Ok(tally)
}

fn chosen(args: &Args) -> Result<Vec<&'static Scenario>> {
    if !args.scenario.is_empty() {
        return named(&args.scenario);
    }
    Ok(table::all()
        .filter(|scenario| scenario.quick || !args.quick)
        .collect())
}

/// Those of these names, in the table's order.
fn named<S: AsRef<str>>(names: &[S]) -> Result<Vec<&'static Scenario>> {
    let known = |name: &str| table::all().any(|scenario| scenario.name == name);
    if let Some(name) = names.iter().map(AsRef::as_ref).find(|name| !known(name)) {
        let names: Vec<&str> = table::all().map(|scenario| scenario.name).collect();
        bail!("no scenario {name}; there are: {}", names.join(", "));
    }
    let is_named = |scenario: &&Scenario| names.iter().any(|name| name.as_ref() == scenario.name);
    Ok(table::all().filter(is_named).collect())
}

/// What came of scenarios.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    /// How many were played.
    pub(crate) played: u64,
    /// Copies that differed and were repaired, as far as their processes still told at the end of a scenario.
    pub(crate) repairs: u64,
    /// Sites that were refused to go live with a copy that differed.
    pub(crate) refused: u64,
    /// What broke a promise.
    pub(crate) violations: Vec<String>,
}

impl Tally {
    /// Plays one scenario on `campaign`, or on a fresh one; the campaign, if it is fit for the next.
    fn play<'a>(
        &mut self,
        setup: &'a Setup,
        campaign: Option<Campaign<'a>>,
        scenario: &Scenario,
        (seed, copies): (u64, Copies),
    ) -> Result<Option<Campaign<'a>>> {
        let begun = Instant::now();
        let mut campaign = match campaign {
            Some(campaign) => campaign,
            None => Campaign::open(setup, seed, copies)?,
        };
        self.played += 1;
        let name = format!("{} --seed {seed}", scenario.name);
        let mut told = 0;
        let violations = match campaign.play(scenario, seed) {
            Ok((found, hit)) => {
                told = found.judgement.told;
                let violations = found.violations(scenario);
                let told = if violations.is_empty() {
                    "holds"
                } else {
                    "VIOLATED"
                };
                eprintln!(
                    "lab: {name:<44} {told}; at {hit}, live {:?}, {} acknowledged, silences {} ms (TCP) and {} ms (UDP), \
                     {} late frames that both have made, {:.0} s",
                    found.granted,
                    found.client.sequence.acked,
                    found.client.sequence.gap_ms_max,
                    found.client.probe.gap_ms_max,
                    found.judgement.echoes,
                    begun.elapsed().as_secs_f32()
                );
                if let Some(why) = &found.refused {
                    self.refused += 1;
                    eprintln!("lab: {name:<44} the other site was refused to go live: {why}");
                }
                violations
            }
            Err(error) => {
                eprintln!("lab: {name:<44} NOT PLAYED to its end: {error:#}");
                vec![format!("it could not be played to its end: {error:#}")]
            }
        };
        if !violations.is_empty() {
            campaign.collect_logs();
        }
        if copies.differ() {
            let (repairs, last) = campaign.repairs();
            eprintln!(
                "lab: {name:<44} {repairs} repairs, {told} frames known by their digests; the last: {last}"
            );
            self.repairs += repairs;
        }
        let mended = campaign.mend().and_then(|()| match violations.is_empty() {
            true => campaign.equal_replicas(),
            false => Ok(()),
        });
        let is_fit = violations.is_empty() && mended.is_ok();
        self.violations.extend(
            violations
                .into_iter()
                .map(|violation| format!("{name}: {violation}")),
        );
        if let Err(error) = mended {
            self.violations.push(format!("{name}: what it left: {error:#}"));
        }
        Ok(is_fit.then_some(campaign))
    }
}
