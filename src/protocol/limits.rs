//! The protocol's times and sizes, each named once.

use std::time::Duration;

/// Below this no silence is taken for a failure, however short the way (P4); a site's configuration may say otherwise.
pub const FAILURE_TIMEOUT_FLOOR: Duration = Duration::from_millis(300);
/// What is added to four round trips.
pub const FAILURE_TIMEOUT_MARGIN: Duration = Duration::from_millis(100);
/// No heartbeats more often than this.
pub const HEARTBEAT_INTERVAL_MIN: Duration = Duration::from_millis(10);
/// Heartbeats in one failure timeout.
pub const HEARTBEATS_PER_TIMEOUT: u32 = 8;
/// Round trips that are remembered.
pub const ROUND_TRIPS_MAX: usize = 256;
/// A replay position that has not moved for so long, with work to do, makes the backup suspect (P4). So does a flush that
/// has waited for its disk for so long (P8).
pub const BACKUP_STALL: Duration = Duration::from_secs(5);
/// What the preferred site's head start has beyond two round trips (P5).
pub const HEAD_START_MARGIN: Duration = Duration::from_millis(50);
/// How long `pair` may be unanswered before the backup is asked to renounce (P6), and how often it is asked again.
pub const PAIR_PATIENCE: Duration = Duration::from_secs(2);
/// A read of the record counts as of now for so long: the stun's precondition (P6).
pub const RECORD_FRESH: Duration = Duration::from_secs(1);
/// A stun that takes longer is given up; the bound is one second at 1 Gbit/s (P6), a thinner line may take longer.
pub const STUN_MAX: Duration = Duration::from_secs(5);
/// Nor does a guest stand still for a site that was not heard for so long. Nothing is lost by a mistake but the try, and the
/// line is full of the machine: this is longer than a failure timeout.
pub const STUN_SILENCE_MAX: Duration = Duration::from_secs(1);
/// How long a copy that is on its way waits for the next piece: nobody depends on it yet.
pub const JOIN_PATIENCE: Duration = Duration::from_secs(10);
/// Between two asks for the same thing.
pub const ASK_AGAIN: Duration = Duration::from_millis(100);
/// How long a site that starts out of a standing pairing lets the other one claim first.
pub const COLD_START_GRACE: Duration = Duration::from_secs(5);
/// A site that runs alone asks whether it still may, when it has not acted for so long.
pub const ALONE_GAP_MAX: Duration = Duration::from_secs(5);
/// How long a switchover waits for a backup that is too far behind to catch up, while the guest runs (P7).
pub const CATCHING_UP_PATIENCE: Duration = Duration::from_secs(10);
/// How long a guest that is to go on at the other site may stand still before that is asked of the tiebreaker (P7).
pub const YIELDING_PATIENCE: Duration = Duration::from_secs(2);
/// How long a backup that is to go on waits for the outcome before it asks for it by a claim.
pub const POISED_PATIENCE: Duration = Duration::from_secs(2);
/// How often a site that would protect its VM again asks whether the other one is there.
pub const CALL_EVERY: Duration = Duration::from_secs(1);
/// A call that is not answered for so long never will be.
pub const CALL_PATIENCE: Duration = Duration::from_secs(3);
/// How long the next try is put off after a failure; twice as long after each further one, up to the other.
pub const RETRY_FIRST: Duration = Duration::from_secs(1);
/// See [`RETRY_FIRST`].
pub const RETRY_MAX: Duration = Duration::from_secs(300);
/// A protection that has lasted for so long was none that failed.
pub const PROTECTED_FOR_GOOD: Duration = Duration::from_secs(300);
/// How long a copy that differs may take to be the same again (H2): outputs wait as long, and nobody is protected.
pub const REPAIR_PATIENCE: Duration = Duration::from_secs(5);
/// After a copy has differed, so many epochs must be the same at their ends before outputs leave by its word again that it
/// has received what tells of them (H3).
pub const CLEAN_EPOCHS: u32 = 100;
/// How long a copy is kept the same in one way, by replay or by checkpoints, at least (H4).
pub const MODE_STAY_MIN: Duration = Duration::from_secs(60);
/// And at the longest before the other way is tried again.
pub const MODE_STAY_MAX: Duration = Duration::from_secs(3600);
/// A way that has lasted for so long beyond that was no try that failed.
pub const MODE_LASTS: Duration = Duration::from_secs(600);
/// What it costs is measured over so long, but for repairs.
pub const MODE_RATES_SPAN: Duration = Duration::from_secs(10);
/// Repairs are counted over so long.
pub const MODE_REPAIRS_SPAN: Duration = Duration::from_secs(60);
/// Outputs whose hold is remembered for that.
pub const MODE_HOLDS_MAX: usize = 512;
/// Log frames of which it is remembered that they carry what a machine is, for the outputs in them.
pub const MODE_FRAMES_MAX: usize = 1024;
/// Checkpoints are no closer to each other than this, whatever waits for them (H4).
pub const CHECKPOINT_AFTER_MIN: Duration = Duration::from_millis(20);
/// And no farther, whether anything waits or not.
pub const CHECKPOINT_AFTER_MAX: Duration = Duration::from_secs(1);
/// The lag above which the guest is slowed (P3).
pub const LAG_TARGET: Duration = Duration::from_millis(100);
/// Between two steps of the guest's share.
pub const LAG_STEP_INTERVAL: Duration = Duration::from_millis(200);
/// The least share, in percent.
pub const SHARE_PERCENT_MIN: u8 = 10;
/// How long one slice of a verification may take: the copy must come to its position, and read it.
pub const VERIFY_PATIENCE: Duration = Duration::from_secs(60);
/// Before what the guest wrote to is compared again.
pub const VERIFY_PASS_PAUSE: Duration = Duration::from_millis(500);
/// How often what the guest writes to is looked at.
pub const VERIFY_PASSES_MAX: u32 = 30;
/// How often a leaf that differs is mended in one verification.
pub const VERIFY_MENDS_MAX: u32 = 3;
/// Leaves that differ, above which a verification gives up: mending goes leaf by leaf.
pub const VERIFY_DIFFERENCES_MAX: usize = 4096;
/// How often the other site is told how far a verification is.
pub const VERIFY_TOLD_EVERY: Duration = Duration::from_secs(1);
/// Marks of when the primary was where, for the lag in time.
pub const LAG_MARKS_MAX: usize = 1024;

const _: () = {
    assert!(
        RECORD_FRESH.as_millis() <= PAIR_PATIENCE.as_millis(),
        "a pairing is asked for while the record's reading still counts"
    );
    assert!(
        CALL_EVERY.as_millis() + CALL_PATIENCE.as_millis() < 5_000,
        "a VM is protected again no later than five seconds after the other site is back"
    );
    assert!(
        ALONE_GAP_MAX.as_millis() >= FAILURE_TIMEOUT_FLOOR.as_millis(),
        "who runs alone is trusted for longer than one whose peer may claim"
    );
    assert!(
        MODE_RATES_SPAN.as_nanos() < MODE_STAY_MIN.as_nanos()
            && MODE_REPAIRS_SPAN.as_nanos() <= MODE_STAY_MIN.as_nanos(),
        "what is measured when a stay is over is of that stay"
    );
};
