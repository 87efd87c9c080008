//! `antipode-lab switch`: the switch as a process of its own.

use super::transport::{Switch, read_config};
use anyhow::Result;
use std::path::PathBuf;

/// Run the switch that joins emulated hosts (the lab starts it itself)
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Seed, control socket and ports, as JSON
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
}

/// Serves until told to stop. Says `ready` on standard output once hosts may be started.
///
/// # Errors
/// A bad configuration, or a socket that cannot be made.
pub fn run(args: &Args) -> Result<()> {
    let switch = Switch::new(&read_config(&args.config)?)?;
    println!("ready");
    Ok(switch.run()?)
}
