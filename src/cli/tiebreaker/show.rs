//! What operators see: the cluster, and the VMs' records. Never green while there is a gap (O3).

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::time::Duration;

use antipode_certs::{Name, UnixTime};
use antipode_tiebreaker::client::{Client, ClientError};
use antipode_tiebreaker::node::{NodeStatus, PeerStatus, Standing, Summary};
use antipode_tiebreaker::{Flush, Record, State};
use serde::Serialize;
use serde_json::{Value, json};
use tokio::task::JoinSet;

use super::config::Config;
use super::{PATIENCE, answer, client, runtime};
use crate::cli::exit_code::ExitCode;
use crate::cli::failure::{Failure, Problem, written};

/// How long `status` waits for one node, and for who leads.
const STATUS_PATIENCE: Duration = Duration::from_secs(3);

/// Entries by which a healthy node may be behind while the leader works.
const LAG_SEEN: u64 = 100;

/// What `status` has found out.
struct Found {
    nodes: BTreeMap<Name, Result<NodeStatus, String>>,
    vms: Result<Vec<Summary>, String>,
}

/// Shows every node and every VM.
pub(super) fn status(config: &Config, json: bool, output: &mut dyn Write) -> Result<ExitCode, Failure> {
    let clients: Vec<(Name, Client)> = config
        .seats
        .keys()
        .map(|name| Ok((name.clone(), client(config)?)))
        .collect::<Result<_, Failure>>()?;
    let found = runtime()?.block_on(find(clients));
    let problems = problems(&found);
    let code = match (&found.vms, problems.is_empty()) {
        (Ok(_), true) => ExitCode::Done,
        (Ok(_), false) => ExitCode::Degraded,
        (Err(_), _) => ExitCode::Unreachable,
    };
    written(at_once(output, |text| {
        if json {
            let told = status_json(config, &found, &problems, code);
            write_with_vms(told, found.vms.as_deref().ok(), text)
        } else {
            write_status(config, &found, &problems, text)
        }
    }))?;
    Ok(code)
}

/// Asks every node of itself, all at once, and whoever leads for the VMs.
async fn find(clients: Vec<(Name, Client)>) -> Found {
    let mut asked = JoinSet::new();
    for (name, mut client) in clients {
        asked.spawn(async move {
            let said = client.status(&name, STATUS_PATIENCE).await;
            (name, said, client)
        });
    }
    let (mut nodes, mut best) = (BTreeMap::new(), None);
    for (name, said, client) in asked.join_all().await {
        let leads = said.as_ref().is_ok_and(|status| status.role == "leader");
        // The connection to the leader is open already.
        if leads || best.is_none() {
            best = Some(client);
        }
        let said = said.map_err(|error| match error {
            ClientError::Unreachable { mut tried, .. } => tried.remove(&name).unwrap_or_default(),
            other => other.to_string(),
        });
        nodes.insert(name, said);
    }
    let vms = match best {
        Some(mut client) => client
            .list(STATUS_PATIENCE)
            .await
            .map_err(|error| error.to_string()),
        None => Err("the configuration names no node".to_owned()),
    };
    Found { nodes, vms }
}

/// Makes the whole text first: standard output would hand it on in pieces of a line or a kilobyte.
fn at_once(output: &mut dyn Write, make: impl FnOnce(&mut Vec<u8>) -> io::Result<()>) -> io::Result<()> {
    let mut text = Vec::new();
    make(&mut text)?;
    output.write_all(&text)
}

/// `told` as a line of JSON, with the VMs under `vms`: of thousands, a `Value` each would take longer than all the rest.
fn write_with_vms(told: Value, vms: Option<&[Summary]>, text: &mut Vec<u8>) -> io::Result<()> {
    #[derive(Serialize)]
    struct Whole<'a> {
        #[serde(flatten)]
        told: Value,
        vms: Option<&'a [Summary]>,
    }
    serde_json::to_writer(&mut *text, &Whole { told, vms })?;
    writeln!(text)
}

/// The node that leads, as it sees itself.
fn leader(found: &Found) -> Option<&NodeStatus> {
    let said = found.nodes.values().filter_map(|said| said.as_ref().ok());
    said.filter(|status| status.role == "leader")
        .max_by_key(|status| status.term)
}

