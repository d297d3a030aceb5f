//! A qcow2 header as an enemy may write it, checked before any other program sees the file.
//!
//! A qcow2 can name other files (a backing file, an external data file) that whoever opens it then reads; that is how
//! an image steals `/etc/shadow`. Only a self-contained, unencrypted image of sane size passes. Which format a file has
//! is decided by its first bytes alone: a raw disk that begins with `QFI\xfb` is a qcow2 here, and is refused unless the
//! rest of the header is one. Source: QEMU, docs/interop/qcow2.txt.

const MAGIC: [u8; 4] = *b"QFI\xfb";
/// Bytes of the file that [`check`] wants to see: the largest cluster that a header with extensions can fill in practice.
pub const HEAD_BYTES: usize = 64 << 10;

const DATA_FILE: u64 = 1 << 2;
const CORRUPT: u64 = 1 << 1;
/// Dirty, compression type, extended L2: what QEMU 7 knows and reads without another file.
const KNOWN: u64 = 0b11011;
/// QEMU's own limits: 32 MiB of L1 table, 8 MiB of refcount table.
const MAX_L1_BYTES: u64 = 32 << 20;
const MAX_REFCOUNT_BYTES: u64 = 8 << 20;
const MAX_SNAPSHOTS: u32 = 65_536;
const EXT_END: u32 = 0;
const EXT_DATA_FILE: u32 = 0x4441_5441;
const EXT_ENCRYPTION: u32 = 0x0537_be77;

/// What a file is, by its first bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// No known magic: the bytes are the disk.
    Raw,
    /// To be checked by [`check`].
    Qcow2,
    /// A format or a compression that is not imported; its name.
    Other(&'static str),
}

/// Why a qcow2 is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Qcow2Error {
    /// It would read other files.
    #[error(
        "the qcow2 image refers to another file ({0}); make it self-contained with 'qemu-img convert -O qcow2' where you trust it"
    )]
    OtherFile(&'static str),
    /// It is encrypted.
    #[error("the qcow2 image is encrypted; decrypt it first with 'qemu-img convert'")]
    Encrypted,
    /// It needs a feature that is not known.
    #[error("the qcow2 image needs features (bits {0:#x}) that are not known here")]
    Features(u64),
    /// Its disk is too large.
    #[error("the qcow2 image holds a disk of {size} bytes, at most {max} are taken")]
    TooLarge {
        /// Bytes of the disk.
        size: u64,
        /// The bound.
        max: u64,
    },
    /// The header makes no sense.
    #[error("the qcow2 image is malformed: {0}")]
    Malformed(&'static str),
}

/// Decides the format by magic only.
pub fn sniff(head: &[u8]) -> Format {
    let at = |i: usize, magic: &[u8]| head.get(i..).is_some_and(|h| h.starts_with(magic));
    let other = [
        (0, &b"KDMV"[..], "VMDK"),
        (0, b"# Disk DescriptorFile", "VMDK"),
        (0, b"COWD", "VMDK"),
        (0, b"vhdxfile", "VHDX"),
        (0, b"conectix", "VHD"),
        (0, b"QED\0", "QED"),
        (0x40, b"\x7f\x10\xda\xbe", "VDI"),
        (0, b"\x1f\x8b", "gzip"),
        (0, b"\xfd7zXZ\0", "xz"),
        (0, b"\x28\xb5\x2f\xfd", "zstd"),
        (0, b"BZh", "bzip2"),
        (0, b"PK\x03\x04", "zip"),
        (0x101, b"ustar", "tar"),
    ];
    match other.iter().find(|(i, magic, _)| at(*i, magic)) {
        Some((_, _, name)) => Format::Other(name),
        None if at(0, &MAGIC) => Format::Qcow2,
        None => Format::Raw,
    }
}

struct Head<'a>(&'a [u8]);

impl Head<'_> {
    fn u32(&self, at: usize) -> Result<u32, Qcow2Error> {
        let b = self
            .0
            .get(at..)
            .and_then(|b| b.first_chunk())
            .ok_or(Qcow2Error::Malformed("the header is cut short"))?;
        Ok(u32::from_be_bytes(*b))
    }

    fn u64(&self, at: usize) -> Result<u64, Qcow2Error> {
        Ok((u64::from(self.u32(at)?) << 32) | u64::from(self.u32(at + 4)?))
    }
}

