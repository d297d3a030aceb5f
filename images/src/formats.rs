//! Headers of VMDK and VHDX as an enemy may write them, checked before any other program sees the file.
//!
//! Both can name other files (a parent, extents) that whoever opens them then reads. Only one self-contained file of sane
//! size passes. Sources: VMware, Virtual Disk Format 5.0; Microsoft, [MS-VHDX] §2.

use std::io;

/// Bytes from the front of the file that the VMDK check wants to see.
pub const HEAD_BYTES: usize = 64 << 10;

/// Why a file is refused.
#[derive(Debug, thiserror::Error)]
pub enum FormatError {
    /// It would read other files.
    #[error(
        "the {0} image refers to another file ({1}); make it self-contained with 'qemu-img convert' where you trust it"
    )]
    OtherFile(&'static str, &'static str),
    /// Its disk is too large.
    #[error("the {format} image holds a disk of {size} bytes, at most {max} are taken")]
    TooLarge {
        /// VMDK or VHDX.
        format: &'static str,
        /// Bytes of the disk.
        size: u64,
        /// The bound.
        max: u64,
    },
    /// The header makes no sense.
    #[error("the {0} image is malformed: {1}")]
    Malformed(&'static str, &'static str),
    /// The file cannot be read.
    #[error("cannot read the image: {0}")]
    Io(#[from] io::Error),
}

/// Reads bytes of the file.
pub type Read<'a> = &'a dyn Fn(&mut [u8], u64) -> io::Result<()>;

struct Le<'a>(&'a [u8]);

impl Le<'_> {
    fn u32(&self, at: usize) -> u32 {
        let b = self.0.get(at..).and_then(|b| b.first_chunk());
        b.map_or(0, |b| u32::from_le_bytes(*b))
    }

    fn u64(&self, at: usize) -> u64 {
        u64::from(self.u32(at)) | u64::from(self.u32(at + 4)) << 32
    }
}

fn sane(format: &'static str, size: u64, max: u64) -> Result<u64, FormatError> {
    match size {
        0 => Err(FormatError::Malformed(format, "its disk is empty")),
        n if n > max => Err(FormatError::TooLarge { format, size, max }),
        n => Ok(n),
    }
}

const SECTOR: u64 = 512;

/// Checks a VMDK. Returns the size of the disk, bytes.
pub fn check_vmdk(read: Read<'_>, file_len: u64, max: u64) -> Result<u64, FormatError> {
    let bad = |why| FormatError::Malformed("VMDK", why);
    let mut head = vec![0; HEAD_BYTES.min(usize::try_from(file_len).unwrap_or(HEAD_BYTES))];
    read(&mut head, 0)?;
    let size = vmdk_header(&head, &head, max)?;
    // A stream-optimised file has a second header near its end, which then counts.
    if Le(&head).u64(56) == u64::MAX {
        let mut footer = [0; SECTOR as usize];
        let at = file_len.checked_sub(2 * SECTOR).ok_or(bad("it is cut short"))?;
        read(&mut footer, at)?;
        let other = vmdk_header(&footer, &head, max)?;
        if other != size {
            return Err(bad("its two headers differ"));
        }
    }
    Ok(size)
}

fn vmdk_header(header: &[u8], head: &[u8], max: u64) -> Result<u64, FormatError> {
    let bad = |why| FormatError::Malformed("VMDK", why);
    let h = Le(header);
    if !header.starts_with(b"KDMV") {
        return Err(bad(
            "it is only a description of other files, or not of the sparse kind",
        ));
    }
    if header.len() < SECTOR as usize {
        return Err(bad("it is cut short"));
    }
    if !(1..=3).contains(&h.u32(4)) {
        return Err(bad("its version is not 1 to 3"));
    }
    let capacity = h.u64(12);
    if capacity == 0 {
        // QEMU would then take the extents from the description.
        return Err(FormatError::OtherFile("VMDK", "extents named by its description"));
    }
    let size = sane(
        "VMDK",
        capacity.checked_mul(SECTOR).ok_or(bad("its size overflows"))?,
        max,
    )?;
    let grain = h.u64(20);
    if !grain.is_power_of_two() || !(1..=1 << 14).contains(&grain) || h.u32(44) > 512 {
        return Err(bad("its grains are of an impossible size"));
    }
    let (at, len) = (h.u64(28), h.u64(36));
    let end = at.checked_add(len).and_then(|e| e.checked_mul(SECTOR));
    let text = match end.and_then(|e| usize::try_from(e).ok()) {
        // QEMU reads 20 sectors, whatever the header says.
        Some(end) if at > 0 => {
            let start = usize::try_from(at * SECTOR).unwrap_or(usize::MAX);
            let text = head.get(start..end.max(start + 20 * SECTOR as usize).min(head.len()));
            text.filter(|_| end <= head.len())
                .ok_or(bad("its description is not at its front"))?
        }
        Some(_) => return Ok(size),
        None => return Err(bad("its description is not at its front")),
    };
    vmdk_description(text)?;
    Ok(size)
}

