//! `antipode doctor`: what this host can do, on one screen, in plain words (E7).

use std::io::{self, Write};
use std::path::Path;

use serde_json::json;

use super::exit_code::ExitCode;
use super::failure::{Failure, written};
use crate::base::clock::SystemClock;
use crate::machine::kvm::KvmError;
use crate::machine::probe::{
    DiskProbe, Finding, KvmFindings, Verdict, judge, probe_disk, probe_kvm, probe_pmu,
};

/// Everything that was probed.
struct Examination {
    kvm: Result<(KvmFindings, Verdict), KvmError>,
    pmu: Finding,
    disk: io::Result<DiskProbe>,
}

impl Examination {
    fn exit_code(&self) -> ExitCode {
        match &self.kvm {
            Ok((_, verdict)) if verdict.can_run_linux() => ExitCode::Done,
            Err(KvmError::Open(_)) => ExitCode::KvmMissing,
            Ok(_) | Err(_) => ExitCode::KvmUnusable,
        }
    }
}

/// Probes the host and shows what came of it; durable writes are measured in `folder`.
pub(super) fn doctor(folder: &Path, json: bool, output: &mut dyn Write) -> Result<ExitCode, Failure> {
    let examination = Examination {
        kvm: probe_kvm(&SystemClock).map(|findings| {
            let verdict = judge(&findings);
            (findings, verdict)
        }),
        pmu: probe_pmu(),
        disk: probe_disk(folder, &SystemClock),
    };
    let code = examination.exit_code();
    let shown = if json {
        writeln!(output, "{}", as_json(&examination, code))
    } else {
        show(&examination, folder, output)
    };
    written(shown).map(|()| code)
}

/// The findings of the probe guests by name.
fn kvm_rows(findings: &KvmFindings) -> [(&'static str, &'static str, &Finding); 7] {
    [
        (
            "cmpxchg16b",
            "LOCK CMPXCHG16B in kernel mode",
            &findings.cmpxchg16b,
        ),
        ("msr_filter", "MSR filtering", &findings.msr_filter),
        (
            "interrupt_window",
            "interrupt windows",
            &findings.interrupt_window,
        ),
        ("single_step", "single-stepping", &findings.single_step),
        (
            "hardware_breakpoint",
            "hardware breakpoints",
            &findings.hardware_breakpoint,
        ),
        (
            "software_breakpoint",
            "software breakpoints",
            &findings.software_breakpoint,
        ),
        ("dirty_log", "dirty-page log", &findings.dirty_log),
    ]
}

fn finding_json(finding: &Finding) -> serde_json::Value {
    match finding {
        Finding::Works => json!({ "works": true }),
        Finding::Fails(how) => json!({ "works": false, "how": how }),
    }
}

fn as_json(examination: &Examination, code: ExitCode) -> serde_json::Value {
    let kvm = match &examination.kvm {
        Err(error) => json!({ "usable_for_linux": false, "obstacles": [error.to_string()] }),
        Ok((findings, verdict)) => {
            let probes: serde_json::Map<String, serde_json::Value> = kvm_rows(findings)
                .iter()
                .map(|(key, _, finding)| ((*key).into(), finding_json(finding)))
                .collect();
            json!({
                "usable_for_linux": verdict.can_run_linux(),
                "obstacles": verdict.obstacles,
                "instruction_clock": verdict.instruction_clock,
                "kernel_instructions_per_second": findings.kernel_instructions_per_second,
                "port_exits_per_second": findings.port_exits_per_second,
                "missing_features": findings.missing_features,
                "probes": probes,
            })
        }
    };
    let disk = match &examination.disk {
        Ok(probe) => json!({ "median_us": micros(probe.median), "slowest_us": micros(probe.slowest) }),
        Err(error) => json!({ "error": error.to_string() }),
    };
    json!({
        "ok": code == ExitCode::Done,
        "exit_code": code.number(),
        "exit_name": code.name(),
        "kvm": kvm,
        "pmu": finding_json(&examination.pmu),
        "disk_durable_write_4k": disk,
    })
}

fn micros(span: std::time::Duration) -> u64 {
    u64::try_from(span.as_micros()).unwrap_or(u64::MAX)
}

fn show(examination: &Examination, folder: &Path, output: &mut dyn Write) -> io::Result<()> {
    match &examination.kvm {
        Err(error) => {
            writeln!(output, "Linux guests: NO. {error}")?;
            writeln!(
                output,
                "              load the KVM module, or join the group that owns /dev/kvm"
            )?;
        }
        Ok((findings, verdict)) => show_kvm(findings, verdict, output)?,
    }
    show_row(output, "processor counters", &examination.pmu, "not used yet")?;
    match &examination.disk {
        Ok(probe) => writeln!(
            output,
            "  disk in {}: a durable 4 KiB write takes {} µs (median), {} µs at worst",
            folder.display(),
            micros(probe.median),
            micros(probe.slowest)
        ),
        Err(error) => writeln!(output, "  disk in {}: not measured: {error}", folder.display()),
    }
}

fn show_kvm(findings: &KvmFindings, verdict: &Verdict, output: &mut dyn Write) -> io::Result<()> {
    if verdict.can_run_linux() {
        writeln!(output, "Linux guests: yes.")?;
    } else {
        writeln!(output, "Linux guests: NO.")?;
        for obstacle in &verdict.obstacles {
            writeln!(output, "  - {obstacle}")?;
        }
    }
    writeln!(
        output,
        "  kernel code: {} million instructions/s",
        findings.kernel_instructions_per_second / 1_000_000
    )?;
    writeln!(
        output,
        "  exits: {} a second at most",
        findings.port_exits_per_second
    )?;
    for (_, name, finding) in kvm_rows(findings) {
        show_row(output, name, finding, "")?;
    }
    writeln!(
        output,
        "  positions between exits: the `{}` clock",
        verdict.instruction_clock
    )
}

fn show_row(output: &mut dyn Write, name: &str, finding: &Finding, note: &str) -> io::Result<()> {
    match finding {
        Finding::Works if note.is_empty() => writeln!(output, "  {name}: yes"),
        Finding::Works => writeln!(output, "  {name}: yes ({note})"),
        Finding::Fails(how) => writeln!(output, "  {name}: no ({how})"),
    }
}
