//! The definition of a VM in a site's state: its configuration, with its files beside it.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use antipode_disk_sync::disk::{NewDisk, Paths, create};
use antipode_disk_sync::replica::{GenerationId, ReplicaId};

use super::boot_files;
use super::store::VmFolder;
use crate::machine::boot::RANDOM_SEED_BYTES;
use crate::machine::config::{self, VmConfig};
use crate::machine::launch::Birth;
use crate::machine::workers::HostEntropy;
use crate::transfer::{BootFile, DiskOffer, FileOffer, Offer};

/// The replica of the VM that is defined in `folder`; where none is, the one that would be made.
#[must_use]
pub(super) fn replica_of(folder: &VmFolder) -> Paths {
    let defined = config::load(&folder.definition()).ok();
    let disk = defined.and_then(|config| config.disk);
    disk.map_or_else(
        || Paths::new(folder.file("disk.img"), None),
        |disk| Paths::new(disk.path, disk.metadata),
    )
}

/// The configuration that an offer amounts to, with its disk, if it has one, at `replica`.
#[must_use]
pub(super) fn text_of(offer: &Offer, replica: &Paths) -> String {
    let mut text = String::new();
    let string = |value: &str| toml::Value::String(value.to_owned()).to_string();
    // Writing to a string cannot fail.
    let _ = writeln!(
        text,
        "name = {}\nmemory_mib = {}\nmode = {}",
        string(&offer.vm),
        offer.memory_bytes >> 20,
        string(offer.kept.name())
    );
    if offer.verifies_output {
        let _ = writeln!(text, "output = \"verified\"");
    }
    let _ = writeln!(
        text,
        "\n[kernel]\npath = \"kernel\"\ncmdline = {}",
        string(&offer.cmdline)
    );
    if offer.initrd.is_some() {
        let _ = writeln!(text, "initrd = \"initrd\"");
    }
    if offer.disk.is_some() {
        let _ = writeln!(
            text,
            "\n[disk]\npath = {}\nmetadata = {}",
            string(&replica.image.display().to_string()),
            string(&replica.metadata.display().to_string())
        );
    }
    if let Some((tap, mac)) = &offer.network {
        let mac: Vec<String> = mac.iter().map(|byte| format!("{byte:02x}")).collect();
        let _ = writeln!(
            text,
            "\n[network]\ntap = {}\nmac = \"{}\"",
            string(tap),
            mac.join(":")
        );
    }
    let _ = writeln!(text, "\n[console]\nmode = \"output-only\"");
    text
}

/// Whether the files of a VM can be read.
///
/// # Errors
/// In words, which one cannot be.
pub(super) fn check_files(config: &VmConfig) -> Result<(), String> {
    let kernel = &config.kernel;
    let disk = config.disk.as_ref().map(|disk| &disk.path);
    for path in [Some(&kernel.path), kernel.initrd.as_ref(), disk]
        .into_iter()
        .flatten()
    {
        fs::File::open(path).map_err(|error| format!("{}: {error}", path.display()))?;
    }
    Ok(())
}

/// What the VM in `folder` offers to another site, but for what it was born as.
///
/// # Errors
/// In words, which file cannot be read.
pub(super) fn offer_of(folder: &VmFolder, config: &VmConfig) -> Result<Offer, String> {
    let file = |file: BootFile| {
        boot_files::find(folder, file).map_err(|error| format!("the VM's {}: {error}", file.name()))
    };
    let disk = match &config.disk {
        Some(disk) => Some(DiskOffer {
            byte_count: fs::metadata(&disk.path)
                .map_err(|error| format!("{}: {error}", disk.path.display()))?
                .len(),
            replica: [0; 16],
            lineage: None,
            discard: false,
        }),
        None => None,
    };
    Ok(Offer {
        vm: config.name.as_str().to_owned(),
        memory_bytes: config.memory_bytes,
        cmdline: config.kernel.cmdline.clone(),
        kernel: file(BootFile::Kernel)?,
        initrd: match config.kernel.initrd {
            Some(_) => Some(file(BootFile::Initrd)?),
            None => None,
        },
        disk,
        network: config
            .network
            .as_ref()
            .map(|network| (network.tap.as_str().to_owned(), network.mac.octets())),
        verifies_output: config.verifies_output,
        kept: config.kept,
        birth: Birth {
            random_seed: [0; RANDOM_SEED_BYTES],
            wall_clock_unix_seconds: 0,
            offloads: None,
        },
    })
}

