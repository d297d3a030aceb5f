//! A reproducible cpio archive in the "newc" format that the kernel unpacks as its initramfs
//! (Documentation/driver-api/early-userspace/buffer-format.rst).
//!
//! What it does not do: no compression and no reading; owner is root and the time is zero for every entry, so one set
//! of files gives one archive.

/// What an entry is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Entry {
    /// A folder, mode 0755.
    Dir,
    /// A file and whether it may be run.
    File {
        /// Its bytes.
        content: Vec<u8>,
        /// Mode 0755 or 0644.
        run: bool,
    },
    /// A symbolic link to this target.
    Link(String),
    /// A character device: major and minor.
    Device(u32, u32),
}

/// The archive of `entries`, in their order; a folder must come before what it holds. Paths are relative.
pub fn archive(entries: &[(String, Entry)]) -> Vec<u8> {
    let mut out = Vec::new();
    for (i, (path, entry)) in entries.iter().enumerate() {
        let ino = u32::try_from(i).unwrap_or(u32::MAX).saturating_add(1);
        append(&mut out, ino, path, entry);
    }
    append_raw(&mut out, &Head::default(), "TRAILER!!!", &[]);
    out
}

#[derive(Default)]
struct Head {
    ino: u32,
    mode: u32,
    links: u32,
    device: (u32, u32),
}

fn append(out: &mut Vec<u8>, ino: u32, path: &str, entry: &Entry) {
    let (mode, links, device, content) = match entry {
        Entry::Dir => (0o040_755, 2, (0, 0), &[][..]),
        Entry::File { content, run: true } => (0o100_755, 1, (0, 0), content.as_slice()),
        Entry::File { content, run: false } => (0o100_644, 1, (0, 0), content.as_slice()),
        Entry::Link(to) => (0o120_777, 1, (0, 0), to.as_bytes()),
        Entry::Device(major, minor) => (0o020_600, 1, (*major, *minor), &[][..]),
    };
    let head = Head {
        ino,
        mode,
        links,
        device,
    };
    append_raw(out, &head, path, content);
}

fn append_raw(out: &mut Vec<u8>, h: &Head, path: &str, content: &[u8]) {
    let size = u32::try_from(content.len()).unwrap_or(u32::MAX);
    let name_size = u32::try_from(path.len()).unwrap_or(u32::MAX).saturating_add(1);
    let fields = [
        h.ino, h.mode, 0, 0, h.links, 0, size, 0, 0, h.device.0, h.device.1, name_size, 0,
    ];
    out.extend_from_slice(b"070701");
    for f in fields {
        out.extend_from_slice(format!("{f:08x}").as_bytes());
    }
    out.extend_from_slice(path.as_bytes());
    out.push(0);
    pad(out);
    out.extend_from_slice(content);
    pad(out);
}

/// Names and contents end on multiples of four bytes, counted from the start of the archive.
fn pad(out: &mut Vec<u8>) {
    out.resize(out.len().next_multiple_of(4), 0);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_archive_is_laid_out_as_the_kernel_reads_it() {
        let file = Entry::File {
            content: b"hello".to_vec(),
            run: true,
        };
        let a = archive(&[("bin".into(), Entry::Dir), ("bin/x".into(), file)]);
        assert_eq!(a.len() % 4, 0);
        assert_eq!(&a[..14], b"07070100000001");
        // Header 110 bytes, "bin\0" ends at 114, padded to 116: there the second header begins.
        assert_eq!(&a[116..122], b"070701");
        let name = 116 + 110;
        assert_eq!(&a[name..name + 6], b"bin/x\0");
        assert_eq!(&a[name + 6..name + 11], b"hello");
        assert!(a.ends_with(b"TRAILER!!!\0\0\0\0") || a.windows(10).any(|w| w == b"TRAILER!!!"));
    }
}
