//! The kernel's command line: the operator's words, then the settings without which execution would not be
//! deterministic or the machine's answers would not fit.
//!
//! Ours come last because Linux lets the last word win; a bare `--` of the operator's, after which Linux passes
//! everything to `init`, is therefore kept behind ours. Words of the operator's that contradict ours are refused and
//! not overridden in silence. `-` and `_` are the same in a name, as they are to Linux.
//!
//! | setting | why |
//! |---|---|
//! | `nokaslr` | The edited sites, and the addresses in reports, are those the kernel was linked for. The decompressor, which would move it, never runs; this says so to whoever reads the line. Linux does not know the word itself and hands it to `init` as an argument. |
//! | `norandmaps` | User address layouts would be drawn from the kernel's generator; equal on both sites anyway, but every trace then reads alike. |
//! | `randomize_kstack_offset=off` | Each system call would read the time-stamp counter: one exit per call. |
//! | `lpj=1000000` | Delay loops are calibrated against the timer otherwise, which takes seconds of exits and gives each host its own value. At 250 Hz this is 250 loops per µs: no host is slower, and no device of ours needs the wait. |
//! | `no_timer_check` | The check counts timer interrupts during a busy delay; with `lpj` fixed that delay means nothing. |
//! | `nosmp` | One vCPU. |
//! | `noapic` | Interrupts come through the PIC alone (spec E1); there is no I/O APIC. |
//! | `nolapic` | Nor a local one; CPUID shows none. |
//! | `mitigations=off` | Mitigations write MSRs that are not in the table, flush at places that differ between CPU models, and add nothing inside a VM whose host mitigates. |
//! | `random.trust_cpu=off` | RDRAND and RDSEED are hidden; this keeps the kernel from using them for its own seed should they be seen. |
//! | `transparent_hugepage=never` | `khugepaged` scans memory by time and reads accessed bits, which hardware may set speculatively. |
//! | `numa_balancing=disable` | As above: samples accessed bits by time. |
//! | `kfence.sample_interval=0` | KFENCE samples allocations on a timer. |
//! | `audit=0` | Each event would read the clock. |
//! | `nowatchdog` | Lockup detectors compare clocks that stand still while the VM is paused. |
//! | `clocksource=hpet` | Its counter is read from a page that the machine brings up to date at exits: no exit per read, where the PM timer costs one. |
//! | `io_delay=none` | `outb_p` would write port 0x80 after each access: an extra exit for every timer programming, no device of ours needs it, and its alternative, port 0xED, is one of the trap ports. |
//! | `pci=conf1,noearly` | Configuration mechanism 1 is what the machine has: no memory-mapped configuration, no probing of other mechanisms, no early walk over the bus. |
//! | `panic=-1` | A panic reboots at once instead of halting for ever. |
//! | `reboot=panic_warm` | A panic's reboot, and no other, leaves the BIOS warm-boot flag 0x1234 at physical 0x472 (`reboot_setup` and `native_machine_emergency_restart` of 6.1; any other reboot writes 0 there), so the machine can tell the two apart. |
//! | `module_blacklist=…` | These modules hold RDTSC, which nobody rewrites in modules. The operator's own list is joined with it. |

use super::error::CmdlineError;
use crate::base::limits::CMDLINE_BYTES_MAX;

/// The setting whose value is joined with the operator's.
const BLACKLIST: &str = "module_blacklist";

/// Modules of Debian 6.1 that hold RDTSC.
const BLACKLISTED_MODULES: [&str; 6] = [
    "kvm",
    "kvm_intel",
    "kvm_amd",
    "jitterentropy_rng",
    "tcrypt",
    "intel_powerclamp",
];