/// Every gap, with what to do.
fn problems(found: &Found) -> Vec<Problem> {
    let mut problems = Vec::new();
    for (name, said) in &found.nodes {
        match said {
            Err(error) => problems.push(Problem::new(
                format!("node {name} does not answer: {error}"),
                "start it; if its disk is lost, `antipode tiebreaker rejoin` there",
            )),
            Ok(NodeStatus {
                stalled: Some(why), ..
            }) => problems.push(Problem::new(
                format!("node {name} takes no part: {why}"),
                "do what its log says; what is damaged comes back by `antipode tiebreaker rejoin`",
            )),
            Ok(_) => {}
        }
    }
    // Of a node that we do not reach, that the leader does not reach it either is no news.
    let reached = |peer: &&PeerStatus| found.nodes.get(&peer.name).is_none_or(Result::is_ok);
    let peers = leader(found).into_iter().flat_map(|leader| &leader.peers);
    problems.extend(peers.filter(reached).filter_map(problem_of));
    if let Err(error) = &found.vms {
        problems.push(Problem::new(
            format!("nobody leads: {error}"),
            "two of the three nodes must run and reach each other; until then no site may go live",
        ));
    }
    problems
}

fn problem_of(peer: &PeerStatus) -> Option<Problem> {
    let (name, lag) = (&peer.name, peer.lag.unwrap_or(0));
    let what = if peer.standing != Standing::Voter {
        format!("node {name} does not vote yet")
    } else if peer.active == Some(false) {
        format!("node {name} does not answer the leader")
    } else if lag > LAG_SEEN {
        format!("node {name} is {lag} entries behind")
    } else {
        return None;
    };
    Some(Problem::new(
        what,
        "see that it runs and that the leader reaches it; it catches up by itself",
    ))
}

fn status_json(config: &Config, found: &Found, problems: &[Problem], code: ExitCode) -> Value {
    let nodes: Vec<Value> = found
        .nodes
        .iter()
        .map(|(name, said)| match said {
            Ok(status) => {
                let mut node = json!(status);
                node["reached"] = true.into();
                node["address"] = json!(config.seats[name].address);
                node
            }
            Err(error) => json!({
                "name": name, "reached": false, "address": config.seats[name].address, "error": error,
            }),
        })
        .collect();
    let leader = leader(found);
    let mut told = answer(code);
    told["cluster"] = json!(config.cluster);
    told["leader"] = json!(leader.map(|leader| &leader.name));
    told["term"] = json!(leader.map(|leader| leader.term));
    told["commit"] = json!(leader.map(|leader| leader.commit));
    told["nodes"] = nodes.into();
    told["problems"] = json!(problems);
    told
}

fn write_status(
    config: &Config,
    found: &Found,
    problems: &[Problem],
    output: &mut dyn Write,
) -> io::Result<()> {
    let leader = leader(found);
    match leader {
        Some(leader) => writeln!(
            output,
            "cluster {}: {} leads in term {}, {} entries agreed on",
            config.cluster, leader.name, leader.term, leader.commit
        )?,
        None => writeln!(output, "cluster {}: nobody leads", config.cluster)?,
    }
    for (name, said) in &found.nodes {
        match said {
            Ok(status) => {
                let peer = leader.and_then(|leader| leader.peers.iter().find(|peer| peer.name == *name));
                let lag = peer
                    .and_then(|peer| peer.lag)
                    .map_or_else(|| "?".to_owned(), |lag| lag.to_string());
                let faults = status.faulty_sessions;
                let NodeStatus {
                    id, role, applied, ..
                } = status;
                let (name, id) = (name.as_str(), id.0);
                write!(
                    output,
                    "  {name:<16} id {id:<4} {role:<10} applied {applied:<8} behind {lag}"
                )?;
                match faults {
                    0 => writeln!(output)?,
                    _ => writeln!(output, "  {faults} faulty sessions")?,
                }
            }
            Err(_) => writeln!(
                output,
                "  {:<16} not reached at {}",
                name.as_str(),
                config.seats[name].address
            )?,
        }
    }
    if let Ok(vms) = &found.vms {
        write_vms(vms, output)?;
    }
    for problem in problems {
        writeln!(
            output,
            "\n{}",
            Failure::new(ExitCode::Degraded, problem.clone())
                .to_string()
                .trim_end()
        )?;
    }
    Ok(())
}

