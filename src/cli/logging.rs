//! Structured logs on standard error.

use std::ffi::OsString;
use std::io::{self, IsTerminal};

use tracing_subscriber::EnvFilter;

use super::ExitCode;
use super::failure::{Failure, Problem};

/// The environment variable that says what to log.
pub(super) const VARIABLE: &str = "ANTIPODE_LOG";

const UNLESS_TOLD: &str = "warn";

/// The filter of the flag, else of the environment, else warnings.
pub(super) fn filter(flag: Option<String>, variable: Option<OsString>) -> Result<EnvFilter, Failure> {
    let (place, written) = match (flag, variable) {
        (Some(written), _) => ("--log", written),
        (None, Some(variable)) => {
            let written = variable
                .into_string()
                .map_err(|odd| refused(VARIABLE, &odd.to_string_lossy()))?;
            (VARIABLE, written)
        }
        (None, None) => return Ok(EnvFilter::new(UNLESS_TOLD)),
    };
    EnvFilter::builder()
        .parse(&written)
        .map_err(|_| refused(place, &written))
}

fn refused(place: &str, written: &str) -> Failure {
    let problem = Problem::new(
        format!("{written:?} is no log filter"),
        "use error, warn, info, debug, trace, or a list such as warn,antipode::machine=debug",
    );
    Failure::new(ExitCode::Usage, problem.at(place))
}

/// Logs from here on. A second call changes nothing, so that tests may share a process.
pub(super) fn start(filter: EnvFilter) {
    let _ = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(io::stderr)
        // It would be told on the same full disk, by a macro that panics there: in whichever thread had something to log.
        .log_internal_errors(false)
        // A file or a journal is read later, without a terminal's colours.
        .with_ansi(io::stderr().is_terminal())
        .try_init();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_flag_goes_before_the_environment() {
        let shown = |flag: Option<&str>, variable: Option<&str>| {
            filter(flag.map(str::to_owned), variable.map(OsString::from)).map(|filter| filter.to_string())
        };
        assert_eq!(shown(None, None).unwrap(), "warn");
        assert_eq!(shown(None, Some("debug")).unwrap(), "debug");
        assert_eq!(shown(Some("trace"), Some("=bad=")).unwrap(), "trace");
        assert_eq!(
            shown(Some("antipode=loud"), None).unwrap_err().code(),
            ExitCode::Usage
        );
    }
}
