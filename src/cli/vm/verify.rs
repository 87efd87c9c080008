//! `antipode vm verify`: the two sites' disks are compared while the guest runs (D5).

use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use serde_json::Value;

use super::{Which, ask_vm, done, granted, show};
use crate::cli::exit_code::ExitCode;
use crate::cli::failure::{Failure, Problem};
use crate::cli::signals::Signals;
use crate::cli::site::refused;
use crate::site::config::SiteConfig;
use crate::site::control;
use crate::site::guest::happening::Request;

/// How long it may take until the live site says that it has begun.
const PATIENCE: Duration = Duration::from_secs(15);

/// Begins a comparison, and shows how far it is until it is over.
pub(super) fn verify(
    which: &Which,
    cancel: bool,
    json: bool,
    output: &mut dyn Write,
) -> Result<ExitCode, Failure> {
    let site = SiteConfig::load(&which.config)?;
    if cancel {
        let answer = ask_vm(&site, which, &Request::Verify { cancel })?;
        return done(answer, json, output);
    }
    let interrupted = Arc::<AtomicBool>::default();
    let noted = Arc::clone(&interrupted);
    Signals::block()?.once(move || noted.store(true, Ordering::Relaxed));
    let before = ask_vm(&site, which, &Request::Status)?;
    granted(&ask_vm(&site, which, &Request::Verify { cancel })?)?;
    let has_begun = control::until(PATIENCE, || match ask_vm(&site, which, &Request::Status) {
        Ok(status) => began(&before["verify"], &status["verify"]).then_some(Ok(())),
        Err(failure) => Some(Err(failure)),
    });
    has_begun.unwrap_or_else(|| {
        let why = "the live site does not say that it has begun; its `vm status` says more";
        Err(refused(why.to_owned()))
    })?;
    let bar = show::Progress::new(json);
    let found = control::until(Duration::MAX, || {
        let status = match ask_vm(&site, which, &Request::Status) {
            Ok(status) => status,
            Err(failure) => return Some(Err(failure)),
        };
        bar.show_verification(&status["verify"]);
        if interrupted.swap(false, Ordering::Relaxed) {
            // Whether it was given up, the status will say.
            drop(ask_vm(&site, which, &Request::Verify { cancel: true }));
        }
        is_over(&status).then_some(Ok(status))
    });
    drop(bar);
    let status = found.unwrap_or_else(|| Err(refused("it has not ended".to_owned())))?;
    show::status(&status, json, output)?;
    outcome(&status["verify"])
}

/// Whether `now` tells of a comparison that `before` does not, or of one that goes on.
fn began(before: &Value, now: &Value) -> bool {
    now["state"] == "running" || (now.is_object() && now["began"] != before["began"])
}

/// Whether nothing more will come of it: it has ended, or this site is not one of two any more.
fn is_over(status: &Value) -> bool {
    let goes_on = status["verify"]["state"] == "running";
    let may_hear = matches!(status["role"].as_str(), Some("primary" | "backup" | "suspecting"));
    !(goes_on && may_hear)
}

fn outcome(verify: &Value) -> Result<ExitCode, Failure> {
    if verify["state"] != "complete" {
        let why = verify["because"].as_str().unwrap_or("the pairing has ended");
        return Err(refused(format!("the disks were not compared to the end: {why}")));
    }
    let (differed, mended) = (&verify["differed"], &verify["mended"]);
    if differed == mended {
        return Ok(ExitCode::Done);
    }
    let what = format!("the disks differ: {differed} leaves of 64 KiB were found, and {mended} were mended");
    let mend = "look for a failing disk at the backup's site; `antipode vm verify` tries again";
    Err(Failure::new(ExitCode::DisksDiffer, Problem::new(what, mend)))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn it_is_waited_for_until_it_has_ended_and_said_what_it_found() {
        let report = |state: &str, began: u64, differed: u64, mended: u64| json!({ "state": state, "began": began, "differed": differed, "mended": mended, "because": "channel-lost" });
        let old = report("complete", 100, 0, 0);
        assert!(!began(&Value::Null, &Value::Null) && !began(&old, &old));
        assert!(began(&old, &report("running", 100, 0, 0)) && began(&old, &report("complete", 130, 0, 0)));
        let status = |role: &str, state: &str| json!({ "role": role, "verify": report(state, 130, 0, 0) });
        assert!(!is_over(&status("backup", "running")));
        assert!(is_over(&status("backup", "complete")) && is_over(&status("solo", "running")));
        assert_eq!(outcome(&report("complete", 1, 2, 2)).unwrap(), ExitCode::Done);
        assert_eq!(
            outcome(&report("complete", 1, 2, 1)).unwrap_err().code(),
            ExitCode::DisksDiffer
        );
        assert_eq!(
            outcome(&report("ended", 1, 0, 0)).unwrap_err().code(),
            ExitCode::SiteRefused
        );
    }
}
