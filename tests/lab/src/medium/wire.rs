//! As much of NBD as QEMU needs of a disk: the fixed newstyle handshake, and simple replies.
//!
//! The protocol is `doc/proto.md` of <https://github.com/NetworkBlockDevice/nbd>. Numbers are big-endian.

use std::io::{self, Error, Read, Write};

const GREETING: &[u8; 16] = b"NBDMAGICIHAVEOPT";
const OPTION_MAGIC: u64 = u64::from_be_bytes(*b"IHAVEOPT");
const OPTION_REPLY_MAGIC: u64 = 0x0003_e889_0455_65a9;
const REQUEST_MAGIC: u32 = 0x2560_9513;
const REPLY_MAGIC: u32 = 0x6744_6698;

/// Fixed newstyle, and no zeroes after an export's flags.
const HANDSHAKE_FLAGS: u16 = 1 | 2;
/// There are flags, and a flush is understood.
const EXPORT_FLAGS: u16 = 1 | 4;

const OPTION_ABORT: u32 = 2;
const OPTION_GO: u32 = 7;
const REPLY_ACK: u32 = 1;
const REPLY_INFO: u32 = 3;
const REPLY_UNSUPPORTED: u32 = 0x8000_0001;
const INFO_EXPORT: u16 = 0;
/// An option names an export, and asks for some information: far less.
const OPTION_BYTES_MAX: u32 = 4_096;

/// QEMU asks for no more at once.
const REQUEST_BYTES_MAX: u32 = 32 << 20;

/// What QEMU is told has gone wrong: Linux' numbers, which NBD has taken over.
pub(super) const EIO: u32 = 5;
pub(super) const EINVAL: u32 = 22;

/// What is asked of the disk.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Request {
    /// Comes back in the answer.
    pub(super) cookie: u64,
    pub(super) what: What,
}

#[derive(Debug, PartialEq, Eq)]
pub(super) enum What {
    Read {
        offset: u64,
        byte_count: usize,
    },
    Write {
        offset: u64,
        data: Vec<u8>,
    },
    Flush,
    /// QEMU has nothing more to ask.
    End,
    /// Something that was not offered.
    Unknown,
}

/// Greets QEMU and tells it of a disk of so many bytes. False if it goes away again.
pub(super) fn greet(stream: &mut (impl Read + Write), byte_count: u64) -> io::Result<bool> {
    stream.write_all(GREETING)?;
    stream.write_all(&HANDSHAKE_FLAGS.to_be_bytes())?;
    let _flags = u32::from_be_bytes(take(stream)?);
    loop {
        if u64::from_be_bytes(take(stream)?) != OPTION_MAGIC {
            return Err(Error::other("no option where one must come"));
        }
        let option = u32::from_be_bytes(take(stream)?);
        let length = u32::from_be_bytes(take(stream)?);
        if length > OPTION_BYTES_MAX {
            return Err(Error::other("an option that is too long"));
        }
        io::copy(&mut Read::take(&mut *stream, length.into()), &mut io::sink())?;
        match option {
            OPTION_GO => {
                let info = [
                    &INFO_EXPORT.to_be_bytes()[..],
                    &byte_count.to_be_bytes(),
                    &EXPORT_FLAGS.to_be_bytes(),
                ]
                .concat();
                answer_option(stream, option, REPLY_INFO, &info)?;
                answer_option(stream, option, REPLY_ACK, &[])?;
                return Ok(true);
            }
            OPTION_ABORT => {
                answer_option(stream, option, REPLY_ACK, &[])?;
                return Ok(false);
            }
            _ => answer_option(stream, option, REPLY_UNSUPPORTED, &[])?,
        }
    }
}

fn answer_option(stream: &mut impl Write, option: u32, reply: u32, data: &[u8]) -> io::Result<()> {
    let length = u32::try_from(data.len()).unwrap_or(u32::MAX);
    stream.write_all(&OPTION_REPLY_MAGIC.to_be_bytes())?;
    for number in [option, reply, length] {
        stream.write_all(&number.to_be_bytes())?;
    }
    stream.write_all(data)
}

/// The next request, whole.
pub(super) fn request(stream: &mut impl Read) -> io::Result<Request> {
    if u32::from_be_bytes(take(stream)?) != REQUEST_MAGIC {
        return Err(Error::other("no request where one must come"));
    }
    let _flags: [u8; 2] = take(stream)?;
    let command = u16::from_be_bytes(take(stream)?);
    let cookie = u64::from_be_bytes(take(stream)?);
    let offset = u64::from_be_bytes(take(stream)?);
    let length = u32::from_be_bytes(take(stream)?);
    if length > REQUEST_BYTES_MAX {
        return Err(Error::other("a request that is too long"));
    }
    let byte_count = usize::try_from(length).unwrap_or_default();
    let what = match command {
        0 => What::Read { offset, byte_count },
        1 => {
            let mut data = vec![0; byte_count];
            stream.read_exact(&mut data)?;
            What::Write { offset, data }
        }
        2 => What::End,
        3 => What::Flush,
        _ => What::Unknown,
    };
    Ok(Request { cookie, what })
}

/// Answers the request of this cookie: what was read, or what has gone wrong.
pub(super) fn answer(stream: &mut impl Write, cookie: u64, outcome: Result<Vec<u8>, u32>) -> io::Result<()> {
    let (error, data) = match outcome {
        Ok(data) => (0, data),
        Err(error) => (error, Vec::new()),
    };
    let head = [
        &REPLY_MAGIC.to_be_bytes()[..],
        &error.to_be_bytes(),
        &cookie.to_be_bytes(),
    ];
    stream.write_all(&[&head.concat()[..], &data].concat())
}

fn take<const COUNT: usize>(stream: &mut impl Read) -> io::Result<[u8; COUNT]> {
    let mut bytes = [0; COUNT];
    stream.read_exact(&mut bytes)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn framed(command: u16, offset: u64, length: u32) -> Vec<u8> {
        [
            &REQUEST_MAGIC.to_be_bytes()[..],
            &[0, 0],
            &command.to_be_bytes(),
            &77_u64.to_be_bytes(),
            &offset.to_be_bytes(),
            &length.to_be_bytes(),
        ]
        .concat()
    }

    #[test]
    fn requests_are_read_whole_and_each_cut_one_is_an_error() {
        let mut write = framed(1, 512, 3);
        write.extend(b"abc");
        let expected = Request {
            cookie: 77,
            what: What::Write {
                offset: 512,
                data: b"abc".into(),
            },
        };
        assert_eq!(request(&mut &write[..]).unwrap(), expected);
        for end in 0..write.len() {
            assert!(request(&mut &write[..end]).is_err(), "{end}");
        }
        let read = What::Read {
            offset: 1024,
            byte_count: 8,
        };
        assert_eq!(request(&mut &framed(0, 1024, 8)[..]).unwrap().what, read);
        assert_eq!(request(&mut &framed(2, 0, 0)[..]).unwrap().what, What::End);
        assert_eq!(request(&mut &framed(3, 0, 0)[..]).unwrap().what, What::Flush);
        assert_eq!(request(&mut &framed(4, 0, 0)[..]).unwrap().what, What::Unknown);
    }

    #[test]
    fn what_is_no_request_or_too_long_is_refused() {
        let mut bad = framed(0, 0, 8);
        bad[0] ^= 1;
        assert!(request(&mut &bad[..]).is_err());
        assert!(request(&mut &framed(1, 0, REQUEST_BYTES_MAX + 1)[..]).is_err());
    }
}
