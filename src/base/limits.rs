//! Every named maximum in one place, with compile-time checks tying related limits together.

use super::units::MEBIBYTE;

/// Most guest RAM a VM may have, in bytes.
pub const GUEST_RAM_BYTES_MAX: u64 = 256 * 1024 * MEBIBYTE;

/// Least guest RAM a VM may have, in bytes: below this no Debian kernel unpacks its initrd.
pub const GUEST_RAM_BYTES_MIN: u64 = 64 * MEBIBYTE;

/// First guest physical address that is no RAM below 4 GiB; RAM past it continues at 4 GiB.
pub const LOW_RAM_END: u64 = 0xC000_0000;

/// Largest kernel file accepted (compressed), in bytes.
pub const KERNEL_FILE_BYTES_MAX: u64 = 256 * MEBIBYTE;

/// Largest kernel accepted after decompression, in bytes: a guard against a payload that inflates without end.
pub const KERNEL_IMAGE_BYTES_MAX: u64 = 512 * MEBIBYTE;

/// Longest kernel command line, in bytes without the terminating zero (Linux x86 `COMMAND_LINE_SIZE` − 1).
pub const CMDLINE_BYTES_MAX: usize = 2047;

/// Descriptors in one virtqueue.
pub const VIRTQUEUE_SIZE_MAX: u16 = 256;

/// Bytes of one network frame with its 12-byte virtio-net header: a full TCP segmentation-offload frame.
pub const FRAME_BYTES_MAX: usize = 65_550 + 12;

/// Frames that a TAP interface holds for a copy that is not live and are dropped when it goes live: well above Linux's 500
/// (`TUN_READQ_SIZE`).
pub const TAP_QUEUE_FRAMES_MAX: usize = 4096;

/// Received frames held for a guest that has offered no buffer; further ones are dropped, as a NIC drops them.
pub const RECEIVE_FRAMES_PENDING_MAX: usize = 256;

/// Data bytes of one disk request; a guest that asks for more is refused with an I/O error.
pub const DISK_REQUEST_BYTES_MAX: usize = 4 * 1024 * 1024;

/// Disk requests in flight at once.
pub const DISK_REQUESTS_IN_FLIGHT_MAX: usize = VIRTQUEUE_SIZE_MAX as usize;

/// Threads that carry out one VM's disk requests.
pub const DISK_WORKER_THREADS: usize = 4;

/// Received frames between the TAP and the guest's ring; beyond it the TAP's own queue fills.
pub const RECEIVE_FRAMES_UNDER_WAY_MAX: usize = 256;

/// Bytes of frames that wait for the TAP; beyond it frames are dropped, as a NIC drops them.
pub const TRANSMIT_BYTES_WAITING_MAX: usize = 32 * 1024 * 1024;

/// Data bytes of requests with the disk, above which no further request is taken: what bounds host memory.
pub const DISK_BYTES_IN_FLIGHT_MAX: usize = 32 * 1024 * 1024;

/// Bytes of buffers that a pool keeps for their next use.
pub const POOLED_BYTES_MAX: usize = 4 * 1024 * 1024;

/// Buffers that a pool keeps for their next use.
pub const POOLED_BUFFERS_MAX: usize = 64;

/// Writes that KVM collected, or would have, between two counted exits.
pub const POSTED_WRITES_MAX: usize = 64 * 1024;

/// Bytes of a log batch before compression, above which the recorder closes it; one entry may exceed it.
pub const LOG_BATCH_BYTES_TARGET: usize = 256 * 1024;

/// Bytes of a log batch before compression that a reader accepts.
pub const LOG_BATCH_BYTES_MAX: usize = 4 * 1024 * 1024;

/// Exits checked in one log batch.
pub const LOG_BATCH_CHECKS_MAX: usize = 1024 * 1024;

/// Entries in one log batch.
pub const LOG_BATCH_ENTRIES_MAX: usize = 1024 * 1024;