/// What the machine requires, but the blacklist, with the reason an operator is given.
const REQUIRED: [(&str, &str); 20] = [
    ("nokaslr", "the kernel must run where it was edited"),
    ("norandmaps", "user address layouts must not be drawn at random"),
    (
        "randomize_kstack_offset=off",
        "each system call would cost an exit",
    ),
    ("lpj=1000000", "delay loops must not be calibrated on the host"),
    ("no_timer_check", "the timer check depends on calibrated delays"),
    ("nosmp", "the VM has one vCPU"),
    ("noapic", "the machine has no I/O APIC"),
    ("nolapic", "the machine has no local APIC"),
    (
        "mitigations=off",
        "mitigations behave differently from CPU model to CPU model",
    ),
    (
        "random.trust_cpu=off",
        "the CPU's random numbers differ between sites",
    ),
    (
        "transparent_hugepage=never",
        "khugepaged reads accessed bits that hardware sets by chance",
    ),
    (
        "numa_balancing=disable",
        "NUMA balancing reads accessed bits that hardware sets by chance",
    ),
    ("kfence.sample_interval=0", "KFENCE samples by time"),
    ("audit=0", "each audit event reads the clock"),
    ("nowatchdog", "lockup detectors misread a paused VM"),
    (
        "clocksource=hpet",
        "the HPET is the clock that the machine shows virtual time on",
    ),
    (
        "io_delay=none",
        "port 0x80 would cost an exit per access and port 0xED is a trap port",
    ),
    (
        "pci=conf1,noearly",
        "the machine has PCI configuration mechanism 1 alone",
    ),
    ("panic=-1", "a panic must end the VM at once"),
    (
        "reboot=panic_warm",
        "the machine tells a panic from a reboot by it",
    ),
];

/// Names that would undo a required setting by another road, with the reason an operator is given.
const FORBIDDEN: [(&str, &str); 13] = [
    (
        "tsc",
        "the time-stamp counter is hidden and the clock source is the HPET",
    ),
    ("clock", "the clock source is the HPET"),
    ("pmtmr", "the ACPI PM timer's port is fixed"),
    (
        "acpi",
        "power-off, the clock source and interrupt routing come from ACPI",
    ),
    ("apic", "interrupts come through the PIC"),
    ("lapic", "interrupts come through the PIC"),
    ("idle", "an idle guest must halt: events reach it at exits alone"),
    ("nohlt", "an idle guest must halt: events reach it at exits alone"),
    ("crashkernel", "a kernel started by kexec is not edited"),
    ("initrdmem", "the machine places the initrd"),
    (
        "bootconfig",
        "settings hidden in the initrd could contradict the machine's",
    ),
    (
        "mem",
        "the machine describes the VM's memory; set its size in the VM's configuration",
    ),
    ("memmap", "the machine describes the VM's memory"),
];

/// A finished command line. It can only be made by [`CommandLine::build`], so a kernel is never started without the
/// required settings.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CommandLine(String);

impl CommandLine {
    /// Joins the operator's words with the machine's settings.
    ///
    /// # Errors
    /// A contradiction, a character or quotation that Linux would misread, or a line longer than Linux reads.
    pub fn build(operator: &str) -> Result<Self, CmdlineError> {
        let words = words(operator)?;
        let mut blacklist: Vec<&str> = Vec::new();
        let mut line: Vec<&str> = Vec::new();
        let kernel_word_count = words.iter().position(|word| *word == "--").unwrap_or(words.len());
        let (kernel_words, init_words) = words.split_at(kernel_word_count);
        for word in kernel_words {
            check(word)?;
            match word.split_once('=') {
                Some((name, list)) if same_name(name, BLACKLIST) => {
                    blacklist.extend(list.trim_matches('"').split(','))
                }
                _ => line.push(word),
            }
        }
        let own_start = line.len();
        line.extend(REQUIRED.iter().map(|(word, _)| word));
        blacklist.extend(BLACKLISTED_MODULES);
        let blacklist = format!("{BLACKLIST}={}", blacklist.join(","));
        line.push(&blacklist);
        let required_byte_count = line[own_start..].iter().map(|word| word.len() + 1).sum::<usize>() - 1;
        line.extend(init_words);
        let line = line.join(" ");
        if line.len() > CMDLINE_BYTES_MAX {
            return Err(CmdlineError::TooLong {
                byte_count: line.len(),
                required_byte_count,
            });
        }
        Ok(Self(line))
    }

