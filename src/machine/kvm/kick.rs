//! Getting a running or waiting vCPU thread's attention.
//!
//! A kick is a signal whose handler sets `kvm_run.immediate_exit`; installed without `SA_RESTART`, so that KVM_RUN
//! returns EINTR, and if the signal lands just before KVM_RUN, the flag makes it return at once. A vCPU thread that
//! waits for work is parked and is unparked instead.
//!
//! The poster and the vCPU thread agree by Dekker's rule: the poster publishes its work, then reads where the vCPU
//! is; the vCPU publishes where it is, then looks for work. One of the two always sees the other.

use std::cell::Cell;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::thread::Thread;
use std::time::Duration;

use nix::sys::pthread::{Pthread, pthread_kill, pthread_self};
use nix::sys::signal::{SaFlags, SigAction, SigEvent, SigHandler, SigSet, SigevNotify, Signal, sigaction};
use nix::sys::time::TimeSpec;
use nix::sys::timer::{Expiration, Timer, TimerSetTimeFlags};
use nix::time::ClockId;

/// The signal of a kick. Terminals and shells give it no meaning of their own.
const KICK_SIGNAL: Signal = Signal::SIGUSR1;

const AT_WORK: u8 = 0;
const IN_GUEST: u8 = 1;
const PARKED: u8 = 2;

thread_local! {
    /// This thread's `kvm_run.immediate_exit`, null while the thread owns no vCPU.
    static IMMEDIATE_EXIT: Cell<*mut u8> = const { Cell::new(std::ptr::null_mut()) };
}

extern "C" fn on_kick(_signal: std::ffi::c_int) {
    let flag = IMMEDIATE_EXIT.get();
    if !flag.is_null() {
        // SAFETY: the pointer is into this thread's own vCPU's mapping: set by `Attachment::new`, cleared when the
        // attachment is dropped, which `Vcpu` does before it unmaps. The kernel reads the byte, no Rust reference to it
        // is held across the write because the handler runs on the same thread and the write is volatile.
        unsafe { flag.write_volatile(1) };
    }
}

#[derive(Debug)]
struct Shared {
    place: AtomicU8,
    work: AtomicBool,
    thread: Thread,
    pthread: Pthread,
}

/// Wakes or interrupts a vCPU thread from any other thread.
#[derive(Debug, Clone)]
pub struct VcpuWaker(Arc<Shared>);

impl VcpuWaker {
    /// Tells the vCPU thread that work waits; cheap if it is busy anyway.
    pub fn wake(&self) {
        self.0.work.store(true, Ordering::SeqCst);
        match self.0.place.load(Ordering::SeqCst) {
            IN_GUEST => {
                // An error means that the thread has ended; then nobody needs waking.
                let _ = pthread_kill(self.0.pthread, KICK_SIGNAL);
            }
            PARKED => self.0.thread.unpark(),
            _ => {}
        }
    }

    /// Signals the vCPU thread for nothing, wherever it is.
    pub fn disturb(&self) {
        // An error means that the thread has ended; then there is nobody to disturb.
        let _ = pthread_kill(self.0.pthread, KICK_SIGNAL);
    }
}

/// Ties a thread to its vCPU, which owns this.
#[derive(Debug)]
pub(super) struct Attachment(Kicker);

impl Attachment {
    /// Makes the calling thread a vCPU thread: installs the handler and ties it to the vCPU's `immediate_exit`, which
    /// must stay mapped until the attachment is dropped.
    ///
    /// # Errors
    /// When the thread has a vCPU already, or the host refuses the signal handler.
    pub(super) fn new(immediate_exit: *mut u8) -> std::io::Result<Self> {
        if !IMMEDIATE_EXIT.get().is_null() {
            return Err(std::io::Error::other("this thread runs another vCPU"));
        }
        let action = SigAction::new(SigHandler::Handler(on_kick), SaFlags::empty(), SigSet::empty());
        // SAFETY: the handler only reads a thread-local cell and writes one byte: async-signal-safe.
        unsafe { sigaction(KICK_SIGNAL, &action) }?;
        IMMEDIATE_EXIT.set(immediate_exit);
        let shared = Shared {
            place: AtomicU8::new(AT_WORK),
            work: AtomicBool::new(false),
            thread: std::thread::current(),
            pthread: pthread_self(),
        };
        Ok(Self(Kicker {
            shared: Arc::new(shared),
            not_send: std::marker::PhantomData,
        }))
    }

