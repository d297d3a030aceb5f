//! The files of an image in a folder, and that folder made a file system by `mke2fs` and `debugfs`.

use super::super::StoreError;
use super::super::convert::{Bounds, bare, jailed};
use super::super::import::ImportError;
use super::{Job, damaged};
use crate::defaults::{FORMAT_MEMORY, OCI_UNPACKED_BYTES};
use crate::oci::{Added, Digest, Kind, OciError, Shown, Tree};
use rustix::fs::Mode;
use std::{
    collections::BTreeMap,
    ffi::OsStr,
    fs::{DirBuilder, File, OpenOptions},
    io::{self, BufWriter, Read, Write},
    os::unix::{
        ffi::OsStrExt,
        fs::{DirBuilderExt, OpenOptionsExt},
    },
    path::{Path, PathBuf},
};

/// The folder in which the file system is put together.
pub(super) struct Build {
    /// What becomes the root.
    root: PathBuf,
    /// What `debugfs` is to do.
    script: PathBuf,
    /// Values of attributes.
    values: PathBuf,
    config: PathBuf,
}

/// Features that every kernel of the last ten years knows; named, so that the machine's own configuration changes nothing.
const CONFIG: &str = "[defaults]
base_features = sparse_super,large_file,filetype,resize_inode,dir_index,ext_attr
inode_size = 256
[fs_types]
ext4 = {
features = has_journal,extent,huge_file,flex_bg,metadata_csum,64bit,dir_nlink,extra_isize
}
";

/// When everything was made: what is not told stays the same.
const MADE: (&str, &str) = ("E2FSPROGS_FAKE_TIME", "1");

fn full(e: io::Error) -> ImportError {
    StoreError::file("unpack an OCI image")(e).into()
}

impl Build {
    pub(super) fn new(folder: &Path) -> Result<Self, ImportError> {
        let s = Self {
            root: folder.join("root"),
            script: folder.join("script"),
            values: folder.join("values"),
            config: folder.join("mke2fs.conf"),
        };
        let private = |p: &Path| DirBuilder::new().mode(0o700).create(p).map_err(full);
        private(&s.root)?;
        private(&s.values)?;
        std::fs::write(&s.config, CONFIG).map_err(full)?;
        Ok(s)
    }

    fn at(&self, path: &[u8]) -> PathBuf {
        self.root.join(OsStr::from_bytes(path))
    }

    /// Folders, links, pipes and the script; which file comes from where.
    pub(super) fn skeleton(&self, tree: &Tree) -> Result<BTreeMap<Added, PathBuf>, ImportError> {
        let mut files = BTreeMap::new();
        let mut script = BufWriter::new(File::create(&self.script).map_err(full)?);
        let mut values = 0u32;
        let mut failed = None;
        let shown = tree.show(&mut |path, what| {
            let here = self.at(path);
            let done = match &what {
                Shown::Folder(_) if path.is_empty() => Ok(()),
                Shown::Folder(_) => DirBuilder::new().mode(0o700).create(&here),
                Shown::Link(_, to) => std::os::unix::fs::symlink(OsStr::from_bytes(to), &here),
                Shown::Pipe(_) => rustix::fs::mkfifoat(rustix::fs::CWD, &here, Mode::RUSR).map_err(Into::into),
                Shown::File(_, _, place) => {
                    files.insert(*place, here);
                    Ok(())
                }
                Shown::Again(_) => Ok(()),
            };
            let done = done.and_then(|()| self.describe(&mut script, &mut values, path, &what));
            done.map_err(|e| {
                let kind = e.kind();
                failed = Some(full(e));
                OciError::Io {
                    what: "an entry".to_owned(),
                    source: kind.into(),
                }
            })
        });
        match (failed, shown) {
            (Some(e), _) => Err(e),
            (None, Err(e)) => Err(e.into()),
            (None, Ok(())) => {
                script.flush().map_err(full)?;
                Ok(files)
            }
        }
    }

    /// The lines of the script about one entry. Names have no control characters (`oci::components`); a quote in quotes is
    /// written twice.
    fn describe(&self, script: &mut dyn Write, values: &mut u32, path: &[u8], what: &Shown<'_>) -> io::Result<()> {
        let (kind, meta) = match what {
            Shown::Folder(m) => (0o040_000, m),
            Shown::File(m, ..) => (0o100_000, m),
            Shown::Link(m, _) => (0o120_000, m),
            Shown::Pipe(m) => (0o010_000, m),
            Shown::Again(_) => return Ok(()),
        };
        let quoted = quote(&[b"/", path].concat());
        for (name, value) in &meta.xattrs {
            let file = self.values.join(values.to_string());
            *values += 1;
            std::fs::write(&file, value)?;
            script.write_all(b"ea_set -f ")?;
            script.write_all(&quote(file.as_os_str().as_bytes()))?;
            script.write_all(b" ")?;
            script.write_all(&quoted)?;
            script.write_all(b" ")?;
            script.write_all(name)?;
            script.write_all(b"\n")?;
        }
        let time = format!("@{}", meta.mtime);
        for (field, value) in [
            ("mode", format!("0{:o}", kind | meta.mode)),
            ("uid", meta.uid.to_string()),
            ("gid", meta.gid.to_string()),
            ("atime", time.clone()),
            ("ctime", time.clone()),
            ("mtime", time),
        ] {
            script.write_all(b"sif ")?;
            script.write_all(&quoted)?;
            writeln!(script, " {field} {value}")?;
        }
        Ok(())
    }

