//! What a run of the vCPU ended with.

/// A port access of the guest: `count` elements of `size` bytes, more than one only for `REP INS`/`OUTS`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PortAccess {
    /// The port.
    pub port: u16,
    /// Bytes of one element: 1, 2 or 4.
    pub size: u8,
    /// Elements.
    pub count: u32,
}

/// Where a write went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WritePlace {
    /// To a port.
    Port(u16),
    /// To a register in guest physical memory.
    Memory(u64),
}

/// A write that KVM may collect instead of stopping for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PostedWrite {
    /// Where it went.
    pub place: WritePlace,
    data: [u8; Self::BYTES_MAX],
    byte_count: usize,
}

impl PostedWrite {
    /// The widest write, in bytes.
    pub const BYTES_MAX: usize = 8;

    /// A write of `content` to `place`, unless it is wider than any.
    #[must_use]
    pub fn new(place: WritePlace, content: &[u8]) -> Option<Self> {
        let mut data = [0; Self::BYTES_MAX];
        data.get_mut(..content.len())?.copy_from_slice(content);
        Some(Self {
            place,
            data,
            byte_count: content.len(),
        })
    }

    /// The bytes written.
    #[must_use]
    pub fn data(&self) -> &[u8] {
        &self.data[..self.byte_count]
    }
}

/// Why the vCPU stopped running. All but [`Exit::Interrupted`] and [`Exit::Refused`] are counted (E5).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Exit {
    /// The guest reads a port; the answer goes into [`super::Vcpu::port_data`].
    PortRead(PortAccess),
    /// The guest writes a port; the bytes are in [`super::Vcpu::port_data`].
    PortWrite(PortAccess),
    /// The guest reads memory where there is none.
    MmioRead {
        /// Guest physical address.
        address: u64,
    },
    /// The guest writes memory where there is none.
    MmioWrite {
        /// Guest physical address.
        address: u64,
    },
    /// The guest waits for an interrupt.
    Halt,
    /// The guest can take an interrupt now; it could not when a window was asked for.
    IrqWindow,
    /// The guest reads an MSR that KVM does not answer.
    Rdmsr {
        /// MSR number.
        index: u32,
    },
    /// The guest writes an MSR that KVM does not take.
    Wrmsr {
        /// MSR number.
        index: u32,
        /// Value written.
        value: u64,
    },
    /// The guest lowered CR8.
    SetTpr,
    /// A debug exception that we asked for.
    Debug,
    /// Triple fault.
    Shutdown,
    /// We stopped a guest that computed without an exit, and made the point a position (H1).
    Preempted,
    /// A signal arrived: host noise, never counted.
    Interrupted,
    /// KVM gave up or gave a reason outside the closed list; the VM stops with this text.
    Refused(String),
}

/// The kinds of counted exits, for totals.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ExitKind {
    /// `IN`.
    PortRead,
    /// `OUT`.
    PortWrite,
    /// Read outside RAM.
    MmioRead,
    /// Write outside RAM.
    MmioWrite,
    /// `HLT`.
    Halt,
    /// Interrupt window.
    IrqWindow,
    /// `RDMSR`.
    Rdmsr,
    /// `WRMSR`.
    Wrmsr,
    /// CR8 write.
    SetTpr,
    /// Debug exception.
    Debug,
    /// Triple fault.
    Shutdown,
    /// Preemption of ours.
    Preempted,
}

impl ExitKind {
    /// Every kind, in the order of reports.
    pub const ALL: [Self; 12] = [
        Self::PortRead,
        Self::PortWrite,
        Self::MmioRead,
        Self::MmioWrite,
        Self::Halt,
        Self::IrqWindow,
        Self::Rdmsr,
        Self::Wrmsr,
        Self::SetTpr,
        Self::Debug,
        Self::Shutdown,
        Self::Preempted,
    ];

    /// The name used in reports.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::PortRead => "port_read",
            Self::PortWrite => "port_write",
            Self::MmioRead => "mmio_read",
            Self::MmioWrite => "mmio_write",
            Self::Halt => "halt",
            Self::IrqWindow => "irq_window",
            Self::Rdmsr => "rdmsr",
            Self::Wrmsr => "wrmsr",
            Self::SetTpr => "set_tpr",
            Self::Debug => "debug",
            Self::Shutdown => "shutdown",
            Self::Preempted => "preempted",
        }
    }
}

impl Exit {
    /// The kind of a counted exit; `None` for what is not counted.
    #[must_use]
    pub const fn counted(&self) -> Option<ExitKind> {
        match self {
            Self::PortRead(_) => Some(ExitKind::PortRead),
            Self::PortWrite(_) => Some(ExitKind::PortWrite),
            Self::MmioRead { .. } => Some(ExitKind::MmioRead),
            Self::MmioWrite { .. } => Some(ExitKind::MmioWrite),
            Self::Halt => Some(ExitKind::Halt),
            Self::IrqWindow => Some(ExitKind::IrqWindow),
            Self::Rdmsr { .. } => Some(ExitKind::Rdmsr),
            Self::Wrmsr { .. } => Some(ExitKind::Wrmsr),
            Self::SetTpr => Some(ExitKind::SetTpr),
            Self::Debug => Some(ExitKind::Debug),
            Self::Shutdown => Some(ExitKind::Shutdown),
            Self::Preempted => Some(ExitKind::Preempted),
            Self::Interrupted | Self::Refused(_) => None,
        }
    }
}
