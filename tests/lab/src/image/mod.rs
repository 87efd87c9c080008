//! Guest images: Debian's kernel and userland, unmodified, with one service and one disk.
//!
//! ```text
//!  Service, KernelFlavour ── Recipe::resolve ──> Recipe ── digest ──> target/lab/images/<service>-<flavour>-<digest>/
//!                            (package lists)       │                    vmlinuz        Debian's own
//!                                                  └── build ────────>  initrd.cpio    uncompressed initramfs
//!                                                                       disk.ext4      sparse template of /dev/vda
//!                                                                       manifest.json  what it was made of
//! ```
//!
//! - **The recipe is the key.** It names every input: packages with versions and SHA-256, our few files, `mke2fs`, and
//!   the sources of the builder. The same recipe gives the same bytes (`--check-reproducible` builds it again
//!   and compares), so an image that exists is never built again, and one that is out of date is never found.
//! - **The initramfs is the whole userland.** It is the dependency closure of a few packages, without documentation
//!   and translations, plus a first process of about a hundred lines (`init/init.sh`). It is not compressed: unpacking
//!   costs an emulated guest more than reading. `/dev/vda` holds data only.
//! - **The disk is a template.** A guest gets a copy ([`Image::copy_disk`]); the template stays as it was made.

pub mod cli;
mod disk;
mod recipe;
mod rootfs;
mod service;
pub mod trial;

pub use recipe::{KernelRecipe, LeftOutRecord, Recipe};
pub use service::Service;

use std::collections::BTreeMap;
use std::io::BufWriter;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde::{Deserialize, Serialize};

use crate::debian::{self, Cache, KernelFlavour, hex_digest, requirements, run_tool};

const KERNEL_FILE: &str = "vmlinuz";
const INITRD_FILE: &str = "initrd.cpio";
const DISK_FILE: &str = "disk.ext4";
const MANIFEST_FILE: &str = "manifest.json";

/// What every operation of this module returns.
pub type Result<T> = std::result::Result<T, Error>;

/// Why an image could not be had.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Packages could not be resolved, fetched or read.
    #[error(transparent)]
    Debian(#[from] debian::Error),
    /// The initramfs could not be written.
    #[error("cannot write {path}: {source}")]
    Archive {
        /// The archive.
        path: PathBuf,
        /// Why not; names the entry.
        source: std::io::Error,
    },
    /// A package holds something that an initramfs cannot.
    #[error("package {package} holds {path}, which is neither a file, nor a directory, nor a symbolic link")]
    UnknownFile {
        /// The package.
        package: String,
        /// The path in it.
        path: String,
    },
    /// Two builds of one recipe differ.
    #[error("two builds of the same recipe differ in {file}: compare {first} and {second}")]
    NotReproducible {
        /// Which of an image's files.
        file: String,
        /// The first build.
        first: PathBuf,
        /// The second build.
        second: PathBuf,
    },
    /// The guest did not do what it was asked.
    #[error("trial of {service}: {detail}; its console said:\n{console}")]
    Trial {
        /// The service.
        service: Service,
        /// What was expected.
        detail: String,
        /// The last lines of the console.
        console: String,
    },
}

/// A guest that can be booted. The files are shared by all guests and must not be changed.
#[derive(Clone, Debug)]
pub struct Image {
    /// Debian's `vmlinuz`.
    pub kernel: PathBuf,
    /// The initramfs.
    pub initrd: PathBuf,
    /// Template of the data disk.
    pub disk: PathBuf,
    /// What all this was made of.
    pub manifest: Manifest,
}

/// What an image consists of and what it was made of; stored beside it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    /// Every input.
    pub recipe: Recipe,
    /// SHA-256 of the recipe.
    pub digest: String,
    /// The image's files by name.
    pub files: BTreeMap<String, FileRecord>,
}

/// One file of an image.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileRecord {
    /// Its length.
    pub bytes: u64,
    /// Lower-case hex.
    pub sha256: String,
}

impl Image {
    /// Copies the disk template to `target`, holes kept.
    ///
    /// # Errors
    ///
    /// [`debian::Error::Tool`] if it cannot be written.
    pub fn copy_disk(&self, target: &Path) -> Result<()> {
        copy_sparse(&self.disk, target)
    }

    /// The kernel command line's part that belongs to the image: the console and the guest's address
    /// (`10.9.0.10/24`). Without an address the guest leaves its network card alone.
    #[must_use]
    pub fn command_line(&self, address: Option<&str>, gateway: Option<&str>) -> String {
        let mut line = "console=ttyS0 panic=-1".to_owned();
        for (name, value) in [("antipode.address", address), ("antipode.gateway", gateway)] {
            if let Some(value) = value {
                line.push_str(&format!(" {name}={value}"));
            }
        }
        line
    }

    fn open(directory: &Path) -> Option<Self> {
        let manifest = serde_json::from_slice(&std::fs::read(directory.join(MANIFEST_FILE)).ok()?).ok()?;
        let path = |name: &str| directory.join(name);
        Some(Self {
            kernel: path(KERNEL_FILE),
            initrd: path(INITRD_FILE),
            disk: path(DISK_FILE),
            manifest,
        })
    }
}

/// The image of `service` for today's package lists: found, or else built.
///
/// # Errors
///
/// [`Error::Debian`] tells what to do if packages are missing.
pub fn build(cache: &Cache, service: Service, flavour: KernelFlavour) -> Result<Image> {
    match find_or_make(cache, service, flavour) {
        // The archive drops a version soon after it has a newer one, and the lists may still name the old.
        Err(Error::Debian(debian::Error::Download { .. })) if requirements::refresh_lists()? => {
            find_or_make(cache, service, flavour)
        }
        outcome => outcome,
    }
}