/// Bytes of a message between two sites' supervisors, or on a control socket.
pub const SITE_MESSAGE_BYTES_MAX: usize = 64 * 1024;

/// Bytes of a bulk frame's head: an offer with its texts is the longest.
pub const TRANSFER_HEAD_BYTES_MAX: usize = 64 * 1024;

/// Bytes of one part of a saved machine: its disk's waiting writes are the longest.
pub const STATE_PART_BYTES_MAX: usize = 2 * DISK_BYTES_IN_FLIGHT_MAX;

/// Pages that both ends of a log remember, to send only how they change: 64 MiB.
pub const TOLD_PAGES_MAX: usize = 16 * 1024;

/// Epochs of which it is remembered what was written in them: a backup is far fewer behind.
pub const HISTORY_EPOCHS_MAX: usize = 64;

/// Bytes of pages and disk that repair a copy, before compression: above it a copy is begun anew.
pub const REPAIR_BYTES_MAX: u64 = 64 * MEBIBYTE;

/// Pages of one difference that are kept for whoever looks into it.
pub const KEPT_PAGES_MAX: usize = 1024;

/// Bytes of one piece of a repair: a leaf of the disk is the longest.
pub const REPAIR_PIECE_BYTES_MAX: usize = 64 * 1024;

/// Bytes of the guest's instructions that are looked at for why a copy differs.
pub const REPAIR_CODE_BYTES: usize = 64;

/// Runs of pages, and of leaves, by which a copy tells what it may have written: where there are more, close ones are one.
pub const REPAIR_RUNS_MAX: usize = 2048;

/// Words of a repair that wait to be written.
pub const CHANNEL_REPAIRS_WAITING_MAX: usize = 4;

/// Bytes of what one end of a repair says to the other.
pub const CHANNEL_REPAIR_BYTES_MAX: usize = 128 * 1024;

/// Bytes of the recipe at the head of a log.
pub const LOG_RECIPE_BYTES_MAX: usize = 64 * 1024;

/// Console output bytes that wait for the terminal; beyond it output is dropped and the loss is reported.
pub const CONSOLE_OUTPUT_BYTES_MAX: usize = 1024 * 1024;

/// Bytes of one answer of the entropy device.
pub const ENTROPY_BYTES_MAX: usize = 4096;

/// Console bytes waiting for the guest's serial FIFO; the console worker stops reading beyond it.
pub const CONSOLE_INPUT_BYTES_MAX: usize = 4096;

/// Bytes of one configuration file.
pub const CONFIG_FILE_BYTES_MAX: u64 = 64 * 1024;

/// Bytes of a VM's name: it serves as a DNS label and as part of file names.
pub const VM_NAME_BYTES_MAX: usize = 63;

/// Bytes of a network interface's name without the terminating zero (Linux `IFNAMSIZ` − 1).
pub const INTERFACE_NAME_BYTES_MAX: usize = 15;

/// Bytes of one batch on the logging channel: a batch that could not be compressed, with what the log puts around it.
pub const LOG_FRAME_BYTES_MAX: usize = LOG_BATCH_BYTES_MAX + 64 * 1024;

/// Bytes of one frame of the logging channel.
pub const CHANNEL_FRAME_BYTES_MAX: usize = LOG_FRAME_BYTES_MAX + 64;

/// Bytes of log that the backup may be behind before the primary waits (P3): the lag target at a full gigabit per second,
/// and what is under way at 80 ms, several times over.
pub const LOG_BUFFER_BYTES_MAX: usize = 64 * 1024 * 1024;

/// Bytes of log that either end holds: a buffer that is full, and behind it a repair that does not compress. No room is made
/// while a copy waits for a repair, so that waits for none.
pub const LOG_HELD_BYTES_MAX: usize = LOG_BUFFER_BYTES_MAX + 160 * 1024 * 1024;

/// Bytes of what one role says to the other at once.
pub const CHANNEL_WORD_BYTES_MAX: usize = 4096;

