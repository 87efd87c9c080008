//! The exit codes: one catalogue, which the help and the manual show and `docs/exit-codes.md` repeats.
//!
//! Numbers are a promise to scripts: they are never given a new meaning. 2 is what shells and clap mean by it, 77
//! is what test harnesses mean by it; 101 is what a Rust program ends with when it panics, always a defect.

use std::fmt::Write as _;

macro_rules! exit_codes {
    ($($(#[doc = $doc:literal])+ $variant:ident = $number:literal, $name:literal, $meaning:literal, $remedy:literal;)+) => {
        /// How the program ended.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[repr(u8)]
        pub enum ExitCode {
            $($(#[doc = $doc])+ $variant = $number,)+
        }

        impl ExitCode {
            /// Every code, in the order of their numbers.
            pub const ALL: &[Self] = &[$(Self::$variant,)+];

            /// The name used in JSON and documents.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)+ }
            }

            /// What it means.
            #[must_use]
            pub const fn meaning(self) -> &'static str {
                match self { $(Self::$variant => $meaning,)+ }
            }

            /// What to do.
            #[must_use]
            pub const fn remedy(self) -> &'static str {
                match self { $(Self::$variant => $remedy,)+ }
            }
        }
    };
}

exit_codes! {
    /// The command did what it was asked; of `run`: the guest switched itself off.
    Done = 0, "done", "The command did what it was asked. Of `run`: the guest switched itself off.", "Nothing.";
    /// A defect of ours, noticed before it did harm.
    Internal = 1, "internal", "A defect of antipode, noticed by itself.", "Report it with the message.";
    /// The command line is wrong.
    Usage = 2, "usage", "The command line is wrong.", "See `antipode --help`.";
    /// The configuration file is missing or wrong.
    Config = 10, "config", "The configuration file is missing or has mistakes; all are shown.", "Mend each at its line and column.";
    /// The kernel is missing, foreign, corrupt, or cannot be edited.
    KernelRefused = 11, "kernel-refused", "The kernel is missing, foreign, corrupt, or cannot be made deterministic.", "Use a Debian `vmlinuz`; the message says what is wrong with this one.";
    /// The initial RAM disk is missing or does not fit.
    InitrdRefused = 12, "initrd-refused", "The initrd is missing or does not fit into guest RAM.", "Name the right file or raise `memory_mib`.";
    /// The disk is missing, has a wrong size, or cannot be opened.
    DiskRefused = 13, "disk-refused", "The disk is missing, cannot be opened, or is no multiple of 512 bytes.", "Name the right image, or mend its size or rights.";
    /// Another process holds the disk.
    DiskLocked = 14, "disk-locked", "Another process holds the disk, or it is mounted.", "Stop the other VM or tool that uses it.";
    /// The TAP interface is missing, busy or not ours.
    TapRefused = 15, "tap-refused", "The TAP interface is missing, busy, or not permitted.", "Create it for this user with `ip tuntap add`, or stop its other user.";
    /// There is no KVM here.
    KvmMissing = 16, "kvm-missing", "There is no usable `/dev/kvm`: it is missing or not permitted.", "Load the KVM module, or join the group that owns the device.";
    /// This KVM cannot run the guest.
    KvmUnusable = 17, "kvm-unusable", "This host's KVM lacks something that the guest needs.", "Run `antipode doctor`, which names it.";
    /// A log cannot be written or read, or belongs to another machine.
    LogRefused = 18, "log-refused", "The log exists already, cannot be read, is damaged, or was made of another machine.", "Name the right log and the files it was made with.";
    /// A saved machine cannot be written or restored, or belongs to another one.
    StateRefused = 19, "state-refused", "The saved machine exists already, cannot be read, is damaged, or was made of other files.", "Name the right file and the files that the machine was made with.";
    /// The guest asked for a reset.
    GuestReboot = 20, "guest-reboot", "The guest rebooted; an unprotected VM ends then.", "Start it again if that was wanted.";
    /// The guest's kernel panicked.
    GuestPanic = 21, "guest-panic", "The guest's kernel panicked.", "Read the guest's console.";
    /// The guest's processor shut down.
    TripleFault = 22, "triple-fault", "The guest's processor met a triple fault.", "Read the guest's console; of a stock kernel, report it.";
    /// The guest broke a device's rules.
    GuestFault = 23, "guest-fault", "The guest broke a rule of a device, or touched memory where nothing is.", "Look for a broken or hostile driver in the guest.";
    /// KVM left the guest for a reason outside the closed list.
    UnexpectedExit = 24, "unexpected-exit", "KVM left the guest for a reason that no rule covers.", "Run `antipode doctor`; report the exit's name.";
    /// The guest halted with interrupts off.
    GuestHalted = 25, "guest-halted", "The guest halted with interrupts off; nothing can wake it.", "Start it again; let the guest power off instead of halting.";
    /// A replay does not do what was recorded.
    Diverged = 26, "diverged", "A replay does not do what was recorded; the first position that differs is shown.", "Compare the two hosts with `antipode doctor`; report it with the log.";
    /// The log ends before the execution does.
    RecordEnded = 27, "record-ended", "The replay came to the end of a log that was cut off before the VM ended.", "Nothing: all that was logged was replayed.";
    /// The host refused an operation after the start.
    HostIo = 30, "host-io", "The host failed an operation on a file, terminal or network after the start.", "Mend what the message names: space, rights, hardware.";
    /// KVM failed after the start.
    KvmFailed = 31, "kvm-failed", "KVM refused an operation after the start.", "Read the host's kernel log.";
    /// The operator ended the command.
    Interrupted = 32, "interrupted", "The operator ended the command with a signal.", "Nothing.";
    /// A certificate, key or CA cannot be used.
    CertsRefused = 40, "certs-refused", "A certificate, key or CA is missing, wrong, expired or exposed; the message says which file and why.", "Do what the message says; `antipode certs show` shows what a file holds.";
    /// A certificate is good but near its end.
    ExpiresSoon = 41, "expires-soon", "Of `certs verify`: everything is good, but the certificate or its CA is in the last tenth of its life.", "Renew it with `antipode certs renew`; of a CA, make a new one.";
    /// A file that would be overwritten.
    FileExists = 42, "file-exists", "The command would have overwritten a file; nothing was changed.", "Name another place, or move the file away.";
    /// Two disks hold different things.
    DisksDiffer = 50, "disks-differ", "Of `disk diff`, `disk verify` and `vm verify`: the two disks differ. Of `disk sync`: what was written does not read back as what was sent.", "Run `antipode disk sync`; if that ended in this, test both disks.";
    /// Copying one replica over the other would do harm.
    SyncRefused = 51, "sync-refused", "Copying one replica over the other would do harm; the message says why. Nothing was changed.", "Do what the message says, or swap source and target.";
    /// A sync ended early.
    SyncInterrupted = 52, "sync-interrupted", "A sync, or a look at another host's image, ended early: the connection broke, or the other end gave up. A target that was touched says `syncing`.", "Mend what the message names and run the same command again: it goes on where it was.";
    /// A replica's metadata cannot be used.
    ReplicaRefused = 53, "replica-refused", "A replica's metadata is missing, damaged, or of another version; or the replica is not clean, and a VM shall run on it.", "Make it with `antipode disk create`, or restore it; a damaged replica is made anew with `--empty` and synced, one that is not clean is synced.";
    /// The data of a tiebreaker's node cannot be used.
    DataRefused = 60, "data-refused", "The data of this tiebreaker node is missing, there already, in use, another's, or damaged; or the backup is none that can be restored. Nothing was mended or made.", "Do what the message says; docs/tiebreaker.md tells how a node comes back.";
    /// Nobody can be listened to at the address.
    ListenRefused = 61, "listen-refused", "The daemon cannot listen on its address.", "Mend the address, or stop the other process that has it.";
    /// No node answered.
    Unreachable = 62, "unreachable", "No tiebreaker node answered in time. A change that was asked for may or may not have been made.", "See `antipode tiebreaker status`; look at the record before asking again.";
    /// The tiebreaker said no.
    Refused = 63, "refused", "The tiebreaker has refused the change, or the guard of an override has; nothing was changed.", "Do what the message says.";
    /// The tiebreaker works, with a gap.
    Degraded = 64, "degraded", "Of `tiebreaker status`: the tiebreaker has a gap, which is shown.", "Do what each problem says.";
    /// A site or a VM of it does not do what was asked.
    SiteRefused = 70, "site-refused", "A site, or a VM of it, does not do what was asked; the message says why.", "Do what the message says; `antipode vm status` shows how the VM is.";
    /// What was asked for cannot be had on this host, and no harm is done.
    Skipped = 77, "skipped", "What was asked for cannot be had on this host; the reason is shown.", "Nothing, or use another host.";
}

impl ExitCode {
    /// The number that the process ends with.
    #[must_use]
    pub const fn number(self) -> u8 {
        self as u8
    }
}

impl From<ExitCode> for std::process::ExitCode {
    fn from(code: ExitCode) -> Self {
        Self::from(code.number())
    }
}

/// The section of the help and of the manual.
pub(super) fn help() -> String {
    let mut text = String::from("Exit codes:\n");
    for code in ExitCode::ALL {
        let _ = writeln!(
            text,
            "  {:>3}  {:<16} {}",
            code.number(),
            code.name(),
            code.meaning().replace('`', "")
        );
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The page is for readers, the catalogue for the program: neither may know a code that the other does not.
    #[test]
    fn the_page_lists_exactly_these_codes() {
        let page = include_str!("../../docs/exit-codes.md");
        let rows = page.lines().filter(|line| line.starts_with("| "));
        let listed: Vec<&str> = rows.skip(2).collect();
        let expected: Vec<String> = ExitCode::ALL
            .iter()
            .map(|code| {
                let (name, meaning, remedy) = (code.name(), code.meaning(), code.remedy());
                format!("| {} | `{name}` | {meaning} | {remedy} |", code.number())
            })
            .collect();
        assert!(
            listed == expected,
            "docs/exit-codes.md should hold:\n{}",
            expected.join("\n")
        );
    }

    #[test]
    fn numbers_rise_and_names_differ() {
        assert!(ExitCode::ALL.is_sorted_by(|a, b| a.number() < b.number()));
        let mut names: Vec<&str> = ExitCode::ALL.iter().map(|code| code.name()).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), ExitCode::ALL.len());
    }
}