/// BLAKE3 of what the machine is made of.
#[must_use]
pub(super) fn recipe_of(offer: &Offer) -> [u8; 32] {
    // Only a `Serialize` that fails by itself can fail here, and this one is derived.
    *blake3::hash(&serde_json::to_vec(offer).unwrap_or_default()).as_bytes()
}

/// Takes the VM that the file at `source` describes into a site's state: kernel and initrd are copied, its disk becomes a
/// replica where it is none.
///
/// # Errors
/// In words, what is wrong.
pub(super) fn adopt(folder: &VmFolder, source: &Path) -> Result<(), String> {
    let config =
        config::load(source).map_err(|error| format!("{error}; `antipode run` shows every mistake"))?;
    let failed = |error: std::io::Error| format!("the VM cannot be kept: {error}");
    folder.make().map_err(failed)?;
    let copy = |from: &Path, file| {
        fs::read(from)
            .map_err(|error| format!("{}: {error}", from.display()))
            .and_then(|bytes| boot_files::keep(folder, file, &bytes, FileOffer::of(&bytes)).map_err(failed))
    };
    copy(&config.kernel.path, BootFile::Kernel)?;
    if let Some(initrd) = &config.kernel.initrd {
        copy(initrd, BootFile::Initrd)?;
    }
    let offer = offer_of(folder, &config)?;
    let mut replica = replica_of(folder);
    if let Some(disk) = &config.disk {
        let path =
            fs::canonicalize(&disk.path).map_err(|error| format!("{}: {error}", disk.path.display()))?;
        let metadata = disk.metadata.as_deref().map(std::path::absolute).transpose();
        replica = Paths::new(path, metadata.map_err(|error| error.to_string())?);
        let content = GenerationId(HostEntropy::draw().map_err(no_random_bytes)?);
        ensure_replica(&replica, config.name.as_str(), Some(content), None)?;
    }
    let text = text_of(&offer, &replica);
    folder.write("vm.toml", text.as_bytes()).map_err(failed)
}

/// Makes the image at `paths` a replica of `vm` if it is none: with `content`, or of none; made anew if `size` is given.
///
/// # Errors
/// In words, what is wrong.
pub(super) fn ensure_replica(
    paths: &Paths,
    vm: &str,
    content: Option<GenerationId>,
    size: Option<u64>,
) -> Result<(), String> {
    if paths.metadata.exists() {
        return Ok(());
    }
    let new = NewDisk {
        vm: vm.parse().map_err(|error| format!("{vm}: {error}"))?,
        replica: ReplicaId(HostEntropy::draw().map_err(no_random_bytes)?),
        content,
        size,
    };
    create(paths, new).map_err(|error| error.to_string())
}

/// In words, that the host has none.
pub(super) fn no_random_bytes(error: std::io::Error) -> String {
    format!("the host has no random bytes: {error}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::machine::config::Kept;

    #[test]
    fn what_an_offer_says_the_definition_says_too() {
        let folder = tempfile::tempdir().unwrap();
        let replica = Paths::new(folder.path().join("disk.img"), None);
        for (kept, verifies_output) in [
            (Kept::Auto, true),
            (Kept::Checkpoint, false),
            (Kept::Replay, true),
        ] {
            let offer = Offer {
                vm: "redis-1".to_owned(),
                memory_bytes: 64 << 20,
                cmdline: "quiet".to_owned(),
                kernel: FileOffer::of(b"kernel"),
                initrd: Some(FileOffer::of(b"initrd")),
                disk: None,
                network: Some(("tap0".to_owned(), [2, 0, 0, 0, 0, 7])),
                verifies_output,
                kept,
                birth: Birth {
                    random_seed: [0; RANDOM_SEED_BYTES],
                    wall_clock_unix_seconds: 0,
                    offloads: None,
                },
            };
            let text = text_of(&offer, &replica);
            let config =
                config::parse(&text, folder.path()).unwrap_or_else(|error| panic!("{error:?}: {text}"));
            assert_eq!((config.kept, config.verifies_output), (kept, verifies_output));
            assert_eq!(
                (
                    config.name.as_str(),
                    config.memory_bytes,
                    config.kernel.cmdline.as_str()
                ),
                ("redis-1", 64 << 20, "quiet")
            );
            let network = config.network.unwrap();
            assert_eq!(
                (network.tap.as_str(), network.mac.octets()),
                ("tap0", [2, 0, 0, 0, 0, 7])
            );
        }
    }
}
