//! The direction of imports: between the layers of the root crate, and between the workspace's members.

use super::repository::{Fault, TextFile, is_word_byte, line_of, whole_words};
use super::source::View;

/// From the ground up. A layer may import the ones before its own row; layers in one row do not know each other.
const LAYERS: &[&[&str]] = &[
    &["base"],
    &["devices"],
    &["machine"],
    &["replay"],
    &["channel", "transfer"],
    &["protocol"],
    &["site"],
    &["cli"],
];

/// The folder of each package, and the folders of those packages of ours that it may depend on.
const PACKAGES: &[(&str, &[&str])] = &[
    ("", &["certs", "disk-sync", "tiebreaker"]),
    ("certs", &[]),
    ("disk-sync", &["certs"]),
    ("tiebreaker", &["certs"]),
    ("tests/lab", &["certs", "disk-sync", "tiebreaker"]),
];

fn rank(layer: &str) -> Option<usize> {
    LAYERS.iter().position(|row| row.contains(&layer))
}

/// The parts of a module's path inside the crate: `src/devices/rtc/device.rs` is `devices`, `rtc`, `device`.
fn module_of(path: &str) -> Option<Vec<&str>> {
    let inner = path.strip_prefix("src/")?.strip_suffix(".rs")?;
    let mut parts: Vec<&str> = inner.split('/').collect();
    if parts.last() == Some(&"mod") {
        parts.pop();
    }
    (!matches!(parts[..], ["lib" | "main"])).then_some(parts)
}

pub(crate) fn check_layers(files: &[TextFile]) -> Vec<Fault> {
    files.iter().flat_map(check_file).collect()
}

fn check_file(file: &TextFile) -> Vec<Fault> {
    let Some(module) = module_of(&file.path) else {
        return Vec::new();
    };
    let own = module[0];
    let Some(own_rank) = rank(own) else {
        return vec![Fault {
            path: file.path.clone(),
            line: 1,
            what: format!("{own} is no layer of the root crate"),
            mend: "put the file into a layer, or give the new layer its place in tests/tidy/imports.rs and docs/architecture.md",
        }];
    };
    let code = View::of(&file.text).code;
    let mut named = names_after(&code, "crate::");
    // A chain of `super::` as long as the module's depth may end at the crate's root.
    named.extend(names_after(&code, &"super::".repeat(module.len())));
    named
        .into_iter()
        .filter(|(_, name)| *name != own)
        .filter(|(_, name)| rank(name).is_some_and(|rank| rank >= own_rank))
        .map(|(at, name)| Fault {
            path: file.path.clone(),
            line: line_of(&code, at),
            what: format!("{own} imports {name}, which stands above or beside it"),
            mend: "move what is shared down, or hand it in from above as a value or trait",
        })
        .collect()
}

/// The first path parts that follow `prefix` in `code`, those inside a braced group too, with their places.
fn names_after<'a>(code: &'a str, prefix: &str) -> Vec<(usize, &'a str)> {
    let mut names = Vec::new();
    for at in whole_words(code, prefix.trim_end_matches(':')).filter(|&at| code[at..].starts_with(prefix)) {
        let start = at + prefix.len();
        if code[start..].starts_with('{') {
            names.extend(group_heads(code, start + 1));
        } else {
            names.push((start, word_at(code, start)));
        }
    }
    names
}

fn word_at(code: &str, start: usize) -> &str {
    let length = code.as_bytes()[start..]
        .iter()
        .take_while(|&&byte| is_word_byte(byte))
        .count();
    &code[start..start + length]
}

/// The first part of each path in the braced group whose inside begins at `start`.
fn group_heads(code: &str, start: usize) -> Vec<(usize, &str)> {
    let mut heads = Vec::new();
    let (mut depth, mut expecting) = (1_usize, true);
    for (offset, byte) in code.as_bytes()[start..].iter().enumerate() {
        match byte {
            b'{' => depth += 1,
            b'}' => depth -= 1,
            b',' if depth == 1 => expecting = true,
            byte if expecting && is_word_byte(*byte) => {
                heads.push((start + offset, word_at(code, start + offset)));
                expecting = false;
            }
            _ => {}
        }
        if depth == 0 {
            break;
        }
    }
    heads
}

