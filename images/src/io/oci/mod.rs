//! An OCI layout becomes a raw ext4 disk.
//!
//! Twice through the layers: the first time everything is hashed, checked and counted, and nothing is written. The second
//! time those files that are left at the end are written into a folder of the store's own, under names from the checked
//! tree, where they get neither owner nor rights; then `mke2fs` makes the file system of that folder, and `debugfs` gives
//! everything its owner, rights, times and attributes. Both run as `qemu-img` does (see `convert`), and need no privilege.
//! The same layers give the same image, byte for byte and however they are packed, with the same version of the tools.

mod build;
mod layer;

use super::convert::find;
use super::import::{ImportError, Progress, Stage};
use crate::defaults::{OCI_ENTRIES, OCI_JSON_BYTES, OCI_MANIFESTS, OCI_NESTED, OCI_UNPACKED_BYTES};
use crate::oci::{
    Blob, Config, Digest, Index, Listed, Manifest, OciError, Shown, Tree, arch, disk_bytes, fits, shown,
    too_many_entries,
};
use build::Build;
use layer::{Each, Hashed, Reader, Unpacked};
use rustix::fs::{Mode, OFlags};
use sha2::{Digest as _, Sha256};
use std::{
    collections::BTreeMap,
    fs::File,
    io::{self, Read},
    os::unix::fs::FileExt,
    path::Path,
    sync::Arc,
};
use wire::ByteSize;

/// Where the parts of a layout are.
#[derive(Debug)]
enum Parts {
    Folder(File),
    /// What of a tar file it is, and where: first byte and length.
    Tar(Arc<File>, BTreeMap<String, (u64, u64)>),
}

/// An opened layout.
#[derive(Debug)]
pub(super) struct Layout(Parts);

fn unreadable(what: &str) -> impl FnOnce(io::Error) -> OciError {
    let what = what.to_owned();
    move |source| match source.kind() {
        io::ErrorKind::NotFound => OciError::Missing(what),
        _ => OciError::Io { what, source },
    }
}

/// Some bytes of a file.
#[derive(Debug)]
struct Section {
    file: Arc<File>,
    at: u64,
    left: u64,
}

impl Read for Section {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let want = buf.len().min(usize::try_from(self.left).unwrap_or(usize::MAX));
        let n = self.file.read_at(&mut buf[..want], self.at)?;
        self.at += n as u64;
        self.left -= n as u64;
        Ok(n)
    }
}

impl Layout {
    pub(super) fn folder(path: &Path) -> Result<Self, OciError> {
        let folder = File::open(path).map_err(unreadable("its folder"))?;
        Self::checked(Self(Parts::Folder(folder)), "the folder")
    }

    pub(super) fn tar(file: File) -> Result<Self, OciError> {
        let what = "the tar file";
        let mut archive = tar::Archive::new(&file);
        let mut parts = BTreeMap::new();
        let entries = archive.entries_with_seek().map_err(unreadable(what))?;
        for (n, entry) in entries.raw(true).enumerate() {
            if n >= OCI_ENTRIES {
                return Err(too_many_entries());
            }
            let entry = entry.map_err(unreadable(what))?;
            let is_file = entry.header().entry_type().is_file();
            let path = entry.header().path_bytes();
            let path = String::from_utf8_lossy(path.strip_prefix(b"./").unwrap_or(&path)).into_owned();
            let ours = path == "oci-layout" || path == "index.json" || path.starts_with("blobs/sha256/");
            if !ours || !is_file {
                continue;
            }
            let at = (entry.raw_file_position(), entry.size());
            if parts.insert(path.clone(), at).is_some() {
                return Err(OciError::Malformed(format!("{} comes twice", shown(path.as_bytes()))));
            }
        }
        Self::checked(Self(Parts::Tar(Arc::new(file), parts)), what)
    }

    fn checked(layout: Self, what: &'static str) -> Result<Self, OciError> {
        match layout.text("oci-layout") {
            Ok(text) if String::from_utf8_lossy(&text).contains("imageLayoutVersion") => Ok(layout),
            Err(e @ OciError::Io { .. }) => Err(e),
            _ => Err(OciError::NoLayout(what)),
        }
    }

