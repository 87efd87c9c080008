//! What is said when something goes wrong: what happened, to what, and what to do next (O1).

use std::fmt;
use std::io;
use std::path::Path;

use super::exit_code::ExitCode;
use crate::base::configuration::ConfigError;

/// One thing that went wrong.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Problem {
    /// What happened, as a sentence without its full stop.
    what: String,
    /// To what: a file with line and column, an interface, a flag.
    #[serde(rename = "where", skip_serializing_if = "Option::is_none")]
    place: Option<String>,
    /// What to do next.
    #[serde(rename = "do")]
    mend: String,
}

impl Problem {
    /// A problem at no particular place.
    #[must_use]
    pub fn new(what: impl Into<String>, mend: impl Into<String>) -> Self {
        Self {
            what: what.into(),
            place: None,
            mend: mend.into(),
        }
    }

    /// The same problem, at `place`.
    #[must_use]
    pub fn at(mut self, place: impl Into<String>) -> Self {
        self.place = Some(place.into());
        self
    }
}

/// Why a command did not do what it was asked: at least one problem, and one exit code.
///
/// Displayed, each problem is three lines (two without a place):
///
/// ```text
/// error: memory_mib is 8, outside what a guest can have
/// where: vm.toml:2:14
/// do:    give a whole number of mebibytes from 64 to 262144
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    code: ExitCode,
    first: Problem,
    others: Vec<Problem>,
}

impl Failure {
    /// A failure for one reason.
    #[must_use]
    pub fn new(code: ExitCode, problem: Problem) -> Self {
        Self {
            code,
            first: problem,
            others: Vec::new(),
        }
    }

    /// The same failure, with one more reason.
    #[must_use]
    pub fn and(mut self, problem: Problem) -> Self {
        self.others.push(problem);
        self
    }

    /// The code that the program ends with.
    #[must_use]
    pub fn code(&self) -> ExitCode {
        self.code
    }

    /// Every problem, the most important first.
    pub fn problems(&self) -> impl Iterator<Item = &Problem> {
        std::iter::once(&self.first).chain(&self.others)
    }

    /// One line of JSON: `ok`, `exit_code`, `exit_name`, and `errors` with `what`, `where` and `do`.
    #[must_use]
    pub fn as_json(&self) -> serde_json::Value {
        serde_json::json!({
            "ok": false,
            "exit_code": self.code.number(),
            "exit_name": self.code.name(),
            "errors": self.problems().collect::<Vec<_>>(),
        })
    }

    /// What clap has to say about a misuse.
    pub(super) fn of_usage(answer: &clap::Error) -> Self {
        let said = answer.to_string();
        let what = said.lines().next().unwrap_or_default();
        let what = what.strip_prefix("error: ").unwrap_or(what);
        Self::new(ExitCode::Usage, Problem::new(what, "see antipode --help"))
    }
}

/// What became of writing the answer. A reader that has seen enough and left, as `head` does, is no failure.
pub(super) fn written(outcome: io::Result<()>) -> Result<(), Failure> {
    match outcome {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            let problem = Problem::new(
                format!("the answer cannot be written: {error}"),
                "write it where there is room",
            );
            Err(Failure::new(ExitCode::HostIo, problem.at("standard output")))
        }
        _ => Ok(()),
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, Problem { what, place, mend }) in self.problems().enumerate() {
            if index > 0 {
                writeln!(f)?;
            }
            writeln!(f, "error: {what}")?;
            if let Some(place) = place {
                writeln!(f, "where: {place}")?;
            }
            writeln!(f, "do:    {mend}")?;
        }
        Ok(())
    }
}

impl From<ConfigError> for Failure {
    fn from(error: ConfigError) -> Self {
        let in_file = |path: &Path, what: String, mend: &str| {
            Self::new(
                ExitCode::Config,
                Problem::new(what, mend).at(path.display().to_string()),
            )
        };
        match error {
            ConfigError::Unreadable { path, source } => in_file(
                &path,
                format!("the configuration cannot be read: {source}"),
                "name a readable file after --config",
            ),
            ConfigError::NotConfiguration { path, what } => in_file(
                &path,
                format!("this is no configuration: {what}"),
                "name a TOML file after --config",
            ),
            ConfigError::Mistakes { path, mistakes } => {
                let mut problems = mistakes.into_iter().map(|mistake| {
                    let place = format!("{}:{}:{}", path.display(), mistake.line, mistake.column);
                    Problem::new(mistake.what, mistake.mend).at(place)
                });
                let first = problems.next().unwrap_or_else(|| {
                    Problem::new(
                        "the configuration is refused without a reason",
                        "report this as a defect",
                    )
                });
                Self {
                    code: ExitCode::Config,
                    first,
                    others: problems.collect(),
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;
    use crate::machine::config::parse;

    fn of_text(text: &str) -> Failure {
        Failure::from(ConfigError::Mistakes {
            path: PathBuf::from("vm.toml"),
            mistakes: parse(text, Path::new("")).unwrap_err(),
        })
    }

    const TWO_MISTAKES: &str = "name = \"a\"\nmemory_mib = 8\n[kernel]\npath = \"k\"\ninitrt = \"i\"\n";

    #[test]
    fn every_mistake_is_shown_with_place_and_mend() {
        assert_eq!(
            of_text(TWO_MISTAKES).to_string(),
            "error: memory_mib is 8, outside what a guest can have\n\
             where: vm.toml:2:14\n\
             do:    give a whole number of mebibytes from 64 to 262144\n\
             \n\
             error: unknown key \"initrt\" in [kernel]\n\
             where: vm.toml:5:1\n\
             do:    did you mean initrd?\n"
        );
    }

    #[test]
    fn json_says_the_same() {
        let json = of_text(TWO_MISTAKES).as_json();
        assert_eq!((&json["ok"], &json["exit_code"]), (&false.into(), &10.into()));
        assert_eq!(json["exit_name"], "config");
        assert_eq!(json["errors"][1]["where"], "vm.toml:5:1");
        assert_eq!(json["errors"][1]["do"], "did you mean initrd?");
        let placeless = Failure::new(ExitCode::Internal, Problem::new("a", "b")).and(Problem::new("c", "d"));
        assert_eq!(placeless.as_json()["errors"][0].get("where"), None);
        assert_eq!(placeless.problems().count(), 2);
    }
}
