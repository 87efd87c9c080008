//! What a recorded machine was made of, so that a replay begins as the same machine (E2, R2).

use std::fs::File;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::base::limits::LOG_RECIPE_BYTES_MAX;
use crate::base::units::ExitOrdinal;
use crate::machine::config::VmConfig;
use crate::machine::cpu::TABLE_NAME;
use crate::machine::launch::Birth;

/// Why a recipe cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum RecipeError {
    /// A file of the VM cannot be read.
    #[error("cannot read {path}: {source}", path = path.display())]
    Unreadable {
        /// The file.
        path: std::path::PathBuf,
        /// The host's error.
        #[source]
        source: std::io::Error,
    },
    /// It is no recipe.
    #[error("it is not what a recipe is: {0}")]
    Malformed(#[from] serde_json::Error),
    /// The VM at hand is made of something else.
    #[error("the record was made with another {what}: {recorded} then, {present} now")]
    Differs {
        /// Which part.
        what: &'static str,
        /// The record's.
        recorded: String,
        /// This VM's.
        present: String,
    },
}

/// A disk at the beginning.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DiskRecipe {
    /// BLAKE3 of its content, in hex.
    pub blake3: String,
    /// Whether the guest may only read.
    pub read_only: bool,
}

/// Everything that a machine is made of, files by their BLAKE3 in hex.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Recipe {
    /// The CPUID and MSR table (E3).
    pub cpu_table: String,
    /// Guest RAM in bytes.
    pub memory_bytes: u64,
    /// The kernel file, before editing.
    pub kernel: String,
    /// The initrd, if there is one.
    pub initrd: Option<String>,
    /// The whole command line.
    pub cmdline: String,
    /// The disk, if there is one.
    pub disk: Option<DiskRecipe>,
    /// The network card's address, if there is one.
    pub mac: Option<[u8; 6]>,
    /// What chance and the host gave it.
    pub birth: Birth,
    /// What it goes on from, if not from its own boot.
    pub from: Option<Origin>,
}

/// A saved machine that a log goes on from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Origin {
    /// BLAKE3 of its file, in hex.
    pub state: String,
    /// Its position.
    pub exit: ExitOrdinal,
}

impl Recipe {
    /// The recipe of the VM that `config` describes, with the whole command line `cmdline`, born as `birth` says. Reads
    /// every file of it whole.
    ///
    /// # Errors
    /// [`RecipeError::Unreadable`].
    pub fn of(config: &VmConfig, cmdline: &str, birth: &Birth) -> Result<Self, RecipeError> {
        let disk = match &config.disk {
            Some(disk) => Some(DiskRecipe {
                blake3: digest_of(&disk.path)?,
                read_only: disk.read_only,
            }),
            None => None,
        };
        Ok(Self {
            cpu_table: TABLE_NAME.to_owned(),
            memory_bytes: config.memory_bytes,
            kernel: digest_of(&config.kernel.path)?,
            initrd: config.kernel.initrd.as_deref().map(digest_of).transpose()?,
            cmdline: cmdline.to_owned(),
            disk,
            mac: config.network.as_ref().map(|network| network.mac.octets()),
            birth: birth.clone(),
            from: None,
        })
    }

    /// Whether a VM of the recipe `present` can replay a record of this one.
    ///
    /// # Errors
    /// [`RecipeError::Differs`], naming the first part that does.
    pub fn expect_same(&self, present: &Self) -> Result<(), RecipeError> {
        let parts: [(&'static str, String, String); 9] = [
            ("CPU table", shown(&self.cpu_table), shown(&present.cpu_table)),
            (
                "memory size",
                shown(&self.memory_bytes),
                shown(&present.memory_bytes),
            ),
            ("kernel", shown(&self.kernel), shown(&present.kernel)),
            ("initrd", shown(&self.initrd), shown(&present.initrd)),
            ("command line", shown(&self.cmdline), shown(&present.cmdline)),
            ("disk", shown(&self.disk), shown(&present.disk)),
            ("network card", shown(&self.mac), shown(&present.mac)),
            ("birth", shown(&self.birth), shown(&present.birth)),
            (
                "saved machine to go on from",
                shown(&self.from),
                shown(&present.from),
            ),
        ];
        match parts
            .into_iter()
            .find(|(_, recorded, present)| recorded != present)
        {
            None => Ok(()),
            Some((what, recorded, present)) => Err(RecipeError::Differs {
                what,
                recorded,
                present,
            }),
        }
    }

    /// Where the log begins: the first exit comes after it.
    #[must_use]
    pub fn begins_at(&self) -> ExitOrdinal {
        self.from
            .as_ref()
            .map_or_else(ExitOrdinal::default, |origin| origin.exit)
    }

    pub(super) fn to_bytes(&self) -> Vec<u8> {
        serde_json::to_vec(self).unwrap_or_default()
    }

    pub(super) fn from_bytes(bytes: &[u8]) -> Result<Self, RecipeError> {
        debug_assert!(bytes.len() <= LOG_RECIPE_BYTES_MAX);
        Ok(serde_json::from_slice(bytes)?)
    }

    #[cfg(test)]
    pub(super) fn example() -> Self {
        Self {
            cpu_table: TABLE_NAME.to_owned(),
            memory_bytes: 64 << 20,
            kernel: "00".into(),
            initrd: None,
            cmdline: "console=ttyS0".into(),
            disk: None,
            mac: None,
            birth: Birth {
                random_seed: [1; 32],
                wall_clock_unix_seconds: 5,
                offloads: None,
            },
            from: None,
        }
    }
}

fn shown(part: &impl Serialize) -> String {
    serde_json::to_string(part).unwrap_or_default()
}

fn digest_of(path: &Path) -> Result<String, RecipeError> {
    let unreadable = |source| RecipeError::Unreadable {
        path: path.to_path_buf(),
        source,
    };
    let mut hasher = blake3::Hasher::new();
    let file = File::open(path).map_err(unreadable)?;
    hasher.update_reader(file).map_err(unreadable)?;
    Ok(hasher.finalize().to_hex().to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_recipe_comes_back_and_a_difference_is_named() {
        let recipe = Recipe::example();
        assert_eq!(Recipe::from_bytes(&recipe.to_bytes()).unwrap(), recipe);
        assert!(recipe.expect_same(&recipe).is_ok());
        let other = Recipe {
            memory_bytes: 128 << 20,
            ..recipe.clone()
        };
        let error = recipe.expect_same(&other).unwrap_err().to_string();
        assert!(
            error.contains("memory size: 67108864 then, 134217728 now"),
            "{error}"
        );
    }

    #[test]
    fn unknown_parts_are_refused() {
        let mut text = String::from_utf8(Recipe::example().to_bytes()).unwrap();
        text.insert_str(1, "\"tpm\":true,");
        assert!(matches!(
            Recipe::from_bytes(text.as_bytes()),
            Err(RecipeError::Malformed(_))
        ));
    }
}
