//! Requests to the kernel's rtnetlink (RFC 3549), and its answers, as bytes.

use rustix::{
    fd::OwnedFd,
    net::{
        self, AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType,
        netlink::SocketAddrNetlink,
        sockopt::{Timeout, set_socket_timeout},
    },
};
use std::{io, time::Duration};

/// `struct nlmsghdr`, bytes.
const HEAD: usize = 16;
/// Largest part of an answer, bytes: the kernel fills at most 32 KiB.
const BUFFER: usize = 64 << 10;
/// How long the kernel may take to answer.
const PATIENCE: Duration = Duration::from_secs(5);
/// A list that changed while it was read is read again, so often.
const RETRIES: usize = 8;
/// `NLM_F_DUMP_INTR`: the list changed while it was read.
const INTERRUPTED: u16 = 0x10;

/// A socket to the kernel, in the network namespace of the thread that opened it.
pub struct Netlink {
    fd: OwnedFd,
    seq: u32,
}

impl Netlink {
    /// Opens it; needs no right.
    pub fn open() -> io::Result<Self> {
        // NETLINK_ROUTE is protocol 0.
        let fd = net::socket_with(AddressFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC, None)?;
        net::bind(&fd, &SocketAddrNetlink::new(0, 0))?;
        set_socket_timeout(&fd, Timeout::Recv, Some(PATIENCE))?;
        Ok(Self { fd, seq: 0 })
    }

    fn send(&mut self, kind: u16, flags: i32, body: &[u8]) -> io::Result<()> {
        self.seq = self.seq.wrapping_add(1);
        let len = u32::try_from(HEAD + body.len()).map_err(io::Error::other)?;
        let flags = u16::try_from(flags).map_err(io::Error::other)?;
        let mut message = Vec::with_capacity(HEAD + body.len());
        message.extend_from_slice(&len.to_ne_bytes());
        message.extend_from_slice(&kind.to_ne_bytes());
        message.extend_from_slice(&flags.to_ne_bytes());
        message.extend_from_slice(&self.seq.to_ne_bytes());
        message.extend_from_slice(&0u32.to_ne_bytes());
        message.extend_from_slice(body);
        net::sendto(&self.fd, &message, SendFlags::empty(), &SocketAddrNetlink::new(0, 0))?;
        Ok(())
    }

    /// Asks for something to be done; an error is the kernel's.
    pub fn ask(&mut self, kind: u16, flags: i32, body: &[u8]) -> io::Result<()> {
        self.send(kind, flags | libc::NLM_F_REQUEST | libc::NLM_F_ACK, body)?;
        self.read_answer(&mut |_, _| {}).map(|_| ())
    }

    /// Asks for a list: the messages' bodies.
    pub fn dump(&mut self, kind: u16, body: &[u8]) -> io::Result<Vec<Vec<u8>>> {
        for _ in 0..RETRIES {
            let mut all = Vec::new();
            self.send(kind, libc::NLM_F_REQUEST | libc::NLM_F_DUMP, body)?;
            let whole = self.read_answer(&mut |_, body| all.push(body.to_vec()))?;
            if whole {
                return Ok(all);
            }
        }
        Err(io::Error::other("the list changed each time that it was read"))
    }

    /// Reads until the answer to the last request ends; false if the list changed meanwhile.
    fn read_answer(&mut self, take: &mut dyn FnMut(u16, &[u8])) -> io::Result<bool> {
        let mut buffer = vec![0u8; BUFFER];
        let mut whole = true;
        loop {
            let (n, _) = match net::recv(&self.fd, &mut buffer[..], RecvFlags::empty()) {
                Err(rustix::io::Errno::INTR) => continue,
                other => other?,
            };
            let mut rest = buffer.get(..n).unwrap_or_default();
            while let Some((kind, flags, seq, body, next)) = split(rest) {
                rest = next;
                if seq != self.seq {
                    continue;
                }
                whole &= flags & INTERRUPTED == 0;
                match i32::from(kind) {
                    libc::NLMSG_ERROR => {
                        let code = body.first_chunk::<4>().map_or(0, |c| i32::from_ne_bytes(*c));
                        return match code {
                            0 => Ok(whole),
                            e => Err(io::Error::from_raw_os_error(-e)),
                        };
                    }
                    libc::NLMSG_DONE => return Ok(whole),
                    libc::NLMSG_NOOP => {}
                    _ => take(kind, body),
                }
            }
        }
    }
}

/// Kind, flags, sequence and body of a message; what follows it.
type Part<'a> = (u16, u16, u32, &'a [u8], &'a [u8]);

/// The first message.
fn split(bytes: &[u8]) -> Option<Part<'_>> {
    let head = bytes.first_chunk::<HEAD>()?;
    let len = u32::from_ne_bytes([head[0], head[1], head[2], head[3]]) as usize;
    let body = bytes.get(HEAD..len)?;
    let kind = u16::from_ne_bytes([head[4], head[5]]);
    let flags = u16::from_ne_bytes([head[6], head[7]]);
    let seq = u32::from_ne_bytes([head[8], head[9], head[10], head[11]]);
    let next = bytes.get(len.div_ceil(4) * 4..).unwrap_or_default();
    Some((kind, flags, seq, body, next))
}
