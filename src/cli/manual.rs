//! Shell completions and manual pages, made from the command line's own grammar.

use std::io::{self, Write};
use std::path::Path;

use clap::CommandFactory;
use clap_complete::Shell;
use clap_mangen::Man;

use super::ExitCode;
use super::args::Args;
use super::failure::{Failure, Problem, written};
use super::settings::ManTarget;

/// Writes completions for `shell`.
pub(super) fn write_completions(shell: Shell, output: &mut dyn Write) -> Result<ExitCode, Failure> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Args::command(), "antipode", &mut script);
    written(output.write_all(&script))?;
    Ok(ExitCode::Done)
}

/// Writes manual pages where `target` says.
pub(super) fn write_pages(
    target: &ManTarget,
    json: bool,
    output: &mut dyn Write,
) -> Result<ExitCode, Failure> {
    let outcome = match target {
        ManTarget::StandardOutput => Man::new(Args::command()).render(output),
        ManTarget::Folder(folder) => {
            let page_count = write_folder(folder).map_err(|error| {
                let problem = Problem::new(
                    format!("the manual pages cannot be written: {error}"),
                    "make the folder writable, or name another",
                );
                Failure::new(ExitCode::HostIo, problem.at(folder.display().to_string()))
            })?;
            if json {
                writeln!(
                    output,
                    "{}",
                    serde_json::json!({"ok": true, "folder": folder, "pages": page_count})
                )
            } else {
                writeln!(output, "{page_count} pages written into {}", folder.display())
            }
        }
    };
    written(outcome)?;
    Ok(ExitCode::Done)
}

/// Writes a page for the program and for each command, and tells how many.
fn write_folder(folder: &Path) -> io::Result<usize> {
    let mut program = Args::command().disable_help_subcommand(true);
    program.build();
    write_with_subcommands(&program, folder)
}

fn write_with_subcommands(command: &clap::Command, folder: &Path) -> io::Result<usize> {
    let mut page_count = 1;
    for subcommand in command.get_subcommands() {
        page_count += write_with_subcommands(subcommand, folder)?;
    }
    Man::new(command.clone()).generate_to(folder)?;
    Ok(page_count)
}
