//! Kernel modules in the order in which `insmod` takes them.
//!
//! A module names what it needs in its ELF section `.modinfo` (`depends=a,b`). `modules.dep` would say the same, but
//! only `depmod` writes it, at installation. Debian 12 ships modules uncompressed; a compressed one is refused.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use super::kernel::modules_directory;
use super::{Error, Kernel, Result};

/// The files of `wanted` and of all they need, each after what it needs. Modules built into the kernel are skipped.
/// Names are taken with `-` or `_`, as the kernel does.
///
/// # Errors
///
/// [`Error::NoModule`] for a name that is neither a file nor built in, [`Error::Malformed`] for a file that is not an
/// uncompressed module.
pub fn load_order(kernel: &Kernel, wanted: &[&str]) -> Result<Vec<PathBuf>> {
    in_directory(
        &modules_directory(&kernel.tree, &kernel.release),
        &kernel.release,
        wanted,
    )
}

fn in_directory(directory: &Path, release: &str, wanted: &[&str]) -> Result<Vec<PathBuf>> {
    let builtin_path = directory.join("modules.builtin");
    let builtin = std::fs::read_to_string(&builtin_path).map_err(Error::file("read", &builtin_path))?;
    let mut files = BTreeMap::new();
    index(directory, &mut files)?;
    let mut search = Search {
        release,
        builtin: builtin.lines().map(|line| module_name(Path::new(line))).collect(),
        files,
        visited: BTreeSet::new(),
        order: Vec::new(),
    };
    wanted
        .iter()
        .try_for_each(|name| search.visit(&name.replace('-', "_")))?;
    Ok(search.order)
}

/// Depth-first walk over `depends=`.
struct Search<'a> {
    release: &'a str,
    builtin: BTreeSet<String>,
    files: BTreeMap<String, PathBuf>,
    visited: BTreeSet<String>,
    order: Vec<PathBuf>,
}

impl Search<'_> {
    fn visit(&mut self, name: &str) -> Result<()> {
        if self.builtin.contains(name) || !self.visited.insert(name.to_owned()) {
            return Ok(());
        }
        let missing = || Error::NoModule {
            module: name.to_owned(),
            release: self.release.to_owned(),
        };
        let path = self.files.get(name).cloned().ok_or_else(missing)?;
        for dependency in dependencies(&path)? {
            self.visit(&dependency)?;
        }
        self.order.push(path);
        Ok(())
    }
}

/// Adds every module under `directory`, by name.
fn index(directory: &Path, files: &mut BTreeMap<String, PathBuf>) -> Result<()> {
    for entry in std::fs::read_dir(directory).map_err(Error::file("list", directory))? {
        let path = entry.map_err(Error::file("list", directory))?.path();
        // A kernel's `build` and `source` are symbolic links that may lead anywhere.
        if path.is_dir() && !path.is_symlink() {
            index(&path, files)?;
        } else if path
            .file_name()
            .is_some_and(|name| name.to_string_lossy().contains(".ko"))
        {
            files.insert(module_name(&path), path);
        }
    }
    Ok(())
}

/// `kernel/drivers/char/hw_random/virtio-rng.ko` → `virtio_rng`.
fn module_name(path: &Path) -> String {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    name.split('.').next().unwrap_or_default().replace('-', "_")
}

/// The names in `depends=` of a module's `.modinfo`.
fn dependencies(path: &Path) -> Result<Vec<String>> {
    let bytes = std::fs::read(path).map_err(Error::file("read", path))?;
    let malformed = |detail: &str| Error::Malformed {
        source_name: path.display().to_string(),
        detail: detail.to_owned(),
    };
    if !bytes.starts_with(b"\x7fELF") {
        return Err(malformed("not an uncompressed kernel module"));
    }
    let modinfo = section(&bytes, b".modinfo").ok_or_else(|| malformed("no section .modinfo"))?;
    let depends = modinfo
        .split(|&byte| byte == 0)
        .find_map(|entry| entry.strip_prefix(b"depends="));
    let text = String::from_utf8_lossy(depends.ok_or_else(|| malformed(".modinfo has no depends="))?);
    Ok(text
        .split(',')
        .filter(|name| !name.is_empty())
        .map(|name| name.replace('-', "_"))
        .collect())
}

