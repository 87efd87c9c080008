//! `antipode site`: the supervisor of a site, and the processes that it starts.

use std::io::Write;
use std::path::PathBuf;
use std::sync::Arc;

use antipode_certs::Name;
use clap::Subcommand;
use serde_json::json;

use super::exit_code::ExitCode;
use super::failure::{Failure, Problem, written};
use super::signals::Signals;
use super::time_of_day::TimeOfDay;
use crate::site::config::SiteConfig;
use crate::site::guest::process;
use crate::site::peer::Prepare;
use crate::site::supervisor::Supervisor;

/// What was typed after `antipode site`.
#[derive(Debug, Subcommand)]
pub(super) enum SiteCommand {
    /// Serve this site: its VMs' processes are started here, and the other site's supervisor is answered. A signal ends
    /// it; VMs go on.
    Run {
        /// The site's configuration file.
        #[arg(long, value_name = "FILE")]
        config: PathBuf,
    },
    /// The process of one VM; the supervisor starts it.
    #[command(hide = true)]
    Vm {
        /// The site's configuration file.
        #[arg(long, value_name = "FILE")]
        config: PathBuf,
        /// The VM.
        #[arg(long)]
        name: String,
        /// As whose copy it begins.
        #[arg(long, value_name = "JSON")]
        join: Option<String>,
    },
}

/// Carries out `command`.
pub(super) fn site(command: &SiteCommand, json: bool, output: &mut dyn Write) -> Result<ExitCode, Failure> {
    match command {
        SiteCommand::Run { config } => {
            let signals = Signals::block()?;
            signals.once(|| std::process::exit(i32::from(ExitCode::Done.number())));
            let path = config;
            let config = SiteConfig::load(path)?;
            let listen = config.listen;
            let supervisor = Supervisor::new(config, path, Arc::new(TimeOfDay)).map_err(refused)?;
            let mut told = Ok(());
            let served = supervisor.serve(|| {
                told = written(
                    if json {
                        writeln!(
                            output,
                            "{}",
                            json!({ "ready": true, "listen": listen.to_string() })
                        )
                    } else {
                        writeln!(output, "the site listens on {listen}")
                    }
                    .and_then(|()| output.flush()),
                );
            });
            served.map_err(refused).and(told).map(|()| ExitCode::Done)
        }
        SiteCommand::Vm { config, name, join } => {
            let signals = Signals::block()?;
            let config = SiteConfig::load(config)?;
            let name: Name = name
                .parse()
                .map_err(|error: antipode_certs::IdentityError| refused(error.to_string()))?;
            let join: Option<Prepare> = match join {
                Some(text) => Some(serde_json::from_str(text).map_err(|error| refused(error.to_string()))?),
                None => None,
            };
            let terminate = |end: Box<dyn FnOnce() + Send>| signals.once(end);
            process::run(config, name, join, Arc::new(TimeOfDay), terminate).map_err(refused)?;
            Ok(ExitCode::Done)
        }
    }
}

/// A site, or a VM of it, does not do what was asked.
pub(super) fn refused(why: String) -> Failure {
    let code = ExitCode::SiteRefused;
    Failure::new(code, Problem::new(why, code.remedy()))
}