/// Checks a header. `head`: the first [`HEAD_BYTES`] of the file or all of it; `file_len`: its length; `max`: largest disk
/// that is taken, bytes. Returns the size of the disk, bytes.
pub fn check(head: &[u8], file_len: u64, max: u64) -> Result<u64, Qcow2Error> {
    let bad = Qcow2Error::Malformed;
    let h = Head(head);
    if !head.starts_with(&MAGIC) {
        return Err(bad("no qcow2 magic"));
    }
    let version = h.u32(4)?;
    if version != 2 && version != 3 {
        return Err(bad("its version is not 2 or 3"));
    }
    if h.u64(8)? != 0 || h.u32(16)? != 0 {
        return Err(Qcow2Error::OtherFile("a backing file"));
    }
    if h.u32(32)? != 0 {
        return Err(Qcow2Error::Encrypted);
    }
    let (features, refcount_order, header_len) = match version {
        3 => (h.u64(72)?, h.u32(96)?, h.u32(100)?),
        _ => (0, 4, 72),
    };
    if features & DATA_FILE != 0 {
        return Err(Qcow2Error::OtherFile("an external data file"));
    }
    if features & CORRUPT != 0 {
        return Err(bad("it is marked as corrupt; repair it with 'qemu-img check -r all'"));
    }
    if features & !KNOWN != 0 {
        return Err(Qcow2Error::Features(features & !KNOWN));
    }
    if refcount_order > 6 {
        return Err(bad("its refcounts are wider than 64 bits"));
    }
    let cluster_bits = h.u32(20)?;
    if !(9..=21).contains(&cluster_bits) {
        return Err(bad("its clusters are not of 512 bytes to 2 MiB"));
    }
    let size = h.u64(24)?;
    if size == 0 {
        return Err(bad("its disk is empty"));
    }
    if size > max {
        return Err(Qcow2Error::TooLarge { size, max });
    }
    check_tables(&h, size, cluster_bits, file_len)?;
    check_extensions(&h, header_len, 1 << cluster_bits)?;
    Ok(size)
}

fn check_tables(h: &Head<'_>, size: u64, cluster_bits: u32, file_len: u64) -> Result<(), Qcow2Error> {
    let bad = Qcow2Error::Malformed;
    let cluster = 1u64 << cluster_bits;
    let inside = |offset: u64, len: u64| {
        offset.is_multiple_of(cluster) && offset.checked_add(len).is_some_and(|e| e <= file_len)
    };
    let l1_bytes = u64::from(h.u32(36)?) * 8;
    // With extended L2 entries a table maps half as much, so this is the least that any kind needs.
    if l1_bytes > MAX_L1_BYTES || l1_bytes / 8 < size.div_ceil(cluster * (cluster / 8)) {
        return Err(bad("its L1 table does not fit its disk"));
    }
    if !inside(h.u64(40)?, l1_bytes) {
        return Err(bad("its L1 table is not inside the file"));
    }
    let refcount_bytes = u64::from(h.u32(56)?) << cluster_bits;
    if refcount_bytes > MAX_REFCOUNT_BYTES.max(cluster) || !inside(h.u64(48)?, refcount_bytes) {
        return Err(bad("its refcount table is too large or not inside the file"));
    }
    let snapshots = h.u32(60)?;
    if snapshots > MAX_SNAPSHOTS || (snapshots > 0 && !inside(h.u64(64)?, 40 * u64::from(snapshots))) {
        return Err(bad("its snapshot table is too large or not inside the file"));
    }
    Ok(())
}

