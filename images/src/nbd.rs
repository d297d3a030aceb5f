//! The NBD protocol as far as a read-only disk needs it: parsing what a client sends, building what it gets.
//!
//! Source: NetworkBlockDevice/nbd, doc/proto.md: fixed newstyle handshake, structured replies, `base:allocation`. All
//! numbers are big-endian.

use crate::defaults::NBD_MAX_READ;

/// First bytes from the server: magic, magic, handshake flags FIXED_NEWSTYLE | NO_ZEROES.
pub const GREETING: [u8; 18] = *b"NBDMAGICIHAVEOPT\x00\x03";
/// Bytes of an option's head.
pub const OPTION_HEAD: usize = 16;
/// Bytes of a request's head.
pub const REQUEST_HEAD: usize = 28;
/// Longest option data that is read: names of at most 4 KiB and a few queries.
pub const MAX_OPTION: u32 = 16 << 10;
/// Most extents in one block status answer.
pub const MAX_EXTENTS: usize = 4_096;
/// The id that this server gives `base:allocation`.
pub const ALLOCATION: u32 = 1;

const OPTION_MAGIC: &[u8; 8] = b"IHAVEOPT";
const OPTION_REPLY_MAGIC: u64 = 0x0003_e889_0455_65a9;
const REQUEST_MAGIC: u32 = 0x2560_9513;
const SIMPLE_REPLY_MAGIC: u32 = 0x6744_6698;
const STRUCTURED_REPLY_MAGIC: u32 = 0x668e_33ef;
const CLIENT_FIXED: u32 = 1;
const CLIENT_NO_ZEROES: u32 = 2;

/// HAS_FLAGS, READ_ONLY, SEND_FLUSH, CAN_MULTI_CONN; with structured replies also SEND_DF.
const EXPORT_FLAGS: u16 = 1 | 2 | 4 | 256;
const SEND_DF: u16 = 128;
const CHUNK_DONE: u16 = 1;
const CHUNK_NONE: u16 = 0;
const CHUNK_DATA: u16 = 1;
const CHUNK_BLOCK_STATUS: u16 = 5;
const CHUNK_ERROR: u16 = 0x8001;
const STATE_HOLE_ZERO: u32 = 3;
const META_NAME: &str = "base:allocation";

/// Answers to options.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reply {
    /// Done.
    Ack = 1,
    /// One export of a list.
    Server = 2,
    /// One fact of an export.
    Info = 3,
    /// One meta context.
    MetaContext = 4,
}

/// Refusals of options.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum OptionError {
    /// Not known here.
    Unsupported = 0x8000_0001,
    /// Makes no sense.
    Invalid = 0x8000_0003,
    /// No such export.
    Unknown = 0x8000_0006,
    /// Longer than [`MAX_OPTION`].
    TooBig = 0x8000_0009,
}

/// Errors of requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Errno {
    /// The disk is read-only.
    Permission = 1,
    /// The bytes could not be had.
    Io = 5,
    /// The request makes no sense.
    Invalid = 22,
    /// Not known here.
    Unsupported = 95,
}

/// An option of the handshake.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Opt {
    /// Old way to begin: the export's name.
    ExportName(String),
    /// The client leaves.
    Abort,
    /// List the exports.
    List,
    /// Facts about an export.
    Info(String),
    /// The same, and begin.
    Go(String),
    /// Use structured replies from now on.
    StructuredReply,
    /// Which meta contexts there are: export, queries.
    ListMeta(String, Vec<String>),
    /// Use these meta contexts: export, queries.
    SetMeta(String, Vec<String>),
    /// Anything else.
    Other,
}

/// What the client said first; `None` if it is not a fixed newstyle client. The value: it wants no padding zeros.
pub fn client_flags(flags: u32) -> Option<bool> {
    (flags & CLIENT_FIXED != 0 && flags & !(CLIENT_FIXED | CLIENT_NO_ZEROES) == 0)
        .then_some(flags & CLIENT_NO_ZEROES != 0)
}

