//! Every named maximum of this package.

/// Bytes of one file of certificates or keys; a longer one is refused unread.
pub const FILE_BYTES_MAX: u64 = 64 * 1024;

/// Bytes of one certificate (DER). Ours have about 500.
pub const CERTIFICATE_BYTES_MAX: usize = 8 * 1024;

/// CA certificates in one trust file: two while a CA is being replaced, with room for a mistake.
pub const AUTHORITIES_MAX: usize = 4;

/// Bytes of a name: a DNS label, and part of file names.
pub const NAME_BYTES_MAX: usize = 63;

/// Days that a CA lives, where nothing is said.
pub const AUTHORITY_DAYS_DEFAULT: u32 = 3650;

/// Most days that a CA may live.
pub const AUTHORITY_DAYS_MAX: u32 = 7300;

/// Days that a leaf certificate lives, where nothing is said.
pub const LEAF_DAYS_DEFAULT: u32 = 365;

/// Most days that a leaf certificate may live. Nothing revokes one, so this bounds the harm of a stolen key.
pub const LEAF_DAYS_MAX: u32 = 1096;

/// Seconds before its making from which a certificate is valid: hosts' clocks differ.
pub const BACKDATED_SECONDS: i64 = 3600;

/// The last part of a certificate's life, as a divisor, in which its end is warned about: a tenth.
pub const WARNED_PART_OF_LIFE: i64 = 10;

/// Seconds between two warnings of one end: a day.
pub const WARNING_INTERVAL_SECONDS: i64 = 86_400;

/// Seconds between two looks at the files that credentials were loaded from.
pub const RELOAD_INTERVAL_SECONDS: i64 = 10;

// Four characters of a PEM file hold three bytes.
const _: () = assert!((CERTIFICATE_BYTES_MAX * AUTHORITIES_MAX * 4 / 3) as u64 <= FILE_BYTES_MAX);
const _: () = assert!(LEAF_DAYS_DEFAULT <= LEAF_DAYS_MAX && LEAF_DAYS_MAX <= AUTHORITY_DAYS_DEFAULT);
const _: () = assert!(AUTHORITY_DAYS_DEFAULT <= AUTHORITY_DAYS_MAX);
