//! A table of mistakes, each with the place and words the reader gets; properties over arbitrary text.

use std::path::{Path, PathBuf};

use proptest::prelude::*;

use super::*;
use crate::base::configuration::ConfigMistake;

const SMALLEST: &str = "name = \"a\"\nmemory_mib = 64\n[kernel]\npath = \"vmlinuz\"\n";

fn parsed(text: &str) -> Result<VmConfig, Vec<ConfigMistake>> {
    parse(text, Path::new("/vms"))
}

fn mistakes(text: &str) -> Vec<String> {
    parsed(text)
        .expect_err(text)
        .iter()
        .map(ToString::to_string)
        .collect()
}

#[test]
fn the_documented_sample_parses() {
    let page = include_str!("../../../docs/vm-configuration.md");
    let sample = page
        .split("```toml\n")
        .nth(1)
        .and_then(|rest| rest.split("```").next())
        .unwrap();
    let config = parsed(sample).unwrap();
    assert_eq!(
        config,
        VmConfig {
            name: VmName("redis-1".to_owned()),
            memory_bytes: 512 << 20,
            kernel: KernelConfig {
                path: PathBuf::from("/vms/vmlinuz-6.1.0-cloud-amd64"),
                initrd: Some(PathBuf::from("/vms/initrd.img")),
                cmdline: "console=ttyS0 quiet".to_owned(),
            },
            disk: Some(DiskConfig {
                path: PathBuf::from("/srv/vm/redis-1.img"),
                metadata: Some(PathBuf::from("/srv/vm/redis-1.replica")),
                read_only: false,
            }),
            network: Some(NetworkConfig {
                tap: TapName("tap0".to_owned()),
                mac: MacAddress([2, 0, 0, 0, 0, 1]),
            }),
            console: ConsoleMode::Interactive,
            verifies_output: false,
            kept: Kept::Replay,
            clock_start: Some(UnixSeconds(1_769_860_800)),
        }
    );
}

#[test]
fn what_is_optional_may_be_absent() {
    let config = parsed(SMALLEST).unwrap();
    assert_eq!(config.kernel.initrd, None);
    assert_eq!(config.kernel.cmdline, "");
    assert_eq!((config.disk, config.network), (None, None));
    assert_eq!(
        (config.console, config.clock_start),
        (ConsoleMode::Interactive, None)
    );
}

/// Lines put in place of `memory_mib = 64` in the smallest configuration, and the mistakes they give.
const MISTAKES: &[(&str, &[&str])] = &[
    ("memory_mib = 64", &[]),
    (
        "memory_mib = 63",
        &[
            "2:14: memory_mib is 63, outside what a guest can have; give a whole number of mebibytes from 64 to 262144",
        ],
    ),
    ("memory_mib = 0x40", &[]),
    ("memory_mib = 262_144", &[]),
    (
        "memory_mib = -64",
        &[
            "2:14: memory_mib is -64, outside what a guest can have; give a whole number of mebibytes from 64 to 262144",
        ],
    ),
    (
        "memory_mib = \"64\"",
        &[
            "2:14: memory_mib must be a whole number, here it is a string; give a whole number of mebibytes from 64 to 262144",
        ],
    ),
    (
        "memroy_mib = 64",
        &[
            "1:1: memory_mib is missing; add a line such as memory_mib = 512",
            "2:1: unknown key \"memroy_mib\"; did you mean memory_mib?",
        ],
    ),
    (
        "memory_mib = 64\nsmbios = 3",
        &[
            "3:1: unknown key \"smbios\"; remove it; known here: name, memory_mib, output, mode, kernel, disk, network, console, clock",
        ],
    ),
    (
        "memory_mib = 64\ndisk = \"a.img\"",
        &[
            "3:8: disk is a section, here it is a string; write [disk] on a line of its own and its keys below",
        ],
    ),
    (
        "memory_mib = 64\n[disk]\nread_only = \"no\"",
        &[
            "3:1: path is missing in [disk]; add a line such as path = \"disk.img\"",
            "4:13: read_only must be true or false, here it is a string; write true or false without quotes",
        ],
    ),
    (
        "memory_mib = 64\n[network]\ntap = \"a-name-too-long!\"\nmac = \"03:00:00:00:00:01\"",
        &[
            "4:7: tap \"a-name-too-long!\" is no interface name; use 1 to 15 printable characters without / : and %",
            "5:7: mac 03:00:00:00:00:01 is a multicast address, which no card can have; make the first pair even, such as 02",
        ],
    ),
    (
        "memory_mib = 64\n[console]\nmode = \"interactiv\"",
        &["4:8: mode \"interactiv\" is no console mode; did you mean \"interactive\"?"],
    ),
    (
        "memory_mib = 64\n[clock]\nstart = 2026-01-31",
        &[
            "4:9: start 2026-01-31 names no moment: date, time and offset are needed; write a date and time with an offset and no quotes, such as 2026-01-31T12:00:00Z",
        ],
    ),
    (
        "memory_mib = 64\n[clock]\nstart = 2070-01-01T00:00:00Z",
        &[
            "4:9: start 2070-01-01T00:00:00Z is outside what the guest's clock can say; choose a moment from 1970 to 2069",
        ],
    ),
];

#[test]
fn every_mistake_has_its_place_and_its_mend() {
    for (lines, expected) in MISTAKES {
        let text = SMALLEST.replace("memory_mib = 64", lines);
        let found = parsed(&text).err().unwrap_or_default();
        let found: Vec<String> = found.iter().map(ToString::to_string).collect();
        assert_eq!(found, *expected, "{text}");
    }
}

#[test]
fn a_broken_line_is_reported_alone() {
    let found = mistakes("name = \nmemory_mib = 1\n");
    assert_eq!(found.len(), 1, "{found:?}");
    assert!(found[0].starts_with("1:8: "), "{found:?}");
}