/// An option's head: its number and the length of its data. `None`: not an option.
pub fn option_head(head: &[u8; OPTION_HEAD]) -> Option<(u32, u32)> {
    let (magic, rest) = head.split_first_chunk::<8>()?;
    let (option, rest) = rest.split_first_chunk::<4>()?;
    let len = rest.first_chunk::<4>()?;
    (magic == OPTION_MAGIC).then_some((u32::from_be_bytes(*option), u32::from_be_bytes(*len)))
}

/// An option and its data.
pub fn option(number: u32, data: &[u8]) -> Result<Opt, OptionError> {
    let mut d = Take(data);
    let opt = match number {
        1 => return Ok(Opt::ExportName(text(data)?)),
        2 => return Ok(Opt::Abort),
        3 => Opt::List,
        6 | 7 => {
            let name = d.string()?;
            let infos = d.u16()?;
            d.bytes(usize::from(infos) * 2)?;
            if number == 6 { Opt::Info(name) } else { Opt::Go(name) }
        }
        8 => Opt::StructuredReply,
        9 | 10 => {
            let name = d.string()?;
            let n = d.u32()?;
            let mut queries = Vec::new();
            for _ in 0..n {
                queries.push(d.string()?);
            }
            if number == 9 {
                Opt::ListMeta(name, queries)
            } else {
                Opt::SetMeta(name, queries)
            }
        }
        _ => return Ok(Opt::Other),
    };
    if d.0.is_empty() {
        Ok(opt)
    } else {
        Err(OptionError::Invalid)
    }
}

fn text(bytes: &[u8]) -> Result<String, OptionError> {
    String::from_utf8(bytes.to_vec()).map_err(|_| OptionError::Invalid)
}

struct Take<'a>(&'a [u8]);

impl<'a> Take<'a> {
    fn bytes(&mut self, n: usize) -> Result<&'a [u8], OptionError> {
        let (head, tail) = self.0.split_at_checked(n).ok_or(OptionError::Invalid)?;
        self.0 = tail;
        Ok(head)
    }

    fn u16(&mut self) -> Result<u16, OptionError> {
        self.bytes(2)?
            .first_chunk()
            .map(|b| u16::from_be_bytes(*b))
            .ok_or(OptionError::Invalid)
    }

    fn u32(&mut self) -> Result<u32, OptionError> {
        self.bytes(4)?
            .first_chunk()
            .map(|b| u32::from_be_bytes(*b))
            .ok_or(OptionError::Invalid)
    }

    fn string(&mut self) -> Result<String, OptionError> {
        let n = self.u32()?;
        text(self.bytes(n as usize)?)
    }
}

/// Whether queries ask for `base:allocation`; an empty list in a `ListMeta` asks for all there is.
pub fn asks_allocation(queries: &[String]) -> bool {
    queries.iter().any(|q| q == META_NAME || q == "base:")
}

/// One answer to an option.
pub fn option_reply(option: u32, reply: Reply, data: &[u8]) -> Vec<u8> {
    reply_bytes(option, reply as u32, data)
}

/// A refusal of an option.
pub fn option_error(option: u32, why: OptionError) -> Vec<u8> {
    reply_bytes(option, why as u32, &[])
}

fn reply_bytes(option: u32, code: u32, data: &[u8]) -> Vec<u8> {
    let mut out = OPTION_REPLY_MAGIC.to_be_bytes().to_vec();
    out.extend_from_slice(&option.to_be_bytes());
    out.extend_from_slice(&code.to_be_bytes());
    out.extend_from_slice(&(data.len() as u32).to_be_bytes());
    out.extend_from_slice(data);
    out
}

/// Size and flags of the export, as after `ExportName`.
pub fn export(size: u64, structured: bool) -> [u8; 10] {
    let flags = EXPORT_FLAGS | if structured { SEND_DF } else { 0 };
    let mut out = [0; 10];
    out[..8].copy_from_slice(&size.to_be_bytes());
    out[8..].copy_from_slice(&flags.to_be_bytes());
    out
}

/// The two facts that `Info` and `Go` are answered by: export, and block sizes 1, 64 KiB, [`NBD_MAX_READ`].
pub fn infos(size: u64, structured: bool) -> [Vec<u8>; 2] {
    let export_info = [&[0, 0][..], &export(size, structured)].concat();
    let mut sizes = vec![0, 3];
    for n in [1, wire::image::PIECE_BYTES as u32, NBD_MAX_READ] {
        sizes.extend_from_slice(&n.to_be_bytes());
    }
    [export_info, sizes]
}

