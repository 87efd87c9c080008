//! A TAP interface with virtio-net headers.

use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Read, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use nix::libc;

use crate::base::limits::{FRAME_BYTES_MAX, TAP_QUEUE_FRAMES_MAX};
use crate::devices::Frame;
use crate::devices::virtio_net::Offloads;

nix::ioctl_write_ptr_bad!(
    /// Binds the descriptor to an interface.
    tun_set_iff,
    libc::TUNSETIFF,
    libc::ifreq
);
nix::ioctl_write_ptr_bad!(
    /// Sets the length of the virtio-net header before each frame.
    tun_set_vnet_header_size,
    libc::TUNSETVNETHDRSZ,
    libc::c_int
);
nix::ioctl_write_int_bad!(
    /// Sets which offloads the reader of the TAP understands.
    tun_set_offload,
    libc::TUNSETOFFLOAD
);

/// The header of virtio 1.x, with `num_buffers`.
static HEADER_BYTES: libc::c_int = 12;

/// Why a TAP interface cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TapError {
    /// There is no such interface.
    #[error(
        "TAP interface {name} does not exist; create it with `ip tuntap add dev {name} mode tap vnet_hdr`"
    )]
    Missing {
        /// The interface.
        name: String,
    },
    /// Another process holds it.
    #[error("TAP interface {name} is in use by another process")]
    Busy {
        /// The interface.
        name: String,
    },
    /// The host refuses.
    #[error("cannot use TAP interface {name}: {step}: {source}")]
    Refused {
        /// The interface.
        name: String,
        /// What was tried.
        step: &'static str,
        /// The host's error.
        #[source]
        source: std::io::Error,
    },
}

/// An open TAP interface.
#[derive(Debug)]
pub struct Tap {
    file: File,
    offloads: Offloads,
}

impl Tap {
    /// Opens the existing interface `name`.
    ///
    /// # Errors
    /// [`TapError`]; nothing was created or modified.
    pub fn open(name: &str) -> Result<Self, TapError> {
        // TUNSETIFF would create a missing interface, which then vanishes with us: not what the operator asked for.
        if !Path::new("/sys/class/net").join(name).join("tun_flags").exists() {
            return Err(TapError::Missing {
                name: name.to_owned(),
            });
        }
        let refused = |step| {
            move |source: std::io::Error| TapError::Refused {
                name: name.to_owned(),
                step,
                source,
            }
        };
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .custom_flags(libc::O_NONBLOCK | libc::O_CLOEXEC)
            .open("/dev/net/tun")
            .map_err(refused("opening /dev/net/tun"))?;
        bind(&file, name)?;
        let fd = file.as_raw_fd();
        // SAFETY: the descriptor is a TAP's and the pointer is to a live integer, which the kernel only reads.
        unsafe { tun_set_vnet_header_size(fd, &raw const HEADER_BYTES) }
            .map_err(|errno| refused("setting the header size")(errno.into()))?;
        let mut tap = Self {
            file,
            offloads: Offloads::default(),
        };
        tap.offloads = tap.best_offloads();
        tap.set_receive_offloads(Offloads::default())
            .map_err(refused("switching offloads off until the guest asks for them"))?;
        Ok(tap)
    }

    /// What the host's kernel can do.
    #[must_use]
    pub fn offloads(&self) -> Offloads {
        self.offloads
    }

    /// Tells the host's kernel what the guest's driver takes unfinished.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub(super) fn set_receive_offloads(&self, offloads: Offloads) -> std::io::Result<()> {
        let bits = [
            (offloads.checksum, libc::TUN_F_CSUM),
            (offloads.tso4, libc::TUN_F_TSO4),
            (offloads.tso6, libc::TUN_F_TSO6),
            (offloads.ecn, libc::TUN_F_TSO_ECN),
        ];
        let flags = bits
            .iter()
            .filter(|(wanted, _)| *wanted)
            .fold(0, |flags, (_, bit)| flags | bit);
        // SAFETY: the descriptor is a TAP's; the argument is a plain integer.
        unsafe { tun_set_offload(self.file.as_raw_fd(), flags.cast_signed()) }?;
        Ok(())
    }

    /// All offloads, or checksums alone, or none: whatever the kernel takes first.
    fn best_offloads(&self) -> Offloads {
        let all = Offloads {
            checksum: true,
            tso4: true,
            tso6: true,
            ecn: true,
        };
        let checksum = Offloads {
            checksum: true,
            ..Offloads::default()
        };
        let accepted = |offloads: &Offloads| self.set_receive_offloads(*offloads).is_ok();
        [all, checksum].into_iter().find(accepted).unwrap_or_default()
    }

    pub(super) fn descriptor(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }

    /// Reads one frame, `None` when none waits.
    pub(super) fn receive(&self, buffer: &mut [u8; FRAME_BYTES_MAX]) -> std::io::Result<Option<Frame>> {
        match (&self.file).read(buffer) {
            Ok(length) => Ok(Some(Frame(buffer[..length].to_vec()))),
            Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Drops what it has received so far. Its queue is finite, and so is what one that fills meanwhile is asked for.
    pub(in crate::machine) fn drop_received(&self) -> std::io::Result<()> {
        let mut buffer = Box::new([0; FRAME_BYTES_MAX]);
        for _ in 0..TAP_QUEUE_FRAMES_MAX {
            if self.receive(&mut buffer)?.is_none() {
                break;
            }
        }
        Ok(())
    }

    /// Writes one frame, false when the TAP has no room.
    pub(super) fn transmit(&self, frame: &Frame) -> std::io::Result<bool> {
        match (&self.file).write(&frame.0) {
            Ok(_) => Ok(true),
            Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(false),
            Err(error) => Err(error),
        }
    }
}

fn bind(file: &File, name: &str) -> Result<(), TapError> {
    // SAFETY: `ifreq` is plain integers and byte arrays, for which all-zero is valid.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request
        .ifr_name
        .iter_mut()
        .zip(name.bytes().take(libc::IFNAMSIZ - 1))
    {
        *to = from.cast_signed();
    }
    let flags = libc::IFF_TAP | libc::IFF_NO_PI | libc::IFF_VNET_HDR;
    request.ifr_ifru.ifru_flags = libc::c_short::try_from(flags).unwrap_or(0);
    // SAFETY: the descriptor is /dev/net/tun and the pointer is to a live `ifreq`.
    match unsafe { tun_set_iff(file.as_raw_fd(), &raw const request) } {
        Ok(_) => Ok(()),
        Err(nix::errno::Errno::EBUSY) => Err(TapError::Busy {
            name: name.to_owned(),
        }),
        Err(errno) => Err(TapError::Refused {
            name: name.to_owned(),
            step: "binding it as a TAP with virtio-net headers",
            source: errno.into(),
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_interface_is_named_and_not_created() {
        let error = Tap::open("antipode-none").unwrap_err();
        assert!(matches!(error, TapError::Missing { .. }), "{error}");
        assert!(!Path::new("/sys/class/net/antipode-none").exists());
        assert!(
            matches!(Tap::open("lo"), Err(TapError::Missing { .. })),
            "lo is no TAP"
        );
    }
}