    pub(super) fn kicker(&self) -> &Kicker {
        &self.0
    }
}

impl Drop for Attachment {
    fn drop(&mut self) {
        self.0.leave_guest();
        IMMEDIATE_EXIT.set(std::ptr::null_mut());
    }
}

/// The vCPU thread's own end.
#[derive(Debug, Clone)]
pub struct Kicker {
    shared: Arc<Shared>,
    not_send: std::marker::PhantomData<*const ()>,
}

impl Kicker {
    /// A handle for other threads.
    #[must_use]
    pub fn waker(&self) -> VcpuWaker {
        VcpuWaker(Arc::clone(&self.shared))
    }

    /// Takes the note that work waits.
    #[must_use]
    pub fn take_work(&self) -> bool {
        self.shared.work.swap(false, Ordering::SeqCst)
    }

    /// Whether work waits.
    #[must_use]
    pub fn has_work(&self) -> bool {
        self.shared.work.load(Ordering::SeqCst)
    }

    /// Announces that this thread is about to enter the guest. False if work came first: do not enter.
    #[must_use]
    pub fn enter_guest(&self) -> bool {
        self.shared.place.store(IN_GUEST, Ordering::SeqCst);
        if self.shared.work.load(Ordering::SeqCst) {
            self.leave_guest();
            return false;
        }
        true
    }

    /// Announces that this thread is about to go on in the guest, whatever work has come.
    pub fn reenter_guest(&self) {
        self.shared.place.store(IN_GUEST, Ordering::SeqCst);
    }

    /// Announces that this thread is out of the guest.
    pub fn leave_guest(&self) {
        self.shared.place.store(AT_WORK, Ordering::SeqCst);
    }

    /// Waits for work, at most `limit` (`None`: as long as it takes). May return early.
    pub fn park(&self, limit: Option<Duration>) {
        self.shared.place.store(PARKED, Ordering::SeqCst);
        if !self.shared.work.load(Ordering::SeqCst) {
            match limit {
                Some(limit) => std::thread::park_timeout(limit),
                None => std::thread::park(),
            }
        }
        self.shared.place.store(AT_WORK, Ordering::SeqCst);
    }
}

/// Kicks its own thread out of the guest after a span of host time.
#[derive(Debug)]
pub struct KickTimer {
    timer: Timer,
    not_send: std::marker::PhantomData<*const ()>,
}

impl KickTimer {
    /// A timer that kicks the calling thread, disarmed.
    ///
    /// # Errors
    /// When the host refuses a timer.
    pub fn for_this_thread() -> std::io::Result<Self> {
        let notify = SigevNotify::SigevThreadId {
            signal: KICK_SIGNAL,
            thread_id: nix::unistd::gettid().as_raw(),
            si_value: 0,
        };
        let timer = Timer::new(ClockId::CLOCK_MONOTONIC, SigEvent::new(notify))?;
        Ok(Self {
            timer,
            not_send: std::marker::PhantomData,
        })
    }

    /// Kicks after `span`, once. Replaces an earlier setting.
    ///
    /// # Errors
    /// When the host refuses.
    pub fn arm(&mut self, span: Duration) -> std::io::Result<()> {
        // Zero would disarm the timer, where the caller wants it to fire at once.
        let span = span.max(Duration::from_nanos(1));
        self.set(span)
    }

    /// Withdraws the kick.
    ///
    /// # Errors
    /// When the host refuses.
    pub fn disarm(&mut self) -> std::io::Result<()> {
        self.set(Duration::ZERO)
    }

    fn set(&mut self, span: Duration) -> std::io::Result<()> {
        let span = Expiration::OneShot(TimeSpec::from_duration(span));
        self.timer.set(span, TimerSetTimeFlags::empty())?;
        Ok(())
    }
}