fn find_or_make(cache: &Cache, service: Service, flavour: KernelFlavour) -> Result<Image> {
    let recipe = Recipe::resolve(cache, service, flavour)?;
    let images = images_directory(cache)?;
    let directory = images.join(recipe.directory_name());
    if let Some(image) = Image::open(&directory) {
        return Ok(image);
    }
    let scratch = tempfile::tempdir_in(&images).map_err(debian::Error::file("create", &images))?;
    let fresh = scratch.path().join("image");
    make(cache, &recipe, &fresh)?;
    // Another run may have been quicker: then its files, which are the same, stay.
    let moved = std::fs::rename(&fresh, &directory);
    delete_outdated(&images, &recipe);
    match Image::open(&directory) {
        Some(image) => Ok(image),
        None => Err(debian::Error::file("create", &directory)(moved.err().unwrap_or_else(unreadable)).into()),
    }
}

/// Deletes other images of the same service and kernel: made from older packages or by an older builder, nothing finds
/// them any more. Failing to is no harm, they are found again next time.
fn delete_outdated(images: &Path, recipe: &Recipe) {
    let (current, prefix) = (recipe.directory_name(), recipe.directory_prefix());
    for entry in std::fs::read_dir(images).into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        if name.starts_with(&prefix) && name != current {
            let _ = std::fs::remove_dir_all(entry.path());
        }
    }
}

fn unreadable() -> std::io::Error {
    std::io::Error::other("its manifest cannot be read back")
}

/// Builds `image` once more, from the same packages, and compares every byte of every file.
///
/// # Errors
///
/// [`Error::NotReproducible`] names the file and keeps the new build.
pub fn check_reproducible(cache: &Cache, image: &Image) -> Result<()> {
    let images = images_directory(cache)?;
    let scratch = tempfile::tempdir_in(&images).map_err(debian::Error::file("create", &images))?;
    let again = scratch.path().join("image");
    make(cache, &image.manifest.recipe, &again)?;
    let first = images.join(image.manifest.recipe.directory_name());
    for file in [KERNEL_FILE, INITRD_FILE, DISK_FILE, MANIFEST_FILE] {
        if !same_bytes(&first.join(file), &again.join(file))? {
            let second = scratch.keep().join("image");
            return Err(Error::NotReproducible {
                file: file.to_owned(),
                first,
                second,
            });
        }
    }
    Ok(())
}

fn images_directory(cache: &Cache) -> Result<PathBuf> {
    let images = cache.root().join("images");
    std::fs::create_dir_all(&images).map_err(debian::Error::file("create", &images))?;
    Ok(images)
}

/// Follows the recipe, into a new directory. The manifest is written last.
fn make(cache: &Cache, recipe: &Recipe, directory: &Path) -> Result<Manifest> {
    std::fs::create_dir_all(directory).map_err(debian::Error::file("create", directory))?;
    let kernel = cache.kernel(&recipe.kernel.package)?;
    let vmlinuz = directory.join(KERNEL_FILE);
    std::fs::copy(&kernel.vmlinuz, &vmlinuz).map_err(debian::Error::file("write", &vmlinuz))?;

    let packages = cache.fetch(&recipe.packages)?;
    let archive = rootfs::assemble(cache, recipe.service, &packages, &kernel)?;
    let initrd = directory.join(INITRD_FILE);
    let file = std::fs::File::create(&initrd).map_err(debian::Error::file("create", &initrd))?;
    archive
        .write(BufWriter::new(file))
        .map_err(|source| Error::Archive {
            path: initrd.clone(),
            source,
        })?;

    disk::make(&directory.join(DISK_FILE), recipe.disk_bytes)?;
    let mut files = BTreeMap::new();
    for name in [KERNEL_FILE, INITRD_FILE, DISK_FILE] {
        files.insert(name.to_owned(), record(&directory.join(name))?);
    }
    let manifest = Manifest {
        recipe: recipe.clone(),
        digest: recipe.digest(),
        files,
    };
    let path = directory.join(MANIFEST_FILE);
    std::fs::write(&path, json_text(&manifest, true)).map_err(debian::Error::file("write", &path))?;
    Ok(manifest)
}

/// The values of this module are text, numbers and lists of them, which JSON can always hold.
fn json_text(value: &impl Serialize, pretty: bool) -> String {
    let text = if pretty {
        serde_json::to_string_pretty(value)
    } else {
        serde_json::to_string(value)
    };
    text.expect("text, numbers and lists become JSON")
}

fn record(path: &Path) -> Result<FileRecord> {
    let contents = std::fs::read(path).map_err(debian::Error::file("read", path))?;
    Ok(FileRecord {
        bytes: contents.len() as u64,
        sha256: hex_digest(&contents),
    })
}

fn same_bytes(first: &Path, second: &Path) -> Result<bool> {
    let read = |path: &Path| std::fs::read(path).map_err(debian::Error::file("read", path));
    Ok(read(first)? == read(second)?)
}

fn copy_sparse(source: &Path, target: &Path) -> Result<()> {
    let mut command = Command::new("cp");
    command
        .args(["--sparse=always", "--reflink=auto"])
        .arg(source)
        .arg(target);
    run_tool(&mut command, "coreutils")?;
    Ok(())
}
