//! The playground's commands.

use super::cluster::Cluster;
use super::report;
use super::service::{self, Description};
use super::shell;
use super::topology::{HostPlan, SITES_MAX, TIEBREAKERS_MAX, plan};
use crate::agent::client::Event;
use crate::agent::message::{Request, Run, Stream};
use crate::debian::Cache;
use crate::host::cli::exit_code;
use crate::host::{Host, HostSpec, Materials, RunDirectory};
use crate::switch::client::Client;
use crate::switch::control::Command as SwitchCommand;
use crate::switch::fabric::Way;
use crate::switch::link::ShapeChange;
use crate::switch::units;
use anyhow::{Context, Result, bail};
use nix::sys::signal::{SigSet, Signal};
use serde_json::json;
use std::io::{IsTerminal, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::Instant;

/// Bring two datacenters up and keep them until Ctrl-C
#[derive(Debug, clap::Args)]
pub struct UpArgs {
    /// Site hosts
    #[arg(long, value_name = "N", default_value_t = 2, value_parser = clap::value_parser!(u8).range(1..=i64::from(SITES_MAX)))]
    sites: u8,
    /// Tiebreaker hosts
    #[arg(long, value_name = "N", default_value_t = 0, value_parser = clap::value_parser!(u8).range(0..=i64::from(TIEBREAKERS_MAX)))]
    tiebreakers: u8,
    /// The static `antipode` to install (default: build this workspace's)
    #[arg(long, value_name = "FILE")]
    antipode: Option<PathBuf>,
    /// All chance in the switch follows from it
    #[arg(long, value_name = "SEED", default_value_t = 1)]
    seed: u64,
    /// One JSON object when everything is up, and one at the end
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    name: Name,
}

/// Which playground.
#[derive(Debug, clap::Args)]
struct Name {
    /// The playground's name, when several are up
    #[arg(long, value_name = "NAME", default_value = "default")]
    name: String,
}

/// Open a shell on a host of the playground
#[derive(Debug, clap::Args)]
pub struct ShellArgs {
    /// Such as site-a
    host: String,
    #[command(flatten)]
    name: Name,
}

/// Run one command on a host of the playground, and end with its status
#[derive(Debug, clap::Args)]
pub struct ExecArgs {
    /// Such as site-a
    host: String,
    #[command(flatten)]
    name: Name,
    /// Program and arguments
    #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true)]
    command: Vec<String>,
}

/// Shape a cable: latency, loss, rate, a cut
#[derive(Debug, clap::Args)]
pub struct LinkArgs {
    /// The port, such as site-a.wan
    port: String,
    /// tx (what the host sends) or rx (what it receives); both if absent
    #[arg(long, value_parser = parse_way)]
    way: Option<Way>,
    /// Such as 20ms
    #[arg(long, value_name = "TIME", value_parser = units::micros)]
    latency: Option<u64>,
    /// Uniform around the latency, such as 2ms
    #[arg(long, value_name = "TIME", value_parser = units::micros)]
    jitter: Option<u64>,
    /// Such as 0.5%
    #[arg(long, value_name = "SHARE", value_parser = units::parts_per_million)]
    loss: Option<u32>,
    /// Such as 0.5%
    #[arg(long, value_name = "SHARE", value_parser = units::parts_per_million)]
    duplicate: Option<u32>,
    /// Share of frames that later ones overtake
    #[arg(long, value_name = "SHARE", value_parser = units::parts_per_million)]
    reorder: Option<u32>,
    /// How long those are held back
    #[arg(long, value_name = "TIME", value_parser = units::micros)]
    hold: Option<u64>,
    /// Such as 100mbit, or unlimited
    #[arg(long, value_name = "RATE", value_parser = units::bits_per_second)]
    rate: Option<u64>,
    /// Bytes that may wait for a limited rate
    #[arg(long, value_name = "BYTES")]
    queue: Option<u64>,
    /// Let nothing pass
    #[arg(long, conflicts_with = "heal")]
    cut: bool,
    /// Mend a cut
    #[arg(long)]
    heal: bool,
    /// First make it a perfect cable
    #[arg(long)]
    clear: bool,
    #[command(flatten)]
    name: Name,
}

/// Show every cable: shape and counters
#[derive(Debug, clap::Args)]
pub struct LinksArgs {
    /// As one JSON object
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    name: Name,
}

/// Capture frames into a pcapng file
#[derive(Debug, clap::Args)]
pub struct CaptureArgs {
    #[command(subcommand)]
    action: CaptureAction,
    #[command(flatten)]
    name: Name,
}

#[derive(Debug, clap::Subcommand)]
enum CaptureAction {
    /// Begin
    Start {
        /// Must not exist
        file: PathBuf,
        /// Only these ports
        ports: Vec<String>,
    },
    /// End; the file is then complete
    Stop,
}

fn parse_way(text: &str) -> Result<Way, String> {
    match text {
        "tx" => Ok(Way::Tx),
        "rx" => Ok(Way::Rx),
        _ => Err("write tx (what the host sends) or rx (what it receives)".to_owned()),
    }
}

/// What can end the wait in [`up`].
enum Happening {
    Up(Box<crate::host::Result<Cluster>>),
    Interrupted,
}

/// Brings a playground up and keeps it until interrupted.
///
/// # Errors
/// If it does not come up; its logs are then kept.
pub fn up(args: &UpArgs) -> Result<ExitCode> {
    let materials = match &args.antipode {
        Some(path) => Materials::with_antipode(path)?,
        None => Materials::prepare()?,
    };
    let description = Description::path(&materials.lab_directory, &args.name.name);
    let run = Arc::new(RunDirectory::create(&materials.lab_directory, &args.name.name)?);
    let plans = plan(args.sites, args.tiebreakers);
    let specs: Vec<HostSpec> = plans.iter().map(|plan| Cluster::spec(plan, &run)).collect();
    eprintln!("lab: booting {} hosts", plans.len());
    let started = Instant::now();
    let happenings = watch_signals()?;
    let (booting, seed) = (Arc::clone(&run), args.seed);
    let (booted_plans, up_sender) = (plans.clone(), happenings.0.clone());
    thread::spawn(move || {
        let cluster = Cluster::boot(&materials, &booted_plans, &specs, &booting, seed);
        drop(booting);
        up_sender.send(Happening::Up(Box::new(cluster)))
    });
    let cluster = match happenings.1.recv()? {
        Happening::Up(cluster) => (*cluster)?,
        Happening::Interrupted => {
            run.abandon();
            bail!("interrupted while booting");
        }
    };
    let cluster = open_doors(cluster, &run, &description)?;
    announce(args, &plans, &cluster, &run, started);
    while !matches!(happenings.1.recv()?, Happening::Interrupted) {}
    drop(cluster);
    // It may have been replaced by a newer playground of this name; both ends of that are an operator's mistake.
    let _ = std::fs::remove_file(&description);
    if let Some(run) = Arc::into_inner(run) {
        run.finish();
    }
    if args.json {
        println!(
            "{}",
            json!({ "ok": true, "hosts": plans.len(), "up_s": started.elapsed().as_secs_f64() })
        );
    } else {
        eprintln!("lab: everything is down");
    }
    Ok(ExitCode::SUCCESS)
}

/// Turns Ctrl-C and SIGTERM into a [`Happening`]. Call before other threads start: they inherit the mask.
fn watch_signals() -> Result<(mpsc::Sender<Happening>, mpsc::Receiver<Happening>)> {
    let signals: SigSet = [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP]
        .into_iter()
        .collect();
    signals.thread_block()?;
    let (sender, receiver) = mpsc::channel();
    let interrupted = sender.clone();
    thread::spawn(
        move || {
            while signals.wait().is_ok() && interrupted.send(Happening::Interrupted).is_ok() {}
        },
    );
    Ok((sender, receiver))
}

fn open_doors(cluster: Cluster, run: &RunDirectory, path: &std::path::Path) -> Result<Cluster> {
    let control = run.socket("control");
    let agents = cluster
        .hosts
        .iter()
        .map(|(name, host)| (name.clone(), host.agent().clone()))
        .collect();
    service::serve(&control, agents)?;
    let description = Description {
        pid: std::process::id(),
        control,
        switch: cluster.switch.control().to_owned(),
        run: run.path().to_owned(),
        hosts: cluster.hosts.keys().cloned().collect(),
    };
    description.write(path)?;
    Ok(cluster)
}

fn announce(args: &UpArgs, plans: &[HostPlan], cluster: &Cluster, run: &RunDirectory, started: Instant) {
    let slowest = cluster
        .hosts
        .values()
        .map(Host::boot_time)
        .max()
        .unwrap_or_default();
    if args.json {
        let summary = json!({
            "ok": true,
            "hosts": plans,
            "boot_s": slowest.as_secs_f64(),
            "switch": cluster.switch.control(),
            "run": run.path(),
        });
        println!("{summary}");
        // A pipe buffers: whoever waits for this line must get it now. A closed pipe has nobody waiting.
        let _ = std::io::stdout().flush();
        return;
    }
    println!("Up in {:.1} s.\n", started.elapsed().as_secs_f32());
    print!("{}", report::hosts(plans, &run.path().display().to_string()));
    let _ = std::io::stdout().flush();
}

fn description(name: &Name) -> Result<Description> {
    Description::read(Cache::of_workspace()?.root(), &name.name)
}

fn switch(name: &Name) -> Result<Client> {
    Ok(Client::connect(&description(name)?.switch)?)
}

/// Opens a shell.
///
/// # Errors
/// If the playground or the host is not there.
pub fn shell(args: &ShellArgs) -> Result<ExitCode> {
    let agent = service::connect(&description(&args.name)?, &args.host)?;
    if !std::io::stdin().is_terminal() {
        bail!(
            "standard input is no terminal; use `cargo lab exec {} -- COMMAND`",
            args.host
        );
    }
    Ok(exit_code(shell::shell(&agent)?))
}

/// Runs one command; standard input feeds it.
///
/// # Errors
/// If the playground or the host is not there, or the command cannot be started.
pub fn exec(args: &ExecArgs) -> Result<ExitCode> {
    let agent = service::connect(&description(&args.name)?, &args.host)?;
    let run = Run {
        argv: args.command.clone(),
        ..Run::default()
    };
    let mut channel = agent.open(Request::Run(run))?;
    let input = channel.input();
    thread::spawn(move || {
        let mut buffer = vec![0; 32 * 1024];
        while let Ok(length @ 1..) = std::io::Read::read(&mut std::io::stdin(), &mut buffer) {
            if input.send(&buffer[..length]).is_err() {
                return;
            }
        }
        // The command may have ended first.
        let _ = input.end();
    });
    loop {
        match channel.next()? {
            Event::Data(Stream::Error, bytes) => std::io::stderr().write_all(&bytes)?,
            Event::Data(_, bytes) => {
                std::io::stdout()
                    .write_all(&bytes)
                    .and_then(|()| std::io::stdout().flush())?;
            }
            Event::Exit(status) => return Ok(exit_code(status)),
        }
    }
}

/// Shapes a cable.
///
/// # Errors
/// If the playground or the port is not there, or the shape cannot be meant.
pub fn link(args: &LinkArgs) -> Result<()> {
    let mut client = switch(&args.name)?;
    if args.clear {
        client.send(&SwitchCommand::Clear {
            port: Some(args.port.clone()),
            way: args.way,
        })?;
    }
    let cut = (args.cut || args.heal).then_some(args.cut);
    let change = ShapeChange {
        cut,
        latency_us: args.latency,
        jitter_us: args.jitter,
        loss_ppm: args.loss,
        duplicate_ppm: args.duplicate,
        reorder_ppm: args.reorder,
        reorder_hold_us: args.hold,
        bandwidth_bps: args.rate,
        queue_bytes: args.queue,
    };
    if change == ShapeChange::default() && !args.clear {
        bail!("nothing to change: give --latency, --loss, --rate, --cut … (see --help)");
    }
    Ok(client.shape(&args.port, args.way, change)?)
}

/// Shows every cable.
///
/// # Errors
/// If the playground is not there.
pub fn links(args: &LinksArgs) -> Result<()> {
    let ports = switch(&args.name)?.ports()?;
    if args.json {
        println!("{}", json!({ "ok": true, "ports": ports }));
    } else {
        print!("{}", report::links(&ports));
    }
    Ok(())
}

/// Begins or ends a capture.
///
/// # Errors
/// If the playground is not there or the file cannot be made.
pub fn capture(args: &CaptureArgs) -> Result<()> {
    let mut client = switch(&args.name)?;
    match &args.action {
        CaptureAction::Start { file, ports } => {
            let file = std::path::absolute(file).with_context(|| file.display().to_string())?;
            let ports = (!ports.is_empty()).then(|| ports.clone());
            client.send(&SwitchCommand::CaptureStart { file, ports })?;
        }
        CaptureAction::Stop => {
            let frames = client
                .send(&SwitchCommand::CaptureStop)?
                .captured_frames
                .unwrap_or_default();
            println!("{frames} frames captured");
        }
    }
    Ok(())
}