#[test]
fn an_empty_file_lacks_everything_required() {
    let found = mistakes("");
    assert_eq!(found.len(), 3, "{found:?}");
    assert!(
        found[2].starts_with("1:1: kernel is missing; add a line such as"),
        "{found:?}"
    );
}

#[test]
fn columns_count_characters() {
    let found =
        mistakes("name = \"ä\" # ü\n\"ö\" = 1\nmemory_mib=64\n[kernel]\npath=\"k\"\ncmdline = \"é\"\n");
    let places: Vec<&str> = found.iter().filter_map(|m| m.split(": ").next()).collect();
    assert_eq!(places, ["1:8", "2:1", "6:11"]);
}

#[test]
fn names_and_addresses_keep_their_rules() {
    let with = |section: &str, line: &str| parsed(&format!("{SMALLEST}[{section}]\n{line}\n")).is_ok();
    for tap in ["", ".", "..", "a/b", "a:b", "tap%d", "a b", "sixteen-bytes-xx"] {
        assert!(
            !with(
                "network",
                &format!("mac = \"02:00:00:00:00:01\"\ntap = \"{tap}\"")
            ),
            "{tap}"
        );
    }
    for mac in [
        "",
        "02",
        "02:00:00:00:00:1",
        "02:00:00:00:00:01:02",
        "00:00:00:00:00:00",
        "+2:00:00:00:00:01",
    ] {
        assert!(
            !with("network", &format!("tap = \"tap0\"\nmac = \"{mac}\"")),
            "{mac}"
        );
    }
    for name in ["", "-a", "a-", "A", "a_b", &"a".repeat(64)] {
        assert!(
            parsed(&SMALLEST.replace("\"a\"", &format!("\"{name}\""))).is_err(),
            "{name}"
        );
    }
    assert!(parsed(&SMALLEST.replace("\"a\"", &format!("\"{}\"", "a".repeat(63)))).is_ok());
}

#[test]
fn the_command_line_keeps_to_what_the_kernel_takes() {
    let with = |cmdline: &str| parsed(&format!("{SMALLEST}cmdline = \"{cmdline}\"\n"));
    assert!(with(&"x".repeat(2047)).is_ok());
    assert!(with(&"x".repeat(2048)).is_err());
    assert!(with("a\\nb").is_err());
    assert!(with("a\\u0000b").is_err());
}

#[test]
fn an_offset_moves_the_moment() {
    let start = |moment: &str| {
        parsed(&format!("{SMALLEST}[clock]\nstart = {moment}\n"))
            .map(|config| config.clock_start.unwrap().get())
    };
    assert_eq!(start("1970-01-01T00:00:00Z").unwrap(), 0);
    assert_eq!(start("2000-02-29T01:00:00+01:00").unwrap(), 951_782_400);
    assert_eq!(start("2069-12-31T23:59:59Z").unwrap(), 3_155_759_999);
    assert!(start("1970-01-01T00:00:00+00:01").is_err());
}

#[test]
fn a_file_that_is_no_configuration_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("vm.toml");
    assert!(matches!(load(&path), Err(ConfigError::Unreadable { .. })));
    std::fs::write(&path, vec![b'#'; 64 * 1024 + 1]).unwrap();
    assert!(matches!(load(&path), Err(ConfigError::NotConfiguration { .. })));
    std::fs::write(&path, [0xff]).unwrap();
    assert!(matches!(load(&path), Err(ConfigError::NotConfiguration { .. })));
    std::fs::write(&path, SMALLEST).unwrap();
    assert_eq!(load(&path).unwrap().kernel.path, folder.path().join("vmlinuz"));
}

proptest! {
    #[test]
    fn arbitrary_text_never_panics_and_places_lie_inside(text in "(?s).{0,200}") {
        check_places(&text)?;
    }

    #[test]
    fn damaged_configurations_never_panic(
        at in 0_usize..400,
        removed in 0_usize..8,
        inserted in "[\\[\\]=\"'{}.\n a-z0-9é]{0,6}",
    ) {
        let page = include_str!("../../../docs/vm-configuration.md");
        let sample = page.split("```toml\n").nth(1).unwrap().split("```").next().unwrap();
        let mut characters: Vec<char> = sample.chars().collect();
        let at = at.min(characters.len());
        let end = (at + removed).min(characters.len());
        characters.splice(at..end, inserted.chars());
        check_places(&characters.into_iter().collect::<String>())?;
    }

    #[test]
    fn every_allowed_memory_size_is_taken_exactly(mib in 64_u64..=262_144) {
        let config = parsed(&SMALLEST.replace("= 64", &format!("= {mib}"))).unwrap();
        prop_assert_eq!(config.memory_bytes, mib << 20);
    }

    #[test]
    fn every_unicast_address_survives(mut octets in any::<[u8; 6]>()) {
        octets[0] = (octets[0] & !1) | 2;
        let mac = MacAddress(octets);
        let text = format!("{SMALLEST}[network]\ntap = \"t\"\nmac = \"{mac}\"\n");
        prop_assert_eq!(parsed(&text).unwrap().network.unwrap().mac, mac);
    }
}

fn check_places(text: &str) -> Result<(), TestCaseError> {
    if let Err(mistakes) = parsed(text) {
        prop_assert!(!mistakes.is_empty(), "refused without a reason: {text:?}");
        for mistake in mistakes {
            let lines = text.matches('\n').count() + 1;
            prop_assert!((1..=lines).contains(&mistake.line), "{mistake}");
            prop_assert!(mistake.column >= 1 && !mistake.mend.is_empty());
        }
    }
    Ok(())
}
