//! What is kept of a replay that differs from its record: a folder for whoever looks into it, and how to come there again.
//!
//! ```text
//!   what.txt      what differs, where, and the command that repeats it
//!   ram.bin       RAM of the replay, where it differs    vcpu.txt   its registers
//!   entries.txt   what the log has around there
//! ```

use std::fmt::Write as _;
use std::io;
use std::path::{Path, PathBuf};

use super::exit_code::ExitCode;
use super::failure::{Failure, Problem};
use super::log_reader::entries_around;
use super::settings::RecordFiles;
use crate::base::units::ExitOrdinal;
use crate::machine::launch::StartedVm;
use crate::replay::dump;

/// Folders of one log, at most: they hold a guest's RAM each.
const FOLDERS_MAX: u32 = 20;

/// The failure of a replay that differs from its record in `differences`, first of all at `exit`. What is kept of it goes
/// into a new folder beside the log; that this cannot be done is said with the rest.
pub(super) fn diverged(
    files: &RecordFiles,
    vm: &mut StartedVm,
    exit: ExitOrdinal,
    differences: &[String],
) -> Failure {
    let code = ExitCode::Diverged;
    let command = repeating_command(files, exit);
    let kept = keep(files, vm, exit, differences, &command);
    let mend = format!("{} To come to the exit before again: {command}", code.remedy());
    let mut problems = differences
        .iter()
        .map(|what| Problem::new(what.clone(), mend.clone()));
    let first = problems
        .next()
        .unwrap_or_else(|| Problem::new("it differs", mend.clone()));
    let kept = match kept {
        Ok(folder) => first.at(folder.display().to_string()),
        Err(error) => {
            tracing::warn!(%error, "nothing is kept of the divergence");
            first
        }
    };
    problems.fold(Failure::new(code, kept), Failure::and)
}

/// The command that replays to the exit before `exit` and writes RAM and registers there.
fn repeating_command(files: &RecordFiles, exit: ExitOrdinal) -> String {
    let mut command = format!(
        "antipode replay {} --config {}",
        quoted(&files.log),
        quoted(&files.config)
    );
    if let Some(from) = &files.from {
        let _ = write!(command, " --from {}", quoted(from));
    }
    let before = exit.get().saturating_sub(1);
    let _ = write!(command, " --until {before} --dump at-{before}");
    command
}

/// A word for a shell.
fn quoted(path: &Path) -> String {
    let text = path.display().to_string();
    let is_plain = |letter: char| letter.is_ascii_alphanumeric() || "/._-+=:,@".contains(letter);
    if !text.is_empty() && text.chars().all(is_plain) {
        return text;
    }
    format!("'{}'", text.replace('\'', r"'\''"))
}

fn keep(
    files: &RecordFiles,
    vm: &mut StartedVm,
    exit: ExitOrdinal,
    differences: &[String],
    command: &str,
) -> io::Result<PathBuf> {
    let folder = new_folder(&files.log)?;
    let mut text = format!("The replay of {} differs from its record:\n", files.log.display());
    for difference in differences {
        let _ = writeln!(text, "- {difference}");
    }
    let _ = writeln!(
        text,
        "\nTo come to the exit before again, on a disk as it was at the beginning:\n\n    {command}"
    );
    std::fs::write(folder.join("what.txt"), text)?;
    std::fs::write(folder.join("entries.txt"), entries_around(&files.log, exit)?)?;
    dump(vm, &folder).map_err(io::Error::other)?;
    Ok(folder)
}

/// Creates a folder that was not there: the log's name with `.divergence` and, if need be, a number.
fn new_folder(log: &Path) -> io::Result<PathBuf> {
    let mut last = io::Error::from(io::ErrorKind::AlreadyExists);
    for number in 1..=FOLDERS_MAX {
        let mut name = log.as_os_str().to_owned();
        name.push(".divergence");
        if number > 1 {
            name.push(format!("-{number}"));
        }
        match std::fs::create_dir(&name) {
            Ok(()) => return Ok(name.into()),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => last = error,
            Err(error) => return Err(error),
        }
    }
    Err(last)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_names_all_that_the_replay_was_given() {
        let mut files = RecordFiles {
            config: "a b.toml".into(),
            log: "it's.log".into(),
            from: None,
            dump: None,
        };
        assert_eq!(
            repeating_command(&files, ExitOrdinal::new(8)),
            r"antipode replay 'it'\''s.log' --config 'a b.toml' --until 7 --dump at-7"
        );
        files.from = Some("x.state".into());
        assert!(repeating_command(&files, ExitOrdinal::new(8)).contains(" --from x.state --until 7"));
    }

    #[test]
    fn each_divergence_has_a_folder_of_its_own_within_bounds() {
        let folder = tempfile::tempdir().unwrap();
        let log = folder.path().join("vm.log");
        assert_eq!(new_folder(&log).unwrap(), folder.path().join("vm.log.divergence"));
        assert_eq!(
            new_folder(&log).unwrap(),
            folder.path().join("vm.log.divergence-2")
        );
        for _ in 3..=FOLDERS_MAX {
            new_folder(&log).unwrap();
        }
        assert!(new_folder(&log).is_err());
    }
}
