//! `antipode vm switchover`: the VM goes on at the other site, or comes from there (P7).

use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use serde_json::Value;

use super::{Which, ask_vm, done, granted, show};
use crate::cli::exit_code::ExitCode;
use crate::cli::failure::Failure;
use crate::cli::signals::Signals;
use crate::cli::site::refused;
use crate::site::config::SiteConfig;
use crate::site::control;
use crate::site::guest::happening::Request;

/// How long the other site's answer may take before it is said that there is none.
const PATIENCE: Duration = Duration::from_secs(60);

/// Begins a switchover, and shows how far it is until the roles have turned round or it is given up.
pub(super) fn switch_over(
    which: &Which,
    cancel: bool,
    json: bool,
    output: &mut dyn Write,
) -> Result<ExitCode, Failure> {
    let site = SiteConfig::load(&which.config)?;
    if cancel {
        return done(ask_vm(&site, which, &Request::Stay)?, json, output);
    }
    let interrupted = Arc::<AtomicBool>::default();
    let noted = Arc::clone(&interrupted);
    Signals::block()?.once(move || noted.store(true, Ordering::Relaxed));
    let before = ask_vm(&site, which, &Request::Status)?;
    granted(&ask_vm(&site, which, &Request::SwitchOver)?)?;
    let bar = show::Progress::new(json);
    let found = control::until(PATIENCE, || {
        let status = match ask_vm(&site, which, &Request::Status) {
            Ok(status) => status,
            Err(failure) => return Some(Err(failure)),
        };
        bar.show(&status);
        if interrupted.swap(false, Ordering::Relaxed) {
            // Whether it could still be given up, the status will say.
            drop(ask_vm(&site, which, &Request::Stay));
        }
        outcome(&before, &status).map(|outcome| Ok((status, outcome)))
    });
    drop(bar);
    let (status, outcome) = found.unwrap_or_else(|| {
        let why = format!(
            "VM {} has not been switched over yet; its status says more",
            which.name
        );
        Err(refused(why))
    })?;
    show::status(&status, json, output)?;
    outcome
        .map(|()| ExitCode::Done)
        .map_err(|why| refused(format!("the VM was not switched over: {why}")))
}

/// What came of it, once that is known: the roles have turned round, or why not.
fn outcome(before: &Value, status: &Value) -> Option<Result<(), String>> {
    let told = |value: &Value| value["because"].as_str().map(str::to_owned);
    let unsaid = || "the VM's log says why".to_owned();
    match (before["role"].as_str(), status["role"].as_str()) {
        (Some("primary"), Some("backup")) | (Some("backup"), Some("primary")) => Some(Ok(())),
        _ if status["not_done"].is_object() => Some(Err(told(&status["not_done"]).unwrap_or_else(unsaid))),
        (_, Some("solo" | "unprotected" | "stale" | "stopped")) => {
            Some(Err(told(status).unwrap_or_else(unsaid)))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_switchover_is_over_when_the_roles_have_turned_round_or_it_is_said_why_not() {
        let role = |role: &str| json!({ "role": role });
        let primary = role("primary");
        assert_eq!(outcome(&primary, &primary), None);
        assert_eq!(outcome(&primary, &role("switching")), None);
        assert_eq!(outcome(&primary, &role("frozen")), None);
        assert_eq!(outcome(&primary, &role("backup")), Some(Ok(())));
        assert_eq!(outcome(&role("backup"), &role("backup")), None);
        assert_eq!(outcome(&role("backup"), &primary), Some(Ok(())));
        let refused =
            json!({ "role": "primary", "not_done": { "reason": "lag-too-high", "because": "too far" } });
        assert_eq!(outcome(&primary, &refused), Some(Err("too far".to_owned())));
        let lost = json!({ "role": "solo", "because": "it was lost", "not_done": null });
        assert_eq!(outcome(&primary, &lost), Some(Err("it was lost".to_owned())));
    }
}