    /// A part by its path. No link is followed: what is imported lies in the folder that a person named.
    fn part(&self, path: &str) -> Result<Section, OciError> {
        match &self.0 {
            Parts::Tar(file, parts) => {
                let (at, left) = *parts.get(path).ok_or_else(|| OciError::Missing(path.to_owned()))?;
                let file = file.clone();
                Ok(Section { file, at, left })
            }
            Parts::Folder(folder) => {
                let of = |e: rustix::io::Errno| unreadable(path)(e.into());
                let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
                let mut here = rustix::io::fcntl_dupfd_cloexec(folder, 0).map_err(of)?;
                for name in path.split('/') {
                    here = rustix::fs::openat(&here, name, flags, Mode::empty()).map_err(of)?;
                }
                let file = File::from(here);
                let meta = file.metadata().map_err(unreadable(path))?;
                if !meta.is_file() {
                    return Err(OciError::Malformed(format!("{path} is not a regular file")));
                }
                Ok(Section {
                    file: Arc::new(file),
                    at: 0,
                    left: meta.len(),
                })
            }
        }
    }

    fn text(&self, path: &str) -> Result<Vec<u8>, OciError> {
        let part = self.part(path)?;
        if part.left > OCI_JSON_BYTES {
            return Err(OciError::TooMuch(format!("a description of {}", ByteSize(part.left))));
        }
        let mut bytes = Vec::new();
        part.take(OCI_JSON_BYTES)
            .read_to_end(&mut bytes)
            .map_err(unreadable(path))?;
        Ok(bytes)
    }

    fn blob(&self, what: &str, blob: &Blob) -> Result<Section, OciError> {
        let path = format!("blobs/sha256/{}", blob.digest.hex());
        let part = self.part(&path).map_err(|e| match e {
            OciError::Missing(_) => OciError::Missing(format!("{what} ({})", blob.digest)),
            e => e,
        })?;
        if part.left != blob.size {
            return Err(damaged(what, "length is another than what names it says"));
        }
        Ok(part)
    }

    /// A description, hashed.
    fn described(&self, what: &str, blob: &Blob) -> Result<Vec<u8>, OciError> {
        drop(self.blob(what, blob)?);
        let bytes = self.text(&format!("blobs/sha256/{}", blob.digest.hex()))?;
        match Sha256::digest(&bytes)[..] == blob.digest.0 {
            true => Ok(bytes),
            false => Err(damaged(what, "bytes have another hash than what names it says")),
        }
    }

    /// The one image for this machine.
    fn image(&self) -> Result<(Digest, Manifest, Config), OciError> {
        let mut images: Vec<Listed> = Vec::new();
        let mut left = vec![(0, Index::decode(&self.text("index.json")?)?)];
        while let Some((depth, index)) = left.pop() {
            for l in index.0 {
                if !l.is_index {
                    if !images.iter().any(|i| i.blob.digest == l.blob.digest) {
                        images.push(l);
                    }
                } else if depth < OCI_NESTED && left.len() + images.len() < OCI_MANIFESTS {
                    left.push((depth + 1, Index::decode(&self.described("an index", &l.blob)?)?));
                } else {
                    return Err(OciError::TooMuch("indices in indices in indices".to_owned()));
                }
            }
        }
        let (mut fitting, mut others) = (Vec::new(), Vec::new());
        for l in images {
            if let Some(p) = l.platform.as_ref().filter(|p| !fits(p)) {
                others.push(format!("{}/{}", p.0, p.1));
                continue;
            }
            let manifest = Manifest::decode(&self.described("a manifest", &l.blob)?)?;
            let config = Config::decode(&self.described("a configuration", &manifest.config)?)?;
            match fits(&config.platform) {
                true => fitting.push((l, manifest, config)),
                false => others.push(format!("{}/{}", config.platform.0, config.platform.1)),
            }
        }
        match fitting.len() {
            1 => {}
            0 if others.is_empty() => return Err(OciError::Malformed("it lists no image".to_owned())),
            0 => {
                let (arch, found) = (arch(), wire::fault::plain(&others.join(", ")));
                return Err(OciError::NoImage { arch, found });
            }
            _ => {
                let name = |l: &Listed| l.name.clone().unwrap_or_else(|| l.blob.digest.to_string());
                let names: Vec<String> = fitting.iter().map(|(l, ..)| name(l)).collect();
                return Err(OciError::Several(wire::fault::plain(&names.join(", "))));
            }
        }
        let Some((_, manifest, config)) = fitting.pop() else {
            return Err(OciError::Malformed("it lists no image".to_owned()));
        };
        if manifest.layers.len() != config.diff_ids.len() {
            return Err(OciError::Malformed(
                "its manifest and its configuration name different numbers of layers".to_owned(),
            ));
        }
        // The configuration's hash names the contents, however the layers are packed.
        Ok((manifest.config.digest, manifest, config))
    }
}

fn damaged(what: &str, why: &'static str) -> OciError {
    OciError::Damaged {
        what: what.to_owned(),
        why,
    }
}

