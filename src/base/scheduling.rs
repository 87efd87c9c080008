//! How the host's kernel schedules a thread of ours.

use std::io;

/// From now on the calling thread waits for its turn where it is woken, and does not take the CPU from whoever runs there
/// (`SCHED_BATCH`, sched(7)). On a CPU that has nothing to do it runs at once all the same.
///
/// # Errors
/// The kernel's.
pub(crate) fn let_others_run_on() -> io::Result<()> {
    let parameter = libc::sched_param { sched_priority: 0 };
    // SAFETY: it reads its last argument alone, which outlives the call.
    match unsafe { libc::sched_setscheduler(0, libc::SCHED_BATCH, &raw const parameter) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_is_scheduled_in_batches() {
        std::thread::spawn(|| {
            let_others_run_on().unwrap();
            // SAFETY: it takes no memory.
            assert_eq!(unsafe { libc::sched_getscheduler(0) }, libc::SCHED_BATCH);
        })
        .join()
        .unwrap();
    }
}