fn vmdk_description(text: &[u8]) -> Result<(), FormatError> {
    let has = |word: &[u8]| text.windows(word.len()).any(|w| w.eq_ignore_ascii_case(word));
    if has(b"parentFileNameHint") {
        return Err(FormatError::OtherFile("VMDK", "a parent"));
    }
    let text = String::from_utf8_lossy(text);
    let text = text.split('\0').next().unwrap_or_default();
    let extents: Vec<&str> = text
        .lines()
        .map(str::trim_start)
        .filter(|l| ["RW ", "RDONLY ", "NOACCESS "].iter().any(|w| l.starts_with(w)))
        .collect();
    match extents[..] {
        [] => Ok(()),
        [one] if one.split_whitespace().nth(2) == Some("SPARSE") => Ok(()),
        _ => Err(FormatError::OtherFile("VMDK", "several extents, or flat ones")),
    }
}

const VHDX_METADATA: [u8; 16] = [
    0x06, 0xa2, 0x7c, 0x8b, 0x90, 0x47, 0x9a, 0x4b, 0xb8, 0xfe, 0x57, 0x5f, 0x05, 0x0f, 0x88, 0x6e,
];
const VHDX_SIZE: [u8; 16] = [
    0x24, 0x42, 0xa5, 0x2f, 0x1b, 0xcd, 0x76, 0x48, 0xb2, 0x11, 0x5d, 0xbe, 0xd8, 0x3b, 0xf4, 0xb8,
];
const VHDX_FILE: [u8; 16] = [
    0x37, 0x67, 0xa1, 0xca, 0x36, 0xfa, 0x43, 0x4d, 0xb3, 0xb6, 0x33, 0xf0, 0xaa, 0x44, 0xe7, 0x6b,
];
/// Two copies of the region table, [MS-VHDX] §2.2.3.
const VHDX_REGIONS: [u64; 2] = [192 << 10, 256 << 10];
const HAS_PARENT: u32 = 2;

/// Checks a VHDX. Returns the size of the disk, bytes.
pub fn check_vhdx(read: Read<'_>, file_len: u64, max: u64) -> Result<u64, FormatError> {
    let bad = |why| FormatError::Malformed("VHDX", why);
    let mut sizes = Vec::new();
    for at in VHDX_REGIONS {
        let mut table = vec![0; 64 << 10];
        if file_len < at + table.len() as u64 {
            return Err(bad("it is cut short"));
        }
        read(&mut table, at)?;
        // Either copy may be the one that a reader takes.
        if table.starts_with(b"regi") {
            sizes.push(vhdx_regions(read, &table, file_len, max)?);
        }
    }
    match sizes[..] {
        [a] => Ok(a),
        [a, b] if a == b => Ok(a),
        [] => Err(bad("it has no region table")),
        _ => Err(bad("its region tables differ")),
    }
}

