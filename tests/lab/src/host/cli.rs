//! `antipode-lab host`: boots one emulated host, runs a command in it, and ends with the command's status.

use super::{Disk, DiskMode, Host, HostFile, HostSpec, Materials, RunDirectory};
use crate::agent::client::Event;
use crate::agent::message::{ExitStatus, Stream};
use anyhow::{Context, Result, bail};
use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

/// Boot one emulated host, run a command in it, and end with the command's status
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The static `antipode` to install (default: build this workspace's)
    #[arg(long, value_name = "FILE")]
    antipode: Option<PathBuf>,
    /// Install no `antipode`, and build none
    #[arg(long, conflicts_with = "antipode")]
    no_antipode: bool,
    /// A file for the host's system, as HERE:THERE (mode bits are kept); repeatable
    #[arg(long = "file", value_name = "HERE:THERE")]
    files: Vec<String>,
    /// A raw disk, as FILE[:rw|:snapshot|:ro] (default snapshot); /dev/vda, /dev/vdb, …; repeatable
    #[arg(long = "disk", value_name = "FILE[:MODE]")]
    disks: Vec<String>,
    /// A module to load beyond the usual; repeatable
    #[arg(long = "module", value_name = "NAME")]
    modules: Vec<String>,
    /// Memory in MiB
    #[arg(long, value_name = "MIB", default_value_t = 1_024)]
    memory: u32,
    /// Processors; with more than one, a host that runs a VM may die of a defect of QEMU 7.2
    #[arg(long, value_name = "N", default_value_t = 1)]
    cpus: u32,
    /// Do not load KVM (boots a second sooner)
    #[arg(long)]
    no_kvm: bool,
    /// Added to the kernel's command line
    #[arg(long, value_name = "PARAMETERS")]
    append: Option<String>,
    /// Keep the console log and name its directory
    #[arg(long)]
    keep: bool,
    /// What to run; several words are a program and its arguments, one is a shell script
    #[arg(required = true, trailing_var_arg = true, value_name = "COMMAND")]
    command: Vec<String>,
}

/// Carries the command out.
///
/// # Errors
/// If the host cannot be booted or dies; not if the command ends badly, which is the exit code.
pub fn run(args: &Args) -> Result<ExitCode> {
    let materials = match &args.antipode {
        Some(path) => Materials::with_antipode(path)?,
        None if args.no_antipode => Materials::without_antipode()?,
        None => Materials::prepare()?,
    };
    let mut spec = HostSpec::new("host");
    spec.memory_mib = args.memory;
    spec.cpus = args.cpus;
    spec.kvm = !args.no_kvm;
    spec.modules.clone_from(&args.modules);
    spec.kernel_parameters.extend(args.append.clone());
    spec.files = args
        .files
        .iter()
        .map(|text| parse_file(text))
        .collect::<Result<_>>()?;
    spec.disks = args
        .disks
        .iter()
        .map(|text| parse_disk(text))
        .collect::<Result<_>>()?;
    let run = RunDirectory::create(&materials.lab_directory, "host")?;
    let host = Host::boot(&materials, &spec, &run)?;
    eprintln!("lab: the host is up ({:.1} s)", host.boot_time().as_secs_f32());
    let status = stream(&host, &args.command)?;
    if !args.keep {
        host.power_cut();
        run.finish();
    }
    Ok(exit_code(status))
}

fn stream(host: &Host, command: &[String]) -> Result<ExitStatus> {
    let mut argv: Vec<&str> = command.iter().map(String::as_str).collect();
    if let [script] = argv[..] {
        argv = vec!["sh", "-c", script];
    }
    let mut channel = host.spawn(&argv)?;
    channel.input().end()?;
    loop {
        match channel.next()? {
            Event::Data(Stream::Error, bytes) => std::io::stderr().write_all(&bytes)?,
            Event::Data(_, bytes) => {
                let mut stdout = std::io::stdout();
                stdout.write_all(&bytes).and_then(|()| stdout.flush())?;
            }
            Event::Exit(status) => return Ok(status),
        }
    }
}

/// A program's exit code, or 128 + its signal, as a shell reports it.
#[must_use]
pub fn exit_code(status: ExitStatus) -> ExitCode {
    let code = match status {
        ExitStatus::Code(code) => code,
        ExitStatus::Signal(signal) => 128 + signal,
    };
    ExitCode::from(u8::try_from(code).unwrap_or(u8::MAX))
}

fn parse_file(text: &str) -> Result<HostFile> {
    let Some((here, there)) = text.split_once(':').filter(|(_, there)| there.starts_with('/')) else {
        bail!("--file {text}: expected HERE:THERE with an absolute path in the host");
    };
    let source = PathBuf::from(here);
    let metadata = source
        .metadata()
        .with_context(|| format!("--file {text}: {here}"))?;
    let mode = std::os::unix::fs::PermissionsExt::mode(&metadata.permissions()) & 0o777;
    Ok(HostFile {
        path: there.to_owned(),
        mode,
        source,
    })
}

fn parse_disk(text: &str) -> Result<Disk> {
    let modes = [
        (":rw", DiskMode::ReadWrite),
        (":snapshot", DiskMode::Snapshot),
        (":ro", DiskMode::ReadOnly),
    ];
    let given = modes
        .iter()
        .find_map(|(suffix, mode)| Some((text.strip_suffix(suffix)?, *mode)));
    let (path, mode) = given.unwrap_or((text, DiskMode::Snapshot));
    let path = PathBuf::from(path)
        .canonicalize()
        .with_context(|| format!("--disk {text}"))?;
    Ok(Disk { path, mode })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn disks_are_snapshots_unless_asked_otherwise() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let path = file.path().to_str().unwrap();
        for (suffix, mode) in [
            ("", DiskMode::Snapshot),
            (":rw", DiskMode::ReadWrite),
            (":ro", DiskMode::ReadOnly),
        ] {
            assert_eq!(parse_disk(&format!("{path}{suffix}")).unwrap().mode, mode);
        }
        assert!(
            parse_disk("/no/such/disk")
                .unwrap_err()
                .to_string()
                .contains("/no/such/disk")
        );
    }

    #[test]
    fn a_file_needs_an_absolute_place() {
        assert!(parse_file("a:b").is_err());
        assert!(parse_file("/etc/passwd:/x").is_ok());
    }
}