/// Words that wait to be written.
pub const CHANNEL_WORDS_WAITING_MAX: usize = 16;

/// Differences between two disks that are named one by one.
pub const VERIFY_DIFFERENCES_SHOWN_MAX: usize = 16;

/// Bytes of what one end of a verification says to the other: a leaf of the disk with its name, or a report.
pub const CHANNEL_CHECK_BYTES_MAX: usize = 64 * 1024 + 64;

/// Words of a verification that wait to be written. Whoever says one waits for an answer.
pub const CHANNEL_CHECKS_WAITING_MAX: usize = 4;

/// What a log frame counts for beside its bytes, so that tiny ones do not add up unseen.
pub const LOG_FRAME_OVERHEAD_BYTES: usize = 128;

/// Milliseconds for which the backup may keep to itself how far it is, while no output waits for it.
pub const ACK_DELAY_MS_MAX: u64 = 10;

/// Bytes that a channel's reader makes room for at a time.
pub const CHANNEL_READ_BYTES: usize = 64 * 1024;

/// Bytes of frames that are handed to TLS at a time; one frame may exceed it.
pub const CHANNEL_WRITE_BYTES: usize = 64 * 1024;

/// Bytes of a socket's buffers where the host lets us choose: what is under way at 80 ms and 1.6 Gbit/s.
pub const CHANNEL_WINDOW_BYTES: usize = 16 * 1024 * 1024;

/// Milliseconds from a connection's opening until both ends know whom they talk to, and again about what.
pub const CHANNEL_HANDSHAKE_MS_MAX: u64 = 5_000;

/// Connections of one VM whose other end has yet to show who it is.
pub const CHANNEL_HANDSHAKES_MAX: usize = 16;

/// Milliseconds for which what was sent may stay unacknowledged by the other end's kernel. Heartbeats have long judged the
/// peer by then: this only gives up what belongs to a dead connection.
pub const CHANNEL_UNACKNOWLEDGED_MS_MAX: u32 = 10_000;

/// Bytes of the name of a CPU profile with its version.
pub const CPU_PROFILE_BYTES_MAX: usize = 64;

const _: () = assert!(GUEST_RAM_BYTES_MIN < LOW_RAM_END);
const _: () = assert!(KERNEL_FILE_BYTES_MAX <= KERNEL_IMAGE_BYTES_MAX);
const _: () = assert!(VIRTQUEUE_SIZE_MAX.is_power_of_two());
const _: () = assert!(
    (LOG_HELD_BYTES_MAX - LOG_BUFFER_BYTES_MAX) as u64
        > REPAIR_BYTES_MAX + STATE_PART_BYTES_MAX as u64 + REPAIR_BYTES_MAX / 64
);
const _: () = assert!(DISK_REQUEST_BYTES_MAX <= DISK_BYTES_IN_FLIGHT_MAX);
const _: () = assert!(LOG_BATCH_BYTES_TARGET + FRAME_BYTES_MAX < LOG_BATCH_BYTES_MAX);
const _: () = assert!(DISK_REQUEST_BYTES_MAX <= POOLED_BYTES_MAX);
const _: () =
    assert!(LOG_BATCH_BYTES_MAX < LOG_FRAME_BYTES_MAX && LOG_FRAME_BYTES_MAX < CHANNEL_FRAME_BYTES_MAX);
const _: () = assert!(CHANNEL_FRAME_BYTES_MAX <= u32::MAX as usize);
// What is under way on a long line fits, with a longest frame beside it.
const _: () = assert!(CHANNEL_WINDOW_BYTES + CHANNEL_FRAME_BYTES_MAX <= LOG_BUFFER_BYTES_MAX);
// A Hello's texts have one byte for their length.
const _: () = assert!(CPU_PROFILE_BYTES_MAX <= 255 && VM_NAME_BYTES_MAX <= 255);
const _: () = assert!(CHANNEL_HANDSHAKE_MS_MAX < CHANNEL_UNACKNOWLEDGED_MS_MAX as u64);