/// Shows who holds each VM.
pub(super) fn list(config: &Config, json: bool, output: &mut dyn Write) -> Result<ExitCode, Failure> {
    let mut client = client(config)?;
    let vms = runtime()?.block_on(client.list(PATIENCE))?;
    let code = ExitCode::Done;
    written(at_once(output, |text| {
        if json {
            write_with_vms(answer(code), Some(&vms), text)
        } else {
            write_vms(&vms, text)
        }
    }))?;
    Ok(code)
}

fn write_vms(vms: &[Summary], output: &mut dyn Write) -> io::Result<()> {
    if vms.is_empty() {
        return writeln!(output, "no VM is registered");
    }
    let width = vms.iter().map(|vm| vm.vm.as_str().len()).max().unwrap_or(0);
    for vm in vms {
        let (name, now) = (vm.vm.as_str(), state_words(&vm.state));
        write!(
            output,
            "  {name:<width$}  generation {:<6} {now}",
            vm.generation.0
        )?;
        match vm.since_unix_seconds {
            Some(since) => writeln!(output, ", since {}", UnixTime::from_seconds(since))?,
            None => writeln!(output)?,
        }
    }
    Ok(())
}

/// Who may be live, in words.
pub(super) fn state_words(state: &State) -> String {
    match state {
        State::Paired {
            primary,
            backup,
            flush,
            ..
        } => format!(
            "live at {primary}, followed by {backup}, flushes at {}",
            flush_words(*flush)
        ),
        State::Solo { site, boot: Some(_) } => format!("live at {site} alone"),
        State::Solo { site, boot: None } => format!("to be started at {site} alone"),
        State::Parked {
            primary,
            backup: Some(backup),
            ..
        } => format!("stopped, to be started at {primary} or {backup}"),
        State::Parked { primary, .. } => format!("stopped, to be started at {primary}"),
        State::Retired => "given up".to_owned(),
    }
}

pub(super) const fn flush_words(flush: Flush) -> &'static str {
    match flush {
        Flush::Site => "the live site",
        Flush::Both => "both sites",
    }
}

/// Shows one record with its history.
pub(super) fn show(
    config: &Config,
    vm: &Name,
    json: bool,
    output: &mut dyn Write,
) -> Result<ExitCode, Failure> {
    let mut client = client(config)?;
    let found = runtime()?.block_on(client.show(vm, PATIENCE))?;
    let Some(record) = found else {
        let problem = Problem::new(
            format!("there is no VM {vm}"),
            "see `antipode tiebreaker vm list`",
        );
        return Err(Failure::new(ExitCode::Refused, problem));
    };
    let code = ExitCode::Done;
    written(if json {
        let mut told = answer(code);
        told["vm"] = json!(vm);
        told["incarnation"] = json!(record.incarnation);
        told["generation"] = json!(record.generation);
        told["state"] = json!(record.state);
        told["settings"] = json!(record.settings);
        told["history"] = json!(record.history);
        writeln!(output, "{told}")
    } else {
        write_record(vm, &record, output)
    })?;
    Ok(code)
}

fn write_record(vm: &Name, record: &Record, output: &mut dyn Write) -> io::Result<()> {
    writeln!(output, "{vm}: {}", state_words(&record.state))?;
    writeln!(output, "  generation:  {}", record.generation)?;
    writeln!(output, "  incarnation: {}", record.incarnation)?;
    let preferred = record.settings.preferred.as_ref().map_or("none", Name::as_str);
    writeln!(output, "  preferred:   {preferred}")?;
    writeln!(output, "  flushes at:  {}", flush_words(record.settings.flush))?;
    for entry in &record.history {
        let at = UnixTime::from_seconds(entry.at_unix_seconds);
        write!(output, "  {at}  {:>6}  {}", entry.generation, entry.operation)?;
        if let Some(site) = &entry.site {
            write!(output, " to {site}")?;
        }
        write!(output, " by {}", entry.by)?;
        match &entry.reason {
            Some(reason) => writeln!(output, ": {reason}")?,
            None => writeln!(output)?,
        }
    }
    Ok(())
}
