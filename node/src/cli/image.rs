//! `image`.

use super::values::part;
use crate::api::{
    ExportAs, ImageAdd, ImageArchive, ImageExport, ImageGc, ImageMount, ImagePublish, ImagePull, ImageUmount, Part,
};
use clap::{Args, Subcommand};
use std::path::{Path, PathBuf};
use wire::{Fault, FaultKind};

/// `image`.
#[derive(Clone, Debug, Subcommand)]
pub enum ImageCommand {
    /// Import a raw, qcow2, VMDK or VHDX file or an OCI layout and print the image's id.
    #[command(after_help = "Examples:
  lanline image add debian-12.qcow2 --name debian:12
  lanline image add alpine-oci/ --name alpine --kernel vmlinuz --initrd initrd.img --cmdline 'root=/dev/vda rw console=ttyS0'")]
    Add(AddArgs),
    /// Images in the store.
    #[command(after_help = "Examples:
  lanline image ls
  lanline image ls --json | jq -r '.[] | select(.complete | not) | .id'")]
    Ls,
    /// Everything about an image.
    #[command(after_help = "Examples:
  lanline image show debian:12
  lanline image show debian:12 --json | jq .providers")]
    Show(RefArgs),
    /// Read and check every stored piece of an image.
    #[command(after_help = "Examples:
  lanline image verify debian:12
  lanline image verify debian:12 --json | jq -e '.bad == 0'")]
    Verify(RefArgs),
    /// Remove an image from the store.
    #[command(after_help = "Examples:
  lanline image rm debian:11
  lanline image rm 4qv7k2m3n5p6")]
    Rm(RefArgs),
    /// Fetch all of an image from the peers that have it.
    #[command(after_help = "Examples:
  lanline image pull debian:12@attic-nuc
  lanline image pull debian:12 --part 1/2")]
    Pull(PullArgs),
    /// Mount an image read-only; its bytes come as they are read, from whoever is near.
    #[command(after_help = "Examples:
  lanline image mount tools:3 /mnt/tools
  lanline image mount debian:12 /mnt/img && sudo mount -o ro,loop /mnt/img/disk.raw /mnt/root")]
    Mount(MountArgs),
    /// End a mount.
    #[command(after_help = "Examples:
  lanline image umount /mnt/tools
  lanline image umount /mnt/img --json | jq .id")]
    Umount(UmountArgs),
    /// Mounted images.
    #[command(after_help = "Examples:
  lanline image mounts
  lanline image mounts --json | jq -r '.[].dir'")]
    Mounts,
    /// Make a new image of the disk of a stopped guest; only what it changed is new.
    #[command(after_help = "Examples:
  lanline image publish debian:12-nginx --vm web
  lanline image publish web --vm web --json | jq .new_bytes")]
    Publish(PublishArgs),
    /// Write an image to a raw or qcow2 file.
    #[command(after_help = "Examples:
  lanline image export debian:12 debian.qcow2
  lanline image export debian:12 debian.img --format raw")]
    Export(ExportArgs),
    /// Drop what no image needs, and pieces that others have until the store is small enough.
    #[command(after_help = "Examples:
  lanline image gc
  lanline image gc --to 20G --json | jq .freed_bytes")]
    Gc(GcArgs),
    /// Move an image's pieces to another folder; they come back when they are wanted.
    #[command(after_help = "Examples:
  lanline image archive debian:11 /mnt/nas/lanline
  lanline image archive debian:11 /mnt/nas/lanline --json | jq .freed_bytes")]
    Archive(ArchiveArgs),
}

/// `image mount`.
#[derive(Clone, Debug, Args)]
pub struct MountArgs {
    /// `name`, `name:tag`, `name@PEER` or an image id.
    #[arg(value_name = "REF")]
    pub image: String,
    /// An empty folder.
    #[arg(value_name = "DIR")]
    pub dir: PathBuf,
}

/// `image umount`.
#[derive(Clone, Debug, Args)]
pub struct UmountArgs {
    /// The folder.
    #[arg(value_name = "DIR")]
    pub dir: PathBuf,
}

/// A folder as the node may know it, from the folder `cwd`. Errors: `Usage` for a path that is not UTF-8.
fn full(cwd: &Path, dir: &Path) -> Result<String, Fault> {
    let path = cwd.join(dir);
    // The folder of a mount whose node died cannot be looked at; then it is taken as it was written.
    let path = path.canonicalize().unwrap_or(path);
    match path.to_str() {
        Some(s) => Ok(s.to_owned()),
        None => Err(Fault::new(
            FaultKind::Usage,
            format!("the path {} is not UTF-8", dir.display()),
        )),
    }
}

impl MountArgs {
    /// The request. Errors: `Usage` for a path that is not UTF-8.
    pub fn request(&self, cwd: &Path) -> Result<ImageMount, Fault> {
        Ok(ImageMount {
            dir: full(cwd, &self.dir)?,
        })
    }
}

impl UmountArgs {
    /// The request. Errors: `Usage` for a path that is not UTF-8.
    pub fn request(&self, cwd: &Path) -> Result<ImageUmount, Fault> {
        Ok(ImageUmount {
            dir: full(cwd, &self.dir)?,
        })
    }
}