/// The data of a `List` answer: one nameless export.
pub const LIST_ENTRY: [u8; 4] = [0; 4];

/// The data of a `MetaContext` answer. `id` is [`ALLOCATION`] when it is set, zero when it is only listed.
pub fn meta_context(id: u32) -> Vec<u8> {
    [&id.to_be_bytes()[..], META_NAME.as_bytes()].concat()
}

/// What a client may ask.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Command {
    /// Bytes.
    Read,
    /// Nothing to do: the disk is read-only.
    Flush,
    /// The client leaves.
    Disconnect,
    /// Which ranges are zero; the value: one extent is enough.
    BlockStatus(bool),
    /// Fetch, do not send.
    Cache,
    /// Writes, trims and the like.
    Write,
    /// Not known here.
    Other,
}

/// One request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Request {
    /// What.
    pub command: Command,
    /// Given back with the answer.
    pub cookie: u64,
    /// From which byte.
    pub offset: u64,
    /// How many.
    pub len: u32,
}

/// Parses a request's head. `None`: not a request; the connection makes no sense any more.
pub fn request(head: &[u8; REQUEST_HEAD]) -> Option<Request> {
    let (magic, rest) = head.split_first_chunk::<4>()?;
    let (flags, rest) = rest.split_first_chunk::<2>()?;
    let (kind, rest) = rest.split_first_chunk::<2>()?;
    let (cookie, rest) = rest.split_first_chunk::<8>()?;
    let (offset, rest) = rest.split_first_chunk::<8>()?;
    let len = rest.first_chunk::<4>()?;
    if u32::from_be_bytes(*magic) != REQUEST_MAGIC {
        return None;
    }
    let one = u16::from_be_bytes(*flags) & 8 != 0;
    let command = match u16::from_be_bytes(*kind) {
        0 => Command::Read,
        2 => Command::Disconnect,
        3 => Command::Flush,
        5 => Command::Cache,
        7 => Command::BlockStatus(one),
        1 | 4 | 6 => Command::Write,
        _ => Command::Other,
    };
    let (cookie, offset) = (u64::from_be_bytes(*cookie), u64::from_be_bytes(*offset));
    Some(Request {
        command,
        cookie,
        offset,
        len: u32::from_be_bytes(*len),
    })
}

impl Request {
    /// Whether it may be carried out on a disk of `size`.
    pub fn check(&self, size: u64) -> Result<(), Errno> {
        let inside = self
            .offset
            .checked_add(u64::from(self.len))
            .is_some_and(|end| end <= size);
        match self.command {
            Command::Write => Err(Errno::Permission),
            Command::Other => Err(Errno::Unsupported),
            Command::Read | Command::Cache if self.len > NBD_MAX_READ || !inside => Err(Errno::Invalid),
            Command::BlockStatus(_) if self.len == 0 || !inside => Err(Errno::Invalid),
            _ => Ok(()),
        }
    }
}

fn simple(cookie: u64, error: u32) -> Vec<u8> {
    let mut out = SIMPLE_REPLY_MAGIC.to_be_bytes().to_vec();
    out.extend_from_slice(&error.to_be_bytes());
    out.extend_from_slice(&cookie.to_be_bytes());
    out
}

fn chunk(cookie: u64, kind: u16, len: usize) -> Vec<u8> {
    let mut out = STRUCTURED_REPLY_MAGIC.to_be_bytes().to_vec();
    out.extend_from_slice(&CHUNK_DONE.to_be_bytes());
    out.extend_from_slice(&kind.to_be_bytes());
    out.extend_from_slice(&cookie.to_be_bytes());
    out.extend_from_slice(&(len as u32).to_be_bytes());
    out
}

/// The head before the bytes of a read.
pub fn read_reply(r: &Request, structured: bool) -> Vec<u8> {
    if !structured {
        return simple(r.cookie, 0);
    }
    if r.len == 0 {
        return chunk(r.cookie, CHUNK_NONE, 0);
    }
    let mut out = chunk(r.cookie, CHUNK_DATA, 8 + r.len as usize);
    out.extend_from_slice(&r.offset.to_be_bytes());
    out
}