fn check_extensions(h: &Head<'_>, header_len: u32, cluster: u64) -> Result<(), Qcow2Error> {
    let bad = Qcow2Error::Malformed;
    if header_len < 72 || !header_len.is_multiple_of(8) || u64::from(header_len) > cluster {
        return Err(bad("its header has an impossible length"));
    }
    let mut at = u64::from(header_len);
    // Each extension takes 8 bytes at least, so this ends with the cluster or with the bytes we were given.
    while at + 8 <= cluster.min(h.0.len() as u64) {
        let pos = usize::try_from(at).unwrap_or(usize::MAX);
        let (kind, len) = (h.u32(pos)?, h.u32(pos + 4)?);
        match kind {
            EXT_END => return Ok(()),
            EXT_DATA_FILE => return Err(Qcow2Error::OtherFile("an external data file")),
            EXT_ENCRYPTION => return Err(Qcow2Error::Encrypted),
            _ => at += 8 + u64::from(len).next_multiple_of(8),
        }
        if at > cluster {
            return Err(bad("a header extension reaches over the first cluster"));
        }
    }
    if at >= HEAD_BYTES as u64 && cluster > HEAD_BYTES as u64 {
        return Err(bad("it has over 64 KiB of header extensions"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const MAX: u64 = 1 << 40;
    const FILE: u64 = 1 << 20;

    fn good() -> Vec<u8> {
        let mut h = vec![0; 65_536];
        h[..4].copy_from_slice(&MAGIC);
        let mut put32 = |at: usize, v: u32| h[at..at + 4].copy_from_slice(&v.to_be_bytes());
        put32(4, 3);
        put32(20, 16);
        put32(28, 10 << 20); // size, low half
        put32(36, 1); // L1 entries
        put32(44, 3 << 16); // L1 offset, low half
        put32(52, 1 << 16); // refcount table
        put32(56, 1);
        put32(96, 4);
        put32(100, 104);
        h
    }

    fn with(at: usize, bytes: &[u8]) -> Result<u64, Qcow2Error> {
        let mut h = good();
        h[at..at + bytes.len()].copy_from_slice(bytes);
        check(&h, FILE, MAX)
    }

    #[test]
    fn hostile_headers() {
        assert_eq!(check(&good(), FILE, MAX), Ok(10 << 20));
        assert!(matches!(with(15, &[1]), Err(Qcow2Error::OtherFile("a backing file"))));
        assert!(matches!(with(19, &[1]), Err(Qcow2Error::OtherFile("a backing file"))));
        assert!(matches!(with(79, &[DATA_FILE as u8]), Err(Qcow2Error::OtherFile(_))));
        assert!(matches!(
            with(104, &EXT_DATA_FILE.to_be_bytes()),
            Err(Qcow2Error::OtherFile(_))
        ));
        assert_eq!(with(35, &[2]), Err(Qcow2Error::Encrypted));
        assert_eq!(with(104, &EXT_ENCRYPTION.to_be_bytes()), Err(Qcow2Error::Encrypted));
        assert_eq!(with(79, &[0x20]), Err(Qcow2Error::Features(0x20)));
        assert_eq!(with(72, &[0x80]), Err(Qcow2Error::Features(1 << 63)));
        assert!(matches!(with(24, &[0x40]), Err(Qcow2Error::TooLarge { .. })));
        for (at, bytes, why) in [
            (4, &[0, 0, 0, 9][..], "version"),
            (20, &[0, 0, 0, 40], "cluster bits"),
            (20, &[0, 0, 0, 3], "cluster bits"),
            (24, &[0; 8], "no disk"),
            (36, &[0, 0, 0, 0], "no L1"),
            (36, &[0xff; 4], "huge L1"),
            (40, &[0xff; 8], "L1 beyond the file"),
            (40, &[0, 0, 0, 0, 0, 0, 0, 7], "L1 not aligned"),
            (48, &[0xff; 8], "refcounts beyond the file"),
            (56, &[0xff; 4], "huge refcounts"),
            (60, &[0xff; 4], "snapshots"),
            (79, &[2], "corrupt"),
            (96, &[0, 0, 0, 7], "refcount order"),
            (100, &[0, 0, 0, 5], "header length"),
            (100, &[0xff, 0xff, 0xff, 0xf8], "header length"),
            (104, &[1, 2, 3, 4, 0xff, 0xff, 0xff, 0xff], "extension length"),
        ] {
            assert!(matches!(with(at, bytes), Err(Qcow2Error::Malformed(_))), "{why}");
        }
        assert!(check(&good()[..50], FILE, MAX).is_err());
    }

    #[test]
    fn formats_by_magic() {
        assert_eq!(sniff(&good()), Format::Qcow2);
        assert_eq!(sniff(&[0; 1_024]), Format::Raw);
        assert_eq!(sniff(b"KDMV...."), Format::Other("VMDK"));
        assert_eq!(sniff(b"QFI\xfbnonsense"), Format::Qcow2);
        assert!(check(b"QFI\xfbnonsense", 12, MAX).is_err());
    }

    proptest! {
        #[test]
        fn noise_never_panics(b in proptest::collection::vec(any::<u8>(), 0..200), at in 0usize..110, v in any::<u64>()) {
            let _ = check(&b, b.len() as u64, MAX);
            let _ = with(at, &v.to_be_bytes());
        }
    }
}