    /// The line, without a terminating zero.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Splits as Linux's `next_arg` does: at white space outside double quotes.
fn words(line: &str) -> Result<Vec<&str>, CmdlineError> {
    let mut words = Vec::new();
    let (mut start, mut quote) = (None, None);
    for (offset, character) in line.char_indices() {
        if !(character.is_ascii_graphic() || matches!(character, ' ' | '\t' | '\n')) {
            return Err(CmdlineError::BadCharacter { character, offset });
        }
        if character.is_ascii_whitespace() && quote.is_none() {
            words.extend(start.take().map(|start: usize| &line[start..offset]));
            continue;
        }
        if character.is_ascii_whitespace() && character != ' ' {
            return Err(CmdlineError::BadCharacter { character, offset });
        }
        start.get_or_insert(offset);
        if character == '"' {
            quote = if quote.is_some() { None } else { Some(offset) };
        }
    }
    if let Some(offset) = quote {
        return Err(CmdlineError::OpenQuote { offset });
    }
    words.extend(start.map(|start| &line[start..]));
    Ok(words)
}

fn name_of(word: &str) -> &str {
    let word = word.trim_start_matches('"');
    word.split_once('=')
        .map_or(word, |(name, _)| name)
        .trim_end_matches('"')
}

fn same_name(one: &str, other: &str) -> bool {
    let plain = |name: &str| name.replace('-', "_");
    plain(name_of(one)) == plain(other)
}

/// Refuses `word` if it sets what the machine decides, unless it says exactly the same.
fn check(word: &str) -> Result<(), CmdlineError> {
    let contradiction = |why: String| CmdlineError::Contradiction {
        word: word.to_owned(),
        why,
    };
    for (required, why) in REQUIRED {
        if same_name(word, name_of(required)) && word != required {
            return Err(contradiction(format!(
                "the machine sets {required:?} because {why}"
            )));
        }
    }
    for (forbidden, why) in FORBIDDEN {
        if same_name(word, forbidden) {
            return Err(contradiction(why.to_owned()));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn built(operator: &str) -> String {
        CommandLine::build(operator).unwrap().as_str().to_owned()
    }

    fn refused(operator: &str) -> String {
        CommandLine::build(operator).unwrap_err().to_string()
    }

    #[test]
    fn the_operators_words_come_first_and_all_of_ours_follow() {
        let line = built("  console=ttyS0\troot=/dev/vda ");
        assert!(line.starts_with("console=ttyS0 root=/dev/vda nokaslr "), "{line}");
        for (required, _) in REQUIRED {
            assert!(line.split(' ').any(|word| word == required), "{required}");
        }
        assert!(
            line.ends_with(
                "module_blacklist=kvm,kvm_intel,kvm_amd,jitterentropy_rng,tcrypt,intel_powerclamp"
            )
        );
    }

    #[test]
    fn every_setting_of_ours_is_explained_in_the_module_header() {
        let source = include_str!("cmdline.rs");
        for (required, _) in REQUIRED {
            assert!(source.contains(&format!("//! | `{required}`")), "{required}");
        }
    }

    #[test]
    fn contradictions_are_refused_with_the_reason() {
        for word in [
            "reboot=cold",
            "panic=30",
            "clocksource=tsc",
            "tsc=reliable",
            "lpj=5",
            "mitigations=auto",
        ] {
            let text = refused(&format!("quiet {word}"));
            assert!(text.contains(word) && text.contains("remove"), "{text}");
        }
        assert!(
            refused("randomize-kstack-offset=on").contains("exit"),
            "dashes are underscores"
        );
        assert!(refused("crashkernel=128M").contains("kexec"));
        assert!(
            refused("\"panic=5\"").contains("panic"),
            "a quoted word is one too"
        );
    }

    #[test]
    fn repeating_ours_is_no_contradiction() {
        assert!(built("nokaslr panic=-1").starts_with("nokaslr panic=-1 nokaslr"));
    }

    #[test]
    fn words_for_init_stay_behind_ours() {
        let line = built("quiet -- single panic=9");
        assert!(line.ends_with("intel_powerclamp -- single panic=9"), "{line}");
    }

    #[test]
    fn blacklists_are_joined() {
        let line = built("module_blacklist=floppy,pcspkr quiet");
        assert!(line.contains("module_blacklist=floppy,pcspkr,kvm,"), "{line}");
        assert_eq!(line.matches("module_blacklist").count(), 1);
    }

    #[test]
    fn what_linux_would_misread_is_refused() {
        assert_eq!(
            CommandLine::build("a \"b c"),
            Err(CmdlineError::OpenQuote { offset: 2 })
        );
        assert_eq!(
            CommandLine::build("a\0b"),
            Err(CmdlineError::BadCharacter {
                character: '\0',
                offset: 1
            })
        );
        assert!(matches!(
            CommandLine::build("ä"),
            Err(CmdlineError::BadCharacter { offset: 0, .. })
        ));
        assert_eq!(words("a=\"b c\" d").unwrap(), ["a=\"b c\"", "d"]);
    }

    #[test]
    fn a_long_line_says_by_how_much() {
        let room = CMDLINE_BYTES_MAX - built("").len() - 1;
        assert_eq!(built(&"x".repeat(room)).len(), CMDLINE_BYTES_MAX);
        let text = refused(&"x".repeat(room + 7));
        assert!(text.contains("shorten yours by 7 bytes"), "{text}");
    }
}
