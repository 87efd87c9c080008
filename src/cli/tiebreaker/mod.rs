//! `antipode tiebreaker`: a node's life (`node`), what operators see (`show`) and what they change (`change`) (T1, T4, O1).
//!
//! A command is a client with the certificate that the configuration names; only `run` serves. What may be asked is
//! decided by the nodes, from the certificate.

mod args;
mod change;
mod config;
mod failure;
mod node;
mod request;
mod show;

use std::io::Write;
use std::sync::Arc;
use std::time::Duration;

use antipode_certs::tls::LiveCredentials;
use antipode_certs::{PeerRule, Role};
use antipode_tiebreaker::client::Client;
use serde_json::{Value, json};
use tokio::runtime::{Builder, Runtime};

use super::exit_code::ExitCode;
use super::failure::Failure;
use super::run::host_failure;
use super::time_of_day::TimeOfDay;

pub(super) use args::TiebreakerCommand;
pub(super) use request::{Request, resolve};

/// How long a command waits for an answer: longer than an election takes at the slowest heartbeat.
const PATIENCE: Duration = Duration::from_secs(30);

/// Carries out `request`.
pub(super) fn tiebreaker(request: &Request, json: bool, output: &mut dyn Write) -> Result<ExitCode, Failure> {
    match request {
        Request::Init(settings) => node::init(settings, json, output),
        Request::Run(settings) => node::run(settings, json, output),
        Request::Rejoin(settings) => node::rejoin(settings, json, output),
        Request::Restore(settings, file) => node::restore(settings, file, json, output),
        Request::Status(config) => show::status(config, json, output),
        Request::List(config) => show::list(config, json, output),
        Request::Show(config, vm) => show::show(config, vm, json, output),
        Request::Backup(config, file) => change::backup(config, file, json, output),
        Request::Change(config, asked) => change::change(config, asked, json, output),
    }
}

/// One thread for everything that waits for the network.
fn runtime() -> Result<Runtime, Failure> {
    let built = Builder::new_current_thread().enable_all().build();
    built.map_err(|error| host_failure("starting to wait for the network", error))
}

/// A client with the certificate that `config` names, whatever its role.
fn client(config: &config::Config) -> Result<Client, Failure> {
    let anyone = PeerRule::AnyOf(Role::ALL.to_vec());
    let credentials = LiveCredentials::open(config.credentials.clone(), &anyone, Arc::new(TimeOfDay))?;
    Ok(Client::new(config.to_ask(), credentials))
}

/// The beginning of an answer in JSON.
fn answer(code: ExitCode) -> Value {
    json!({ "ok": code == ExitCode::Done, "exit_code": code.number(), "exit_name": code.name() })
}
