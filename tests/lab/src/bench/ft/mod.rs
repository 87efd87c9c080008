//! `antipode-lab bench ft`: what protection costs a guest, over any distance, and how long a takeover leaves it silent.
//!
//! ```text
//!  for each RTT, and for each guest (Redis, compute): two sites, a tiebreaker, a client; VM at site-a, twin at site-b
//!
//!    each round, for each load:
//!      unprotected   the load on the VM and on its twin at once, each alone at its site
//!      protected     the twin stands still; `vm protect`, the same load on the VM; `vm unprotect`
//!    at the end, if it is Redis
//!      gap           `vm protect`, a client and a probe every 20 ms; site-a loses its power
//! ```
//!
//! What is measured, and why so:
//! - **The baseline is two independent guests at once**, as the sites are emulated on one machine: a guest that had it to
//!   itself would be faster than either half of a protected one can be. A round's ratio is the protected rate by the mean
//!   of the two others, measured right before; of the rounds' ratios the median counts.
//! - **The twin lives on between rounds**: its process is stopped (`SIGSTOP`) while it is not wanted, so that it takes no
//!   processor from the backup at its site. That costs a round nothing, where `vm stop` and `vm start` would cost it a
//!   boot, and the guest that is compared would be another one each time.
//! - **Each load has a lockstep of its own**, as the product tells holds and echoes since lockstep began: hold and echo are
//!   of the same seconds, and of one load.
//! - **A load** is the same in both: so many clients that write values and read them back (Redis; more of them the longer
//!   the way, or they would wait and not the guest), rounds of a computation with pings beside it (compute, so that there
//!   are outputs to be held), a TCP stream to the guest and from it. A request is a value, a round, 64 KiB.
//! - **Processor time** is what the site's kernel says that all threads of a VM's process ran, by request.
//! - **The way between the sites** is counted by the switch: all frames, heartbeats and echoes with them. The product
//!   tells no bytes of its log.
//! - **Unasked failovers** are changes of the live site in the tiebreaker's record that no power cut explains. A VM that is
//!   not primary, or not green, at the end of a load has lost its protection: that is counted, and the load is not.
//!
//! What could not be measured is a failure with its reason, and its bounds are broken. A stage that failed does not end
//! the others.
//!
//! - [`load`]: what is asked of a guest. - [`stage`]: two sites and what is done there. - [`report`]: figures, bounds, and
//!   their two forms.

mod load;
mod report;
mod stage;

use super::cli::Begun;
use crate::debian::KernelFlavour;
use crate::image::Service;
use crate::scenario::Setup;
use crate::scenario::report::median;
use crate::scenario::sites::{Copies, RTT};
use anyhow::{Context, Result};
use load::Load;
use report::{Plan, Report, Samples, Trial};
use serde_json::json;
use stage::Stage;
use std::process::ExitCode;
use std::time::Duration;

/// Between the sites, in milliseconds.
const RTTS_MS: [u64; 4] = [0, 10, 40, 80];

/// To the other side of the planet and back.
const RTT_MS_MAX: u64 = 200;

#[derive(Debug, clap::Args)]
pub(super) struct FtArgs {
    /// Between the sites, there and back; may be repeated (default: 0, 10, 40 and 80)
    #[arg(long, value_name = "MILLISECONDS", value_parser = clap::value_parser!(u64).range(..=RTT_MS_MAX))]
    rtt_ms: Vec<u64>,
    /// What the guest does; may be repeated (default: all). The gap is measured with any but `compute`
    #[arg(long, value_enum)]
    load: Vec<Load>,
    /// Runs of each load, unprotected and protected
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=100))]
    rounds: u32,
    /// Print one line of JSON last
    #[arg(long)]
    json: bool,
}

impl FtArgs {
    /// What is to be measured: each once, in a fixed order.
    fn plan(&self) -> Plan {
        let mut rtts_ms = self.rtt_ms.clone();
        if rtts_ms.is_empty() {
            rtts_ms.extend(RTTS_MS);
        }
        rtts_ms.sort_unstable();
        rtts_ms.dedup();
        let wanted = |load: &Load| self.load.is_empty() || self.load.contains(load);
        Plan {
            rtts_ms,
            loads: Load::ALL.into_iter().filter(wanted).collect(),
        }
    }
}

/// What is left of a loop's speed.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Looped {
    /// Protected by unprotected, of the rounds the median.
    pub(crate) ratio: f64,
    /// Times that it was stopped to be told of.
    pub(crate) preemptions: u64,
}

/// Measures the guest of `setup`, which computes, so far from its other site.
///
/// # Errors
/// What could not be measured; or its protection was lost.
pub(crate) fn loop_ratio(setup: &Setup, copies: Copies, rounds: u32) -> Result<Looped> {
    let mut samples = Samples::default();
    Stage::play(setup, (RTT, copies), &[Load::Compute], rounds, &mut samples)?;
    let ratios: Option<Vec<f64>> = samples.trials.iter().map(Trial::ratio).collect();
    let protected = samples.trials.iter().filter_map(|trial| trial.protected.as_ref());
    Ok(Looped {
        ratio: median(&ratios.context("the protection was lost")?),
        preemptions: protected.map(|protected| protected.preemptions).sum(),
    })
}

/// Carries the command out. The exit code is 1 if a bound is broken.
pub(super) fn run(args: &FtArgs) -> Result<ExitCode> {
    let plan = args.plan();
    let begun = Begun::now();
    let mut samples = Samples::default();
    for service in [Service::Redis, Service::Compute] {
        let loads = plan.of(service);
        if loads.is_empty() {
            continue;
        }
        let setup = Setup::prepare(service, KernelFlavour::Cloud)?;
        for rtt_ms in &plan.rtts_ms {
            eprintln!("lab: {service}, {rtt_ms} ms between the sites");
            let rtt = Duration::from_millis(*rtt_ms);
            if let Err(error) = Stage::play(
                &setup,
                (rtt, Copies::default()),
                &loads,
                args.rounds,
                &mut samples,
            ) {
                let failure = format!("{service}, {rtt_ms} ms: {error:#}");
                eprintln!("lab: {failure}");
                samples.failures.push(failure);
            }
        }
    }
    let mut beside = json!({
        "rtt_ms": plan.rtts_ms,
        "loads": plan.loads,
        "rounds": args.rounds,
        "failures": samples.failures,
        "trials": samples.trials,
        "gaps": samples.gaps,
    });
    begun.tell(&mut beside);
    Ok(Report::of(&plan, &samples).conclude(args.json, beside))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_is_measured_unless_less_is_asked_for() {
        let mut args = FtArgs {
            rtt_ms: Vec::new(),
            load: Vec::new(),
            rounds: 1,
            json: false,
        };
        let plan = args.plan();
        assert_eq!((plan.rtts_ms, plan.loads), (RTTS_MS.to_vec(), Load::ALL.to_vec()));
        args.rtt_ms = vec![40, 0, 40];
        args.load = vec![Load::Transmit, Load::Redis];
        let plan = args.plan();
        assert_eq!(plan.rtts_ms, [0, 40]);
        assert_eq!(plan.of(Service::Redis), [Load::Redis, Load::Transmit]);
        assert!(plan.of(Service::Compute).is_empty());
    }
}
