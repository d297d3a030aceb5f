//! One layer: unpacked, hashed, and its entries read with bounds on everything that has to be in memory.

use super::super::import::ImportError;
use super::Section;
use crate::defaults::{OCI_HEADER_BYTES, OCI_WINDOW_LOG};
use crate::oci::{Added, Digest, Kind, Meta, OciError, Packing, shown};
use sha2::{Digest as _, Sha256};
use std::{
    cell::Cell,
    io::{self, BufReader, Read},
    rc::Rc,
};

/// Hashes and counts what is read, and stops beyond a bound.
pub(super) struct Hashed<R> {
    inner: R,
    sha: Sha256,
    pub(super) count: Rc<Cell<u64>>,
    max: u64,
}

impl<R: Read> Hashed<R> {
    pub(super) fn new(inner: R, max: u64) -> Self {
        let sha = Sha256::new();
        Self {
            inner,
            sha,
            count: Rc::default(),
            max,
        }
    }

    /// Reads what is left; whether all of it has this hash.
    pub(super) fn is(mut self, digest: &Digest) -> io::Result<bool> {
        io::copy(&mut self, &mut io::sink())?;
        Ok(self.sha.finalize()[..] == digest.0)
    }
}

impl<R: Read> Read for Hashed<R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let n = self.inner.read(buf)?;
        self.sha.update(&buf[..n]);
        self.count.set(self.count.get() + n as u64);
        match self.count.get() > self.max {
            true => Err(io::ErrorKind::FileTooLarge.into()),
            false => Ok(n),
        }
    }
}

type Packed<'a> = BufReader<&'a mut Hashed<Section>>;

pub(super) enum Unpacked<'a> {
    Plain(Packed<'a>),
    Gzip(Box<flate2::bufread::MultiGzDecoder<Packed<'a>>>),
    Zstd(zstd::stream::read::Decoder<'static, Packed<'a>>),
}

impl<'a> Unpacked<'a> {
    pub(super) fn new(packing: Packing, packed: &'a mut Hashed<Section>) -> io::Result<Self> {
        let packed = BufReader::with_capacity(64 << 10, packed);
        Ok(match packing {
            Packing::Plain => Self::Plain(packed),
            Packing::Gzip => Self::Gzip(Box::new(flate2::bufread::MultiGzDecoder::new(packed))),
            Packing::Zstd => {
                let mut decoder = zstd::stream::read::Decoder::with_buffer(packed)?;
                decoder.window_log_max(OCI_WINDOW_LOG)?;
                Self::Zstd(decoder)
            }
        })
    }
}

impl Read for Unpacked<'_> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Plain(r) => r.read(buf),
            Self::Gzip(r) => r.read(buf),
            Self::Zstd(r) => r.read(buf),
        }
    }
}

/// One entry of a layer.
pub(super) struct Entry {
    pub(super) place: Added,
    pub(super) path: Vec<u8>,
    pub(super) kind: Kind,
    pub(super) meta: Meta,
}

pub(super) type Each<'a> = dyn FnMut(Entry, &mut dyn Read) -> Result<(), ImportError> + 'a;

/// Why an entry was not understood.
pub(super) enum EntryError {
    Io(io::Error),
    Bad(OciError),
}

impl EntryError {
    pub(super) fn of(self, io: &impl Fn(io::Error) -> OciError) -> OciError {
        match self {
            Self::Io(e) => io(e),
            Self::Bad(e) => e,
        }
    }
}

/// What extended headers said of the next entry.
#[derive(Default)]
struct Extended {
    path: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
    uid: Option<u64>,
    gid: Option<u64>,
    mtime: Option<u64>,
    size: Option<u64>,
    sparse: bool,
    xattrs: Vec<(Vec<u8>, Vec<u8>)>,
}

pub(super) struct Reader {
    layer: usize,
    next: u64,
    extended: Extended,
}

/// One `LENGTH KEY=VALUE\n` of an extended header (POSIX.1-2008, pax, `typeflag x`). The value may be any bytes.
fn record<'b>(rest: &mut &'b [u8]) -> Option<(&'b [u8], &'b [u8])> {
    let digits = rest.iter().take(8).position(|b| *b == b' ')?;
    let length: usize = std::str::from_utf8(&rest[..digits]).ok()?.parse().ok()?;
    let whole = rest.get(..length)?;
    let text = whole.get(digits + 1..)?.strip_suffix(b"\n")?;
    *rest = &rest[length..];
    let cut = text.iter().position(|b| *b == b'=')?;
    Some((&text[..cut], &text[cut + 1..]))
}

impl Reader {
    pub(super) fn new(layer: usize) -> Self {
        Self {
            layer,
            next: 0,
            extended: Extended::default(),
        }
    }

    fn bad(&self, path: &[u8], why: &'static str) -> EntryError {
        EntryError::Bad(OciError::Entry {
            layer: self.layer + 1,
            path: shown(path),
            why,
        })
    }