/// The answer to a request that has no data.
pub fn done_reply(r: &Request, structured: bool) -> Vec<u8> {
    if structured {
        chunk(r.cookie, CHUNK_NONE, 0)
    } else {
        simple(r.cookie, 0)
    }
}

/// The answer to a request that failed.
pub fn error_reply(r: &Request, error: Errno, structured: bool) -> Vec<u8> {
    if !structured {
        return simple(r.cookie, error as u32);
    }
    let mut out = chunk(r.cookie, CHUNK_ERROR, 6);
    out.extend_from_slice(&(error as u32).to_be_bytes());
    out.extend_from_slice(&0u16.to_be_bytes());
    out
}

/// The answer to a block status request: lengths, and whether they are zero.
pub fn status_reply(r: &Request, runs: &[(u64, bool)]) -> Vec<u8> {
    let mut out = chunk(r.cookie, CHUNK_BLOCK_STATUS, 4 + 8 * runs.len());
    out.extend_from_slice(&ALLOCATION.to_be_bytes());
    for (len, zero) in runs {
        out.extend_from_slice(&u32::try_from(*len).unwrap_or(u32::MAX).to_be_bytes());
        out.extend_from_slice(&(if *zero { STATE_HOLE_ZERO } else { 0 }).to_be_bytes());
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn head(command: u16, offset: u64, len: u32) -> Request {
        let mut h = REQUEST_MAGIC.to_be_bytes().to_vec();
        h.extend_from_slice(&[0, 0]);
        h.extend_from_slice(&command.to_be_bytes());
        h.extend_from_slice(&7u64.to_be_bytes());
        h.extend_from_slice(&offset.to_be_bytes());
        h.extend_from_slice(&len.to_be_bytes());
        request(&h.try_into().unwrap()).unwrap()
    }

    #[test]
    fn requests_outside_the_disk_and_writes_are_refused() {
        assert_eq!(head(0, 0, 4_096).check(4_096), Ok(()));
        assert_eq!(head(0, 1, 4_096).check(4_096), Err(Errno::Invalid));
        assert_eq!(head(0, u64::MAX, 2).check(4_096), Err(Errno::Invalid));
        assert_eq!(head(0, 0, NBD_MAX_READ + 1).check(1 << 40), Err(Errno::Invalid));
        assert_eq!(head(7, 0, 0).check(4_096), Err(Errno::Invalid));
        for write in [1, 4, 6] {
            assert_eq!(head(write, 0, 1).check(4_096), Err(Errno::Permission));
        }
        assert_eq!(head(99, 0, 1).check(4_096), Err(Errno::Unsupported));
        assert_eq!(request(&[0; REQUEST_HEAD]), None);
    }

    #[test]
    fn options_are_read_whole_or_refused() {
        let go = [&[0, 0, 0, 1, b'x', 0, 1, 0, 3][..]].concat();
        assert_eq!(option(7, &go), Ok(Opt::Go("x".into())));
        assert_eq!(option(7, &go[..8]), Err(OptionError::Invalid));
        assert_eq!(option(7, &[&go[..], &[0]].concat()), Err(OptionError::Invalid));
        assert_eq!(option(7, &[0xff; 9]), Err(OptionError::Invalid));
        assert_eq!(
            option(10, &[0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff]),
            Err(OptionError::Invalid)
        );
        assert_eq!(option(5, &[]), Ok(Opt::Other));
        assert_eq!(client_flags(3), Some(true));
        assert_eq!((client_flags(0), client_flags(7)), (None, None));
    }

    proptest! {
        #[test]
        fn noise_never_panics(n in 0u32..12, data in proptest::collection::vec(any::<u8>(), 0..64)) {
            let _ = option(n, &data);
            if let Some(h) = data.first_chunk::<REQUEST_HEAD>() {
                let _ = request(h).map(|r| r.check(1 << 20));
            }
            if let Some(h) = data.first_chunk::<OPTION_HEAD>() {
                let _ = option_head(h);
            }
        }
    }
}