/// `image publish`.
#[derive(Clone, Debug, Args)]
pub struct PublishArgs {
    /// What to call the new image.
    #[arg(value_name = "NAME[:TAG]")]
    pub name: String,
    /// The guest: its name or id.
    #[arg(long, value_name = "VM")]
    pub vm: String,
    /// With its memory, while it runs: guests of the image go on where it is now.
    #[arg(long)]
    pub warm: bool,
}

impl PublishArgs {
    /// The request.
    pub fn request(&self) -> ImagePublish {
        let (name, tag) = self.name.split_once(':').unzip();
        ImagePublish {
            name: name.unwrap_or(&self.name).to_owned(),
            tag: tag.map(ToOwned::to_owned),
            warm: self.warm,
        }
    }
}

/// `image export`.
#[derive(Clone, Debug, Args)]
pub struct ExportArgs {
    /// `name`, `name:tag` or an image id.
    #[arg(value_name = "REF")]
    pub image: String,
    /// The file to write; nothing may be there.
    pub file: PathBuf,
    /// `raw` or `qcow2`; by default what the file's name ends with.
    #[arg(long, value_name = "FORMAT")]
    pub format: Option<String>,
}

impl ExportArgs {
    /// The request, with the path made absolute from the folder `cwd`. Errors: `Usage`.
    pub fn request(&self, cwd: &Path) -> Result<ImageExport, Fault> {
        let ending = self.file.extension().and_then(|e| e.to_str());
        let format = match self.format.as_deref().or(ending) {
            Some("qcow2") => ExportAs::Qcow2,
            Some("raw" | "img") => ExportAs::Raw,
            _ if self.format.is_none() => ExportAs::Raw,
            _ => return Err(Fault::new(FaultKind::Usage, "an image is exported as raw or qcow2")),
        };
        Ok(ImageExport {
            file: full(cwd, &self.file)?,
            format,
        })
    }
}

/// `image gc`.
#[derive(Clone, Copy, Debug, Args)]
pub struct GcArgs {
    /// Size that the store shall have at most afterwards.
    #[arg(long, value_name = "SIZE")]
    pub to: Option<wire::ByteSize>,
}

impl GcArgs {
    /// The request.
    pub fn request(&self) -> ImageGc {
        ImageGc {
            target_bytes: self.to.map(|b| b.0),
        }
    }
}

/// `image archive`.
#[derive(Clone, Debug, Args)]
pub struct ArchiveArgs {
    /// `name`, `name:tag` or an image id.
    #[arg(value_name = "REF")]
    pub image: String,
    /// The folder of the archive; it is made if it is missing.
    pub folder: PathBuf,
}

impl ArchiveArgs {
    /// The request, with the path made absolute from the folder `cwd`. Errors: `Usage`.
    pub fn request(&self, cwd: &Path) -> Result<ImageArchive, Fault> {
        Ok(ImageArchive {
            folder: full(cwd, &self.folder)?,
        })
    }
}

/// An image.
#[derive(Clone, Debug, Args)]
pub struct RefArgs {
    /// `name`, `name:tag`, `name@PEER` or an image id.
    #[arg(value_name = "REF")]
    pub image: String,
}

/// `image pull`.
#[derive(Clone, Debug, Args)]
pub struct PullArgs {
    /// `name`, `name:tag`, `name@PEER` or an image id.
    #[arg(value_name = "REF")]
    pub image: String,
    /// Only the K-th of N parts of its pieces, for seeding a swarm.
    #[arg(long, value_name = "K/N", value_parser = part)]
    pub part: Option<Part>,
}

impl PullArgs {
    /// The request.
    pub fn request(&self) -> ImagePull {
        ImagePull { part: self.part }
    }
}

/// `image add`.
#[derive(Clone, Debug, Args)]
pub struct AddArgs {
    /// A raw, qcow2, VMDK or VHDX file, or an OCI layout (a folder, or a tar file of one); the node must be able to read it.
    pub file: PathBuf,
    /// What to call it.
    #[arg(long, value_name = "NAME[:TAG]")]
    pub name: String,
    /// A kernel to boot it with.
    #[arg(long, value_name = "FILE")]
    pub kernel: Option<PathBuf>,
    /// The kernel's initrd.
    #[arg(long, value_name = "FILE", requires = "kernel")]
    pub initrd: Option<PathBuf>,
    /// The kernel's command line.
    #[arg(long, value_name = "TEXT", requires = "kernel")]
    pub cmdline: Option<String>,
    /// An image here that it was made from; nodes that have that one fetch only what differs.
    #[arg(long, value_name = "REF")]
    pub parent: Option<String>,
}

impl AddArgs {
    /// The request, with paths made absolute from the folder `cwd`. Errors: `Usage` for a path that is not UTF-8.
    pub fn request(&self, cwd: &Path) -> Result<ImageAdd, Fault> {
        let full = |p: &Path| full(cwd, p);
        let (name, tag) = match self.name.split_once(':') {
            Some((name, tag)) => (name.to_owned(), Some(tag.to_owned())),
            None => (self.name.clone(), None),
        };
        Ok(ImageAdd {
            file: full(&self.file)?,
            name,
            tag,
            kernel: self.kernel.as_deref().map(full).transpose()?,
            initrd: self.initrd.as_deref().map(full).transpose()?,
            cmdline: self.cmdline.clone(),
            parent: self.parent.clone(),
        })
    }
}