/// The bytes of a section of a 64-bit little-endian ELF file; `None` if there is none or the file is cut off.
fn section<'a>(elf: &'a [u8], wanted: &[u8]) -> Option<&'a [u8]> {
    let word = |at: usize, length: usize| -> Option<usize> {
        let bytes = elf.get(at..at.checked_add(length)?)?;
        bytes.iter().rev().try_fold(0_usize, |value, &byte| {
            Some(value.checked_mul(256)? + usize::from(byte))
        })
    };
    // Elf64_Ehdr: e_shoff at 0x28, e_shentsize at 0x3A, e_shnum at 0x3C, e_shstrndx at 0x3E.
    let (table, entry_size, count, names_index) =
        (word(0x28, 8)?, word(0x3A, 2)?, word(0x3C, 2)?, word(0x3E, 2)?);
    let header = |index: usize| table.checked_add(index.checked_mul(entry_size)?);
    // Elf64_Shdr: sh_name at 0, sh_offset at 0x18, sh_size at 0x20.
    let contents = |at: usize| {
        let (offset, size) = (word(at.checked_add(0x18)?, 8)?, word(at.checked_add(0x20)?, 8)?);
        elf.get(offset..offset.checked_add(size)?)
    };
    let names = contents(header(names_index)?)?;
    (0..count).filter_map(header).find_map(|at| {
        let name = names.get(word(at, 4)?..)?.split(|&byte| byte == 0).next()?;
        if name == wanted { contents(at) } else { None }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A 64-bit ELF file with a section of names and `.modinfo`.
    fn module(modinfo: &[u8]) -> Vec<u8> {
        let names = b"\0.shstrtab\0.modinfo\0";
        let mut elf = vec![0_u8; 64];
        elf[..4].copy_from_slice(b"\x7fELF");
        let put = |at: usize, value: usize, elf: &mut Vec<u8>| {
            let bytes = u64::try_from(value).expect("small").to_le_bytes();
            elf[at..at + 8].copy_from_slice(&bytes);
        };
        let names_at = elf.len();
        elf.extend_from_slice(names);
        let modinfo_at = elf.len();
        elf.extend_from_slice(modinfo);
        let table = elf.len();
        elf.resize(table + 2 * 64, 0);
        put(0x28, table, &mut elf);
        elf[0x3A] = 64;
        elf[0x3C] = 2;
        elf[0x3E] = 0;
        elf[table] = 1;
        put(table + 0x18, names_at, &mut elf);
        put(table + 0x20, names.len(), &mut elf);
        elf[table + 64] = 11;
        put(table + 64 + 0x18, modinfo_at, &mut elf);
        put(table + 64 + 0x20, modinfo.len(), &mut elf);
        elf
    }

    fn tree(modules: &[(&str, &str)]) -> tempfile::TempDir {
        let directory = tempfile::tempdir().expect("temporary directory");
        std::fs::write(
            directory.path().join("modules.builtin"),
            "kernel/fs/ext4/ext4.ko\n",
        )
        .expect("write");
        std::fs::create_dir(directory.path().join("kernel")).expect("create");
        for (name, depends) in modules {
            let modinfo = format!("license=GPL\0depends={depends}\0");
            std::fs::write(
                directory.path().join(format!("kernel/{name}.ko")),
                module(modinfo.as_bytes()),
            )
            .expect("write");
        }
        directory
    }

    #[test]
    fn each_module_follows_what_it_needs() {
        let modules = [
            ("virtio", ""),
            ("virtio_ring", ""),
            ("virtio-rng", "virtio,virtio_ring"),
            ("failover", ""),
        ];
        let directory = tree(&modules);
        let order = in_directory(directory.path(), "test", &["virtio_rng", "ext4", "virtio"]).expect("found");
        let names: Vec<String> = order.iter().map(|path| module_name(path)).collect();
        assert_eq!(names, ["virtio", "virtio_ring", "virtio_rng"]);
    }

    #[test]
    fn what_is_not_there_is_named() {
        let directory = tree(&[("a", "b")]);
        let error = in_directory(directory.path(), "6.1.0-test", &["a"]).expect_err("b is missing");
        assert_eq!(error.to_string(), "kernel 6.1.0-test has no module b");
    }

    #[test]
    fn every_cut_module_is_refused() {
        let whole = module(b"depends=a\0");
        let directory = tree(&[]);
        let path = directory.path().join("kernel/cut.ko");
        for length in 0..whole.len() - 64 {
            std::fs::write(&path, &whole[..length]).expect("write");
            assert!(dependencies(&path).is_err(), "cut to {length} bytes");
        }
    }
}