    /// The second pass: bytes of the files that are left.
    pub(super) fn fill(
        &self,
        job: &mut Job<'_>,
        layers: usize,
        mut files: BTreeMap<Added, PathBuf>,
    ) -> Result<(), ImportError> {
        for n in 0..layers {
            job.layer(n, OCI_UNPACKED_BYTES, &mut |e, bytes| {
                let (Some(path), Kind::File(size)) = (files.remove(&e.place), e.kind) else {
                    return Ok(());
                };
                let mut options = OpenOptions::new();
                let mut out = options
                    .write(true)
                    .create_new(true)
                    .mode(0o600)
                    .open(path)
                    .map_err(full)?;
                let written = io::copy(&mut bytes.take(size), &mut out).map_err(full)?;
                match written == size {
                    true => Ok(()),
                    false => Err(damaged(&format!("layer {}", n + 1), "end is missing").into()),
                }
            })?;
        }
        match files.is_empty() {
            true => Ok(()),
            false => Err(damaged("a layer", "files changed while they were read").into()),
        }
    }

    /// Further names of files.
    pub(super) fn link(&self, tree: &Tree) -> Result<(), ImportError> {
        let mut pairs = Vec::new();
        tree.show(&mut |path, what| {
            if let Shown::Again(first) = what {
                pairs.push((self.at(first), self.at(path)));
            }
            Ok(())
        })?;
        pairs
            .into_iter()
            .try_for_each(|(first, again)| std::fs::hard_link(first, again))
            .map_err(full)
    }

    pub(super) fn format(
        &self,
        mke2fs: &Path,
        digest: &Digest,
        files: u64,
        size: u64,
        dest: &Path,
    ) -> Result<(), ImportError> {
        let h = digest.hex();
        // RFC 9562 §5.8: 122 bits of our own.
        let uuid = format!(
            "{}-{}-8{}-8{}-{}",
            &h[..8],
            &h[8..12],
            &h[13..16],
            &h[17..20],
            &h[20..32]
        );
        let inodes = (size / 16_384).max(files * 2 + 1_024);
        let mut command = bare(mke2fs);
        command
            .env("MKE2FS_CONFIG", &self.config)
            .env(MADE.0, MADE.1)
            .env("SOURCE_DATE_EPOCH", MADE.1)
            .args(["-q", "-F", "-t", "ext4", "-b", "4096", "-m", "1", "-U", &uuid, "-E"])
            .arg(format!(
                "hash_seed={uuid},lazy_itable_init=1,lazy_journal_init=1,root_owner=0:0,nodiscard"
            ))
            .args(["-N", &inodes.to_string(), "-d"])
            .arg(&self.root)
            .arg(dest)
            .arg(format!("{}k", size / 1_024));
        jailed(command, None, dest, bounds(size), &mut || {}).map(|_| ())
    }

    pub(super) fn finish(&self, debugfs: &Path, size: u64, dest: &Path) -> Result<(), ImportError> {
        let mut command = bare(debugfs);
        command
            .env(MADE.0, MADE.1)
            .env("SOURCE_DATE_EPOCH", MADE.1)
            .args(["-w", "-f"])
            .arg(&self.script)
            .arg(dest);
        let said = jailed(command, None, dest, bounds(size), &mut || {})?;
        // It ends well whatever happened to a line; but it says so.
        match said
            .lines()
            .find(|l| !l.trim().is_empty() && !l.starts_with("debugfs "))
        {
            None => Ok(()),
            Some(line) => Err(ImportError::Converter("debugfs".to_owned(), wire::fault::plain(line))),
        }
    }
}

fn bounds(size: u64) -> Bounds {
    Bounds {
        memory: FORMAT_MEMORY,
        cpu_seconds: 120 + size / crate::defaults::CONVERT_BYTES_PER_CPU_SECOND,
        file: size,
    }
}

fn quote(text: &[u8]) -> Vec<u8> {
    let mut out = vec![b'"'];
    for b in text {
        out.extend(if *b == b'"' {
            &b"\"\""[..]
        } else {
            std::slice::from_ref(b)
        });
    }
    out.push(b'"');
    out
}