fn vhdx_regions(read: Read<'_>, table: &[u8], file_len: u64, max: u64) -> Result<u64, FormatError> {
    let bad = |why| FormatError::Malformed("VHDX", why);
    let count = Le(table).u32(8) as usize;
    if count > 2_047 {
        return Err(bad("its region table is too long"));
    }
    let entries = table.get(16..).unwrap_or_default().chunks_exact(32).take(count);
    let mut found = entries.filter(|e| e.starts_with(&VHDX_METADATA));
    let (Some(entry), None) = (found.next(), found.next()) else {
        return Err(bad("it has not exactly one metadata region"));
    };
    let (at, len) = (Le(entry).u64(16), u64::from(Le(entry).u32(24)));
    if len < 64 << 10 || at.checked_add(len).is_none_or(|e| e > file_len) {
        return Err(bad("its metadata are not inside the file"));
    }
    let mut meta = vec![0; 64 << 10];
    read(&mut meta, at)?;
    let count = usize::from(u16::from_le_bytes([meta[10], meta[11]]));
    if !meta.starts_with(b"metadata") || count > 2_047 {
        return Err(bad("it has no metadata table"));
    }
    let item = |guid: &[u8; 16], size: usize| -> Result<Vec<u8>, FormatError> {
        let entries = meta.get(32..).unwrap_or_default().chunks_exact(32).take(count);
        let mut found = entries.filter(|e| e.starts_with(guid));
        let (Some(e), None) = (found.next(), found.next()) else {
            return Err(bad("an item of its metadata is missing or comes twice"));
        };
        let (offset, n) = (u64::from(Le(e).u32(16)), Le(e).u32(20) as usize);
        if n != size || offset < 64 << 10 || offset + n as u64 > len {
            return Err(bad("an item of its metadata is not where it may be"));
        }
        let mut out = vec![0; n];
        read(&mut out, at + offset)?;
        Ok(out)
    };
    let file = item(&VHDX_FILE, 8)?;
    if Le(&file).u32(4) & HAS_PARENT != 0 {
        return Err(FormatError::OtherFile("VHDX", "a parent"));
    }
    sane("VHDX", Le(&item(&VHDX_SIZE, 8)?).u64(0), max)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const MAX: u64 = 1 << 40;

    fn vmdk(text: &str) -> Vec<u8> {
        let mut f = vec![0; 64 << 10];
        f[..4].copy_from_slice(b"KDMV");
        let mut put = |at: usize, v: u64, n: usize| f[at..at + n].copy_from_slice(&v.to_le_bytes()[..n]);
        put(4, 1, 4);
        put(12, 2_048, 8);
        put(20, 128, 8);
        put(28, 1, 8);
        put(36, 20, 8);
        put(44, 512, 4);
        put(56, 100, 8);
        f[512..512 + text.len()].copy_from_slice(text.as_bytes());
        f
    }

    fn check(f: &[u8], how: fn(Read<'_>, u64, u64) -> Result<u64, FormatError>) -> Result<u64, FormatError> {
        let read = |buf: &mut [u8], at: u64| {
            let at = usize::try_from(at).unwrap_or(usize::MAX);
            let from = f.get(at..).and_then(|b| b.get(..buf.len()));
            buf.copy_from_slice(from.ok_or(io::ErrorKind::UnexpectedEof)?);
            Ok(())
        };
        how(&read, f.len() as u64, MAX)
    }

    #[test]
    fn hostile_vmdks() {
        let good = "# Disk DescriptorFile\ncreateType=\"monolithicSparse\"\nRW 2048 SPARSE \"x.vmdk\"\n";
        assert_eq!(check(&vmdk(good), check_vmdk).unwrap(), 1 << 20);
        let other = |r: Result<u64, FormatError>| matches!(r, Err(FormatError::OtherFile(..)));
        assert!(other(check(&vmdk("parentFileNameHint=\"/etc/shadow\"\n"), check_vmdk)));
        assert!(other(check(&vmdk("RW 2048 FLAT \"/etc/shadow\" 0\n"), check_vmdk)));
        assert!(other(check(&vmdk(&good.repeat(2)), check_vmdk)));
        let with = |at: usize, bytes: &[u8]| {
            let mut f = vmdk(good);
            f[at..at + bytes.len()].copy_from_slice(bytes);
            check(&f, check_vmdk)
        };
        assert!(other(with(12, &[0; 8])), "a description alone");
        assert!(matches!(with(18, &[1]), Err(FormatError::TooLarge { .. })));
        for (at, bytes) in [
            (4, &[9][..]),
            (12, &[0xff; 8]),
            (20, &[3]),
            (28, &[0xff; 8]),
            (56, &[0xff; 8]),
            (0, b"# Di"),
        ] {
            assert!(matches!(with(at, bytes), Err(FormatError::Malformed(..))), "{at}");
        }
        assert!(check(&vmdk(good)[..30], check_vmdk).is_err());
    }

    proptest! {
        #[test]
        fn noise_never_panics(b in proptest::collection::vec(any::<u8>(), 0..2_000)) {
            let mut v = b"KDMV".to_vec();
            v.extend_from_slice(&b);
            let _ = check(&v, check_vmdk);
            let mut x = vec![0; 2 << 20];
            x[192 << 10..(192 << 10) + 4].copy_from_slice(b"regi");
            for (i, byte) in b.iter().enumerate() {
                x[(192 << 10) + 8 + i] = *byte;
            }
            prop_assert!(check(&x, check_vhdx).is_err());
        }
    }
}
