//! Running a program of the host and telling why it failed.

use std::process::{Command, Stdio};

use super::{Error, Result};

/// Runs `command` to its end without standard input and returns its standard output. `package` is the Debian package
/// that holds the program.
///
/// # Errors
///
/// [`Error::MissingProgram`] if it is not installed, [`Error::Tool`] with its own words if it failed.
pub fn run(command: &mut Command, package: &str) -> Result<Vec<u8>> {
    let program = command.get_program().to_string_lossy().into_owned();
    let output = match command.stdin(Stdio::null()).env("LC_ALL", "C").output() {
        Ok(output) => output,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            return Err(Error::MissingProgram {
                program,
                package: package.to_owned(),
            });
        }
        Err(error) => return Err(Error::file("run", program)(error)),
    };
    if output.status.success() {
        return Ok(output.stdout);
    }
    let arguments = command
        .get_args()
        .map(|argument| argument.to_string_lossy().into_owned());
    Err(Error::Tool {
        command: std::iter::once(program)
            .chain(arguments)
            .collect::<Vec<_>>()
            .join(" "),
        status: output.status.to_string(),
        stderr: String::from_utf8_lossy(&output.stderr).trim().to_owned(),
    })
}