/// A layout whose image was chosen, with what was read of it so far.
struct Job<'a> {
    layout: &'a Layout,
    manifest: Manifest,
    config: Config,
    /// Bytes of packed layers read, in both passes, and how many that will be.
    done: u64,
    total: u64,
    progress: &'a mut dyn FnMut(Progress),
}

impl Job<'_> {
    /// Reads one layer to its end and checks both its hashes. Returns its bytes, unpacked.
    fn layer(&mut self, n: usize, max: u64, each: &mut Each<'_>) -> Result<u64, ImportError> {
        let what = format!("layer {}", n + 1);
        let (blob, packing) = &self.manifest.layers[n];
        let mut packed = Hashed::new(self.layout.blob(&what, blob)?, u64::MAX);
        let of = |source: io::Error| match source.kind() {
            io::ErrorKind::FileTooLarge => OciError::TooMuch(format!(
                "more than {} in its layers, unpacked",
                ByteSize(OCI_UNPACKED_BYTES)
            )),
            _ => OciError::Io {
                what: what.clone(),
                source,
            },
        };
        let seen = packed.count.clone();
        let mut unpacked = Hashed::new(Unpacked::new(*packing, &mut packed).map_err(of)?, max);
        let (done, total) = (self.done, self.total);
        let mut archive = tar::Archive::new(&mut unpacked);
        let mut reader = Reader::new(n);
        for entry in archive.entries().map_err(of)?.raw(true) {
            let mut entry = entry.map_err(of)?;
            if let Some(e) = reader.entry(&mut entry).map_err(|e| e.of(&of))? {
                each(e, &mut entry)?;
            }
            (self.progress)(Progress {
                stage: Stage::Convert,
                done: (done + seen.get()).min(total),
                total,
            });
        }
        let mut rest = archive.into_inner();
        io::copy(&mut rest, &mut io::sink()).map_err(of)?;
        let bytes = unpacked.count.get();
        if !unpacked.is(&self.config.diff_ids[n]).map_err(of)? {
            return Err(damaged(&what, "unpacked bytes have another hash than its configuration says").into());
        }
        if !packed.is(&blob.digest).map_err(of)? {
            return Err(damaged(&what, "bytes have another hash than its manifest says").into());
        }
        self.done += blob.size;
        Ok(bytes)
    }
}

/// What the file system has to hold.
#[derive(Default)]
struct Sum {
    files: u64,
    bytes: u64,
}

const BLOCK: u64 = 4_096;

fn sum(tree: &Tree) -> Result<Sum, OciError> {
    let mut s = Sum::default();
    tree.show(&mut |_, what| {
        s.files += 1;
        let (bytes, meta) = match what {
            Shown::File(meta, bytes, _) => (bytes, meta),
            Shown::Folder(meta) | Shown::Link(meta, _) => (BLOCK, meta),
            Shown::Pipe(meta) => (0, meta),
            Shown::Again(_) => return Ok(()),
        };
        let attributes = if meta.xattrs.is_empty() { 0 } else { BLOCK };
        let blocks = bytes.div_ceil(BLOCK).saturating_mul(BLOCK);
        s.bytes = s.bytes.saturating_add(blocks).saturating_add(attributes);
        Ok(())
    })?;
    Ok(s)
}

/// Makes a raw disk at `dest` of the one image of a layout; `dest` lies in an empty folder of its own. `max`: bytes of the
/// largest disk that is taken.
pub(super) fn to_raw(
    layout: &Layout,
    max: u64,
    dest: &Path,
    progress: &mut dyn FnMut(Progress),
) -> Result<(), ImportError> {
    let (Some(mke2fs), Some(debugfs)) = (find("mke2fs"), find("debugfs")) else {
        return Err(OciError::NoTool.into());
    };
    let (digest, manifest, config) = layout.image()?;
    let total = manifest.layers.iter().map(|(b, _)| b.size).fold(0, u64::saturating_add);
    let layers = manifest.layers.len();
    let mut job = Job {
        layout,
        manifest,
        config,
        done: 0,
        total: total.saturating_mul(2),
        progress,
    };
    let (mut tree, mut left) = (Tree::default(), OCI_UNPACKED_BYTES);
    for n in 0..layers {
        left -= job.layer(n, left, &mut |e, _| {
            Ok(tree.handle_entry(e.place, &e.path, e.kind, e.meta)?)
        })?;
    }
    let sum = sum(&tree)?;
    let size = disk_bytes(sum.bytes, sum.files, max)?;
    let folder = dest.parent().unwrap_or(Path::new("/"));
    let build = Build::new(folder)?;
    let files = build.skeleton(&tree)?;
    build.fill(&mut job, layers, files)?;
    build.link(&tree)?;
    build.format(&mke2fs, &digest, sum.files, size, dest)?;
    build.finish(&debugfs, size, dest)
}
