//! The whole file: from text to a [`VmConfig`].

use std::path::Path;

use toml::de::DeTable;

use super::fields;
use super::{DiskConfig, KernelConfig, NetworkConfig, VmConfig};
use crate::base::configuration::{ConfigMistake, Mistakes, Section, understand, values};

/// Understands `text` as a VM's configuration; relative paths in it are taken from `folder`.
///
/// # Errors
/// Every mistake in the text, in the order of their places. Where the text is no TOML, those alone are given:
/// what a broken line meant is not guessed.
pub fn parse(text: &str, folder: &Path) -> Result<VmConfig, Vec<ConfigMistake>> {
    understand(text, |document, mistakes| read(document, folder, mistakes))
}

/// `None` only if a mistake was noted. Every section is read before the first missing value ends it.
fn read(document: &DeTable<'_>, folder: &Path, mistakes: &mut Mistakes<'_>) -> Option<VmConfig> {
    let known = &[
        "name",
        "memory_mib",
        "output",
        "mode",
        "kernel",
        "disk",
        "network",
        "console",
        "clock",
    ];
    let root = Section::root(document, known, mistakes);
    let name = root.required("name", "name = \"redis-1\"", mistakes, fields::vm_name);
    let memory_bytes = root.required("memory_mib", "memory_mib = 512", mistakes, fields::memory_bytes);
    let verifies_output = root.optional("output", mistakes, fields::output);
    let kept = root.optional("mode", mistakes, fields::mode);
    let kernel = read_kernel(root, folder, mistakes);
    let disk = root
        .subsection("disk", &["path", "metadata", "read_only"], mistakes)
        .map(|section| read_disk(section, folder, mistakes));
    let network = root
        .subsection("network", &["tap", "mac"], mistakes)
        .map(|section| read_network(section, mistakes));
    let console = root
        .subsection("console", &["mode"], mistakes)
        .and_then(|section| section.optional("mode", mistakes, fields::console_mode))
        .unwrap_or_default();
    let clock_start = root
        .subsection("clock", &["start"], mistakes)
        .and_then(|section| section.optional("start", mistakes, fields::start_time));
    Some(VmConfig {
        name: name?,
        memory_bytes: memory_bytes?,
        kernel: kernel?,
        disk: whole(disk)?,
        network: whole(network)?,
        console,
        verifies_output: verifies_output.unwrap_or(false),
        kept: kept.unwrap_or_default(),
        clock_start,
    })
}

/// An absent section is fine, one with a mistake is not.
fn whole<T>(section: Option<Option<T>>) -> Option<Option<T>> {
    match section {
        None => Some(None),
        Some(content) => content.map(Some),
    }
}

fn read_kernel(root: Section<'_, '_>, folder: &Path, mistakes: &mut Mistakes<'_>) -> Option<KernelConfig> {
    let example = "path = \"vmlinuz\" below a line [kernel]";
    let Some(section) = root.subsection("kernel", &["path", "initrd", "cmdline"], mistakes) else {
        // A section that is there but is none has been noted already; one that is absent is noted here.
        root.required("kernel", example, mistakes, |_| Ok(()));
        return None;
    };
    let path = section.required("path", "path = \"vmlinuz\"", mistakes, |value| {
        values::path(value, folder)
    });
    let initrd = section.optional("initrd", mistakes, |value| values::path(value, folder));
    let cmdline = section.optional("cmdline", mistakes, fields::cmdline);
    Some(KernelConfig {
        path: path?,
        initrd,
        cmdline: cmdline.unwrap_or_default(),
    })
}

fn read_disk(section: Section<'_, '_>, folder: &Path, mistakes: &mut Mistakes<'_>) -> Option<DiskConfig> {
    let path = section.required("path", "path = \"disk.img\"", mistakes, |value| {
        values::path(value, folder)
    });
    let metadata = section.optional("metadata", mistakes, |value| values::path(value, folder));
    let read_only = section.optional("read_only", mistakes, values::boolean);
    Some(DiskConfig {
        path: path?,
        metadata,
        read_only: read_only.unwrap_or(false),
    })
}

fn read_network(section: Section<'_, '_>, mistakes: &mut Mistakes<'_>) -> Option<NetworkConfig> {
    let tap = section.required("tap", "tap = \"tap0\"", mistakes, fields::tap_name);
    let mac = section.required("mac", "mac = \"02:00:00:00:00:01\"", mistakes, fields::mac);
    Some(NetworkConfig { tap: tap?, mac: mac? })
}
