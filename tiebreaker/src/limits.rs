//! Every named maximum of this package.

/// Changes that a record's history tells of; older ones are forgotten.
pub const HISTORY_ENTRIES_MAX: usize = 32;

/// Requesters of one role whose last answer a record keeps; the one that has been silent longest goes first. Two sites
/// are in a record, a third while one replaces another.
pub const REMEMBERED_PER_ROLE_MAX: usize = 4;

/// Bytes of the reason that an operator gives.
pub const REASON_BYTES_MAX: usize = 256;
