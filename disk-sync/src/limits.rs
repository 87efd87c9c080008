//! Every named maximum of this package in one place, with compile-time checks that tie related ones together.

use crate::units::{EXTENT_BYTES, LEAF_BYTES, MEBIBYTE, REGION_BYTES, in_memory};

/// Most bytes of an image.
pub const IMAGE_BYTES_MAX: u64 = 64 * 1024 * 1024 * MEBIBYTE;

/// Largest image of which a tree keeps the value of each leaf: 32 bytes for 64 KiB, so 32 MiB of memory. Of larger
/// images it keeps those of regions only, and the leaves of a region that differs are hashed again.
pub const LEAVES_KEPT_IMAGE_BYTES_MAX: u64 = 64 * 1024 * MEBIBYTE;

/// Threads that hash one image.
pub const HASH_THREADS_MAX: usize = 64;

/// Regions that a hashing thread takes at once: large enough for sequential reading, small enough that the threads
/// end together.
pub const SPAN_REGIONS: u64 = 4;

/// Regions that the host is to have read beyond those that are hashed: enough for its disk to have work while every thread
/// hashes.
pub const AHEAD_REGIONS: u64 = 16;

/// Regions of a hole that are told at once.
pub const HOLE_SPAN_REGIONS_MAX: u64 = 1 << 16;

/// Bytes of a VM's id.
pub const VM_ID_BYTES_MAX: usize = 63;

/// Generations that a lineage remembers beside the current one and its base. An older common point is found by
/// nobody and costs a full comparison.
pub const LINEAGE_HISTORY_MAX: usize = 32;

/// Zones of an image, each a bit of the activity log: all of them may be hot. So a guest that writes all over a disk of any
/// size waits for few updates, once it has been everywhere; a smaller log would cost it one for nearly each write.
pub const ZONES_MAX: usize = 65_536;

/// Writes after which a zone that none of them went to may leave the activity log; of a large image, so many for each of its
/// zones. A guest that writes evenly all over its disk comes back to nearly every zone within them, and does not wait for
/// what has just left; and they bound what a crash leaves unsure.
pub const HOT_WRITES_MIN: u64 = 65_536;
/// As [`HOT_WRITES_MIN`].
pub const HOT_WRITES_PER_ZONE: u64 = 16;

/// How often, while a zone may stay hot without a write, it is looked for some that may leave: one update for many.
pub const LEAVINGS_PER_STAY: u64 = 4;

/// Updates that follow each other after fewer writes take in more zones each time, others fewer: an update is as long as
/// some ten writes, so one in so many is felt by nobody.
pub const HASTE_WRITES: u64 = 1024;

/// Zones that may enter the activity log together, before they are written to: of a large image a 64th, else 256 MiB, but
/// of a small one no more than an eighth. What a crash leaves unsure, and is compared in vain, costs a hash for each MiB.
pub const ZONES_AHEAD: u32 = 64;
/// As [`ZONES_AHEAD`].
pub const AHEAD_SHARE: u32 = 64;
/// As [`ZONES_AHEAD`].
pub const AHEAD_SHARE_MOST: u32 = 8;

/// Bytes of one slot of a replica's metadata.
pub const SLOT_BYTES: usize = 16 * 1024;

/// Bytes of one page of the dirty map.
pub const MAP_PAGE_BYTES: usize = 4096;

/// Bytes of one frame's body.
pub const FRAME_BYTES_MAX: usize = 1024 * 1024 + 64 * 1024;

/// Regions whose leaves one frame asks for, and the values of regions that one frame carries.
pub const FRAME_REGIONS_MAX: usize = 4096;

/// Runs that one frame carries.
pub const FRAME_RUNS_MAX: usize = 65_536;

/// Bytes of frames that wait in a receiving end for its session. A target waits; a source takes more than this for a
/// breach, since the protocol lets the target send a third of it at most.
pub const RECEIVED_BYTES_WAITING_MAX: usize = 64 * 1024 * 1024;

/// Bytes of frames that wait for the line.
pub const SENT_BYTES_WAITING_MAX: usize = 16 * 1024 * 1024;

/// Regions whose values the target tells before the source is done with them: what bounds the source's memory.
pub const REGIONS_AHEAD_MAX: u64 = 512 * 1024;

/// Regions that a target has told and the source has not compared: the last thing told may be a hole.
pub const REGIONS_UNCOMPARED_MAX: u64 = REGIONS_AHEAD_MAX + HOLE_SPAN_REGIONS_MAX;

/// Regions after which the source tells with how many it is done: how far a target is, is shown by that.
pub const REGIONS_PER_RECEIPT: u64 = 16;

/// Bytes of what was hashed here that wait for the session.
pub const FOUND_BYTES_WAITING_MAX: usize = 8 * 1024 * 1024;

/// Regions of which the source has asked for leaves and not yet heard; and those whose leaves an end hashes again at once.
pub const LEAVES_ASKED_MAX: usize = 4096;

/// Bytes after which the source asks the target to make durable what it has, so that an interruption costs no more.
pub const CHECKPOINT_BYTES: u64 = 256 * MEBIBYTE;

/// Bytes of a reason that is told to the peer.
pub const REASON_BYTES_MAX: usize = 512;

const _: () = assert!(IMAGE_BYTES_MAX / EXTENT_BYTES < u32::MAX as u64);
const _: () = assert!(LEAVES_KEPT_IMAGE_BYTES_MAX / LEAF_BYTES * 32 <= 32 * MEBIBYTE);
const _: () = assert!(ZONES_MAX.is_power_of_two() && ZONES_AHEAD.is_power_of_two());
const _: () = assert!(HASTE_WRITES < HOT_WRITES_MIN / LEAVINGS_PER_STAY);
const _: () = assert!(ZONES_MAX / 8 + LINEAGE_HISTORY_MAX * 16 + 1024 < SLOT_BYTES);
const _: () = assert!(in_memory(REGION_BYTES) + 1024 < FRAME_BYTES_MAX);
const _: () = assert!(FRAME_REGIONS_MAX * 33 + 64 < FRAME_BYTES_MAX);
const _: () = assert!(FRAME_RUNS_MAX * 12 + 64 < FRAME_BYTES_MAX);
const _: () = assert!(FRAME_BYTES_MAX < SENT_BYTES_WAITING_MAX);
const _: () = assert!(LEAVES_ASKED_MAX >= FRAME_REGIONS_MAX);
const _: () = assert!(REGIONS_PER_RECEIPT * 2 < REGIONS_AHEAD_MAX);
const _: () =
    assert!(in_memory(REGIONS_AHEAD_MAX) * 42 + LEAVES_ASKED_MAX * 1024 < RECEIVED_BYTES_WAITING_MAX);
