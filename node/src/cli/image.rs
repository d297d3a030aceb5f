//! `image`.

use super::values::part;
use crate::api::{ImageAdd, ImagePull, Part};
use clap::{Args, Subcommand};
use std::path::{Path, PathBuf};
use wire::{Fault, FaultKind};

/// `image`.
#[derive(Clone, Debug, Subcommand)]
pub enum ImageCommand {
    /// Import a raw or qcow2 file and print the image's id.
    #[command(after_help = "Examples:
  lanline image add debian-12.qcow2 --name debian:12
  lanline image add root.img --name tiny --kernel vmlinuz --initrd initrd.img --cmdline 'console=ttyS0'")]
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
    /// A raw or qcow2 file; the node must be able to read it.
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
}

impl AddArgs {
    /// The request, with paths made absolute from the folder `cwd`. Errors: `Usage` for a path that is not UTF-8.
    pub fn request(&self, cwd: &Path) -> Result<ImageAdd, Fault> {
        let full = |p: &Path| match cwd.join(p).to_str() {
            Some(s) => Ok(s.to_owned()),
            None => Err(Fault::new(
                FaultKind::Usage,
                format!("the path {} is not UTF-8", p.display()),
            )),
        };
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
        })
    }
}