    /// The next entry, or none if this is a header of the next one.
    pub(super) fn entry<R: Read>(&mut self, entry: &mut tar::Entry<'_, R>) -> Result<Option<Entry>, EntryError> {
        let t = entry.header().entry_type();
        let is_header =
            t.is_gnu_longname() || t.is_gnu_longlink() || t.is_pax_local_extensions() || t.is_pax_global_extensions();
        if is_header {
            if entry.size() > OCI_HEADER_BYTES {
                return Err(self.bad(b"", "its extended header is too long"));
            }
            let mut bytes = Vec::new();
            entry
                .take(OCI_HEADER_BYTES)
                .read_to_end(&mut bytes)
                .map_err(EntryError::Io)?;
            let text = |b: &[u8]| b.split(|b| *b == 0).next().unwrap_or_default().to_vec();
            match t {
                tar::EntryType::GNULongName => self.extended.path = Some(text(&bytes)),
                tar::EntryType::GNULongLink => self.extended.link = Some(text(&bytes)),
                tar::EntryType::XHeader => self.pax(&bytes)?,
                _ => {} // of the whole archive: comments
            }
            return Ok(None);
        }
        let x = std::mem::take(&mut self.extended);
        let place = (self.layer, self.next);
        self.next += 1;
        let h = entry.header();
        let path = x.path.unwrap_or_else(|| h.path_bytes().into_owned());
        let size = entry.size();
        if x.size.is_some_and(|s| s != size) {
            return Err(self.bad(&path, "its size is told in a form that is not taken (over 8 GiB)"));
        }
        let link = || {
            let here = h.link_name_bytes().map(|l| l.into_owned());
            x.link.clone().or(here).unwrap_or_default()
        };
        let kind = match t {
            _ if x.sparse || t.is_gnu_sparse() => {
                Kind::Other("sparse files are not taken in tar's own form; make the layer without --sparse")
            }
            tar::EntryType::Regular if path.ends_with(b"/") => Kind::Folder,
            tar::EntryType::Regular | tar::EntryType::Continuous => Kind::File(size),
            tar::EntryType::Directory => Kind::Folder,
            tar::EntryType::Symlink => Kind::Link(link()),
            tar::EntryType::Link => Kind::Hard(link()),
            tar::EntryType::Fifo => Kind::Pipe,
            tar::EntryType::Char | tar::EntryType::Block => {
                Kind::Other("device nodes are not taken; leave it out, a guest's kernel makes its own in /dev")
            }
            _ => Kind::Other("it is of a kind that no layer may have"),
        };
        let number = |n: io::Result<u64>, x: Option<u64>| {
            let n = x.map_or(n, Ok).map_err(EntryError::Io)?;
            u32::try_from(n).map_err(|_| self.bad(&path, "its owner is no number of 32 bits"))
        };
        let mtime = x.mtime.or(h.mtime().ok()).unwrap_or_default();
        let meta = Meta {
            mode: h.mode().map_err(EntryError::Io)? & 0o7777,
            uid: number(h.uid(), x.uid)?,
            gid: number(h.gid(), x.gid)?,
            mtime: u32::try_from(mtime).unwrap_or(u32::MAX).min(i32::MAX as u32),
            xattrs: x.xattrs,
        };
        Ok(Some(Entry {
            place,
            path,
            kind,
            meta,
        }))
    }

    fn pax(&mut self, bytes: &[u8]) -> Result<(), EntryError> {
        let mut rest = bytes;
        while !rest.is_empty() {
            let bad = || self.bad(b"", "its extended header is malformed");
            let (key, value) = record(&mut rest).ok_or_else(bad)?;
            let number = || {
                let whole = value.split(|b| *b == b'.').next().unwrap_or_default();
                std::str::from_utf8(whole).ok().and_then(|t| t.parse::<u64>().ok())
            };
            let x = &mut self.extended;
            match key {
                b"path" => x.path = Some(value.to_vec()),
                b"linkpath" => x.link = Some(value.to_vec()),
                b"uid" => x.uid = Some(number().unwrap_or(u64::MAX)),
                b"gid" => x.gid = Some(number().unwrap_or(u64::MAX)),
                b"mtime" => x.mtime = Some(number().unwrap_or_default()),
                b"size" => x.size = Some(number().unwrap_or(u64::MAX)),
                _ if key.starts_with(b"GNU.sparse.") => x.sparse = true,
                // Others are of the machine that made the layer: labels, ACLs, what overlayfs notes.
                _ => {
                    if let Some(name) = key.strip_prefix(b"SCHILY.xattr.")
                        && (name == b"security.capability" || name.starts_with(b"user."))
                        && name.iter().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(b))
                    {
                        x.xattrs.push((name.to_vec(), value.to_vec()));
                    }
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn records_hold_any_bytes() {
        let mut rest = &b"12 a=b\n=\nc\n\n6 x=y\n5 k=\n"[..];
        assert_eq!(record(&mut rest), Some((&b"a"[..], &b"b\n=\nc\n"[..])));
        assert_eq!(record(&mut rest), Some((&b"x"[..], &b"y"[..])));
        assert_eq!(record(&mut rest), Some((&b"k"[..], &b""[..])));
        assert!(rest.is_empty());
        for mut bad in [
            "",
            "x",
            " a=b\n",
            "0 a=b\n",
            "7 a=b\n",
            "5 a=b\n",
            "6 a b\n",
            "-6 a=b\n",
            "99999999999 a=b\n",
        ]
        .map(str::as_bytes)
        {
            assert_eq!(record(&mut bad), None);
        }
    }

    #[test]
    fn what_is_read_is_bounded() {
        let mut h = Hashed::new(&[7; 100][..], 99);
        let e = io::copy(&mut h, &mut io::sink()).unwrap_err();
        assert_eq!(e.kind(), io::ErrorKind::FileTooLarge);
        assert!(
            Hashed::new(&[7; 100][..], 100)
                .is(&Digest(Sha256::digest([7; 100]).into()))
                .unwrap()
        );
    }

    proptest! {
        #[test]
        fn any_records_are_read_or_refused(bytes in proptest::collection::vec(prop_oneof![Just(b' '), Just(b'='), Just(b'\n'), b'0'..=b'9', any::<u8>()], 0..60)) {
            let mut rest = &bytes[..];
            while !rest.is_empty() {
                let before = rest.len();
                if record(&mut rest).is_none() { break }
                prop_assert!(rest.len() < before);
            }
        }
    }
}