pub(crate) fn check_members(files: &[TextFile]) -> Vec<Fault> {
    let packages: Vec<Package<'_>> = files.iter().filter_map(Package::of).collect();
    let mut faults = Vec::new();
    for package in &packages {
        let fault = |line: usize, what: String, mend: &'static str| Fault {
            path: package.file.path.clone(),
            line,
            what,
            mend,
        };
        let Some((_, allowed)) = PACKAGES.iter().find(|(folder, _)| *folder == package.folder) else {
            faults.push(fault(
                1,
                format!("{} is a package in no place of the architecture", package.name),
                "give it its place in tests/tidy/imports.rs and docs/architecture.md",
            ));
            continue;
        };
        for dependency in &package.dependencies {
            let Some(ours) = packages.iter().find(|other| other.name == *dependency) else {
                continue;
            };
            if !allowed.contains(&ours.folder) {
                faults.push(fault(
                    package.line_naming(dependency),
                    format!("{} depends on {dependency}", package.name),
                    "no member imports the root, and certs imports nothing of ours: move what is shared down",
                ));
            }
        }
    }
    faults
}

struct Package<'a> {
    file: &'a TextFile,
    folder: &'a str,
    name: String,
    dependencies: Vec<String>,
}

impl<'a> Package<'a> {
    fn of(file: &'a TextFile) -> Option<Self> {
        let folder = file.path.strip_suffix("Cargo.toml")?.trim_end_matches('/');
        let manifest: toml::Table = file.text.parse().unwrap();
        let name = manifest.get("package")?.get("name")?.as_str()?.to_owned();
        let mut dependencies = Vec::new();
        collect_dependencies(&manifest, &mut dependencies);
        Some(Self {
            file,
            folder,
            name,
            dependencies,
        })
    }

    fn line_naming(&self, dependency: &str) -> usize {
        let named =
            |line: &str| line.split(['.', ' ', '=']).next() == Some(dependency) || line.contains(dependency);
        let inside = self
            .file
            .text
            .lines()
            .position(|line| line.contains("dependencies]"))
            .unwrap_or(0);
        let offset = self.file.text.lines().skip(inside).position(named).unwrap_or(0);
        inside + offset + 1
    }
}

/// Every package that a table of dependencies names, at whatever depth the table stands.
fn collect_dependencies(table: &toml::Table, found: &mut Vec<String>) {
    for (key, value) in table {
        let Some(inner) = value.as_table() else { continue };
        if key.ends_with("dependencies") {
            found.extend(inner.iter().map(|(alias, dependency)| {
                let renamed = dependency.get("package").and_then(toml::Value::as_str);
                renamed.unwrap_or(alias).to_owned()
            }));
        } else {
            collect_dependencies(inner, found);
        }
    }
}

#[test]
fn planted_imports_against_the_direction_are_found() {
    let text = "use crate::base::units;\nuse crate::{base::clock, machine::{boot, config}, cli};\n\
                // crate::site\nfn f() { super::super::protocol::g(); super::super::base::h() }\n\
                use crate::devices::rtc;\n";
    let faults = check_layers(&[TextFile::planted("src/devices/rtc.rs", text)]);
    let lines: Vec<usize> = faults.iter().map(|fault| fault.line).collect();
    assert_eq!(lines, [2, 2, 4], "{faults:?}");
}

#[test]
fn layers_of_one_row_do_not_import_each_other() {
    let faults = check_layers(&[TextFile::planted(
        "src/channel/mod.rs",
        "use crate::transfer::page;\n",
    )]);
    assert_eq!(faults.len(), 1);
}

#[test]
fn a_planted_file_outside_the_layers_is_found() {
    assert_eq!(check_layers(&[TextFile::planted("src/helpers.rs", "")]).len(), 1);
    assert_eq!(
        check_layers(&[TextFile::planted("src/lib.rs", "pub mod cli;")]),
        []
    );
}

#[test]
fn a_planted_member_that_imports_the_root_is_found() {
    let files = [
        TextFile::planted("Cargo.toml", "[package]\nname = \"antipode\"\n"),
        TextFile::planted("certs/Cargo.toml", "[package]\nname = \"antipode-certs\"\n"),
        TextFile::planted(
            "tests/lab/Cargo.toml",
            "[package]\nname = \"lab\"\n[dependencies]\nantipode-certs.path = \"../../certs\"\nroot = { package = \"antipode\", path = \"../..\" }\n",
        ),
        TextFile::planted("extra/Cargo.toml", "[package]\nname = \"extra\"\n"),
    ];
    let faults = check_members(&files);
    let places: Vec<(&str, usize)> = faults.iter().map(|f| (f.path.as_str(), f.line)).collect();
    assert_eq!(places, [("tests/lab/Cargo.toml", 4), ("extra/Cargo.toml", 1)]);
}
