//! A guest as this host has agreed to run it.
//!
//! [`GuestSpec`] is not `Serialize`: what a caller sent becomes one only here, checked; what the disk holds only in
//! [`crate::record`]. No path and no option in it comes from a peer.

use crate::defaults::{MAX_CMDLINE, MAX_CPUS, MAX_DISK, MAX_MEMORY, MIN_MEMORY, SECTOR};
use wire::{
    fault::plain,
    guest::{GuestSpecV1, MAX_IMAGE_REF},
    ids::{GuestId, ImageId, LanId, Name, NodeId},
    mac::MacAddr,
    units::ByteSize,
};

/// A guest that this host may run: identity, place on the LAN, size.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GuestSpec {
    /// Id, chosen by the caller.
    pub id: GuestId,
    /// Name, unique among one owner's guests here.
    pub name: Name,
    /// Who asked for it, as the transport proved.
    pub owner: NodeId,
    /// Its LAN; none: no NIC.
    pub lan: Option<LanId>,
    /// The image under its disk.
    pub image: ImageId,
    /// How the owner named the image; for display.
    pub image_ref: String,
    /// Virtual CPUs.
    pub cpus: u16,
    /// RAM, bytes; a multiple of 1 MiB.
    pub memory: ByteSize,
    /// Least size of its disk, bytes; none: the image's.
    pub disk: Option<ByteSize>,
    /// Its NIC's address, chosen by the host.
    pub mac: MacAddr,
}

/// What the image brings that a start needs; known once the image is here. Paths are this node's own files.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Boot {
    /// Size of the image's disk, bytes; none: the image is only a kernel and an initrd.
    pub image_size: Option<ByteSize>,
    /// The kernel for a direct boot; none: the firmware boots the disk.
    pub kernel: Option<std::path::PathBuf>,
    /// Its initrd.
    pub initrd: Option<std::path::PathBuf>,
    /// The image has a kernel, which is still coming, as its initrd is if it has one. The image's memory needs neither.
    pub later: bool,
    /// Its command line, from the image's manifest.
    pub cmdline: Option<String>,
}

/// Why a guest cannot be as it was asked for. Each says what to change.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SpecError {
    /// No CPU, or more than the machine model has.
    #[error("{0} CPUs were asked for; a guest has 1 to {MAX_CPUS}")]
    Cpus(u16),
    /// RAM out of range.
    #[error("{0} of memory was asked for; a guest has {MIN_MEMORY} to {MAX_MEMORY}")]
    Memory(ByteSize),
    /// RAM that no machine can map.
    #[error("{0} bytes of memory is not a whole number of MiB; write for example --memory 512M")]
    MemoryStep(u64),
    /// Disk out of range.
    #[error("a disk of {0} was asked for; a guest's disk has at most {MAX_DISK}")]
    Disk(ByteSize),
    /// Disk smaller than what is on it.
    #[error("the image's disk has {image}; --disk {asked} would cut it off. Leave --disk out or ask for more")]
    DiskBelowImage {
        /// Asked for.
        asked: ByteSize,
        /// The image's.
        image: ByteSize,
    },
    /// Neither a disk nor a kernel.
    #[error("the image has neither a disk nor a kernel, there is nothing to boot")]
    NothingToBoot,
    /// An initrd or a command line, and no kernel that would read it.
    #[error("the image has an initrd or a command line but no kernel")]
    NoKernel,
    /// The command line is unusable.
    #[error("the image's kernel command line has {0} bytes; at most {MAX_CMDLINE} are allowed")]
    CmdlineTooLong(usize),
    /// The command line has a control character.
    #[error("the image's kernel command line holds a control character, which no kernel reads")]
    CmdlineControl,
    /// A group address or all zero.
    #[error("{0} cannot be a NIC's address")]
    Mac(MacAddr),
    /// Image reference longer than any that we make.
    #[error("the image reference has {0} bytes; at most {MAX_IMAGE_REF} are allowed")]
    ImageRef(usize),
}

impl GuestSpec {
    /// Checks what a caller asked for and joins it with what the host decides: the proven owner, the NIC's address.
    pub fn from_wire(id: GuestId, owner: NodeId, mac: MacAddr, asked: GuestSpecV1) -> Result<Self, SpecError> {
        let spec = Self {
            id,
            name: asked.name,
            owner,
            lan: asked.lan,
            image: asked.image,
            image_ref: plain(&asked.image_ref),
            cpus: asked.cpus,
            memory: asked.memory,
            disk: asked.disk,
            mac,
        };
        spec.check()?;
        Ok(spec)
    }

    /// Checks every bound. Holds for each spec that a guest was made of.
    pub fn check(&self) -> Result<(), SpecError> {
        if !(1..=MAX_CPUS).contains(&self.cpus) {
            return Err(SpecError::Cpus(self.cpus));
        }
        if !(MIN_MEMORY..=MAX_MEMORY).contains(&self.memory) {
            return Err(SpecError::Memory(self.memory));
        }
        if !self.memory.0.is_multiple_of(1 << 20) {
            return Err(SpecError::MemoryStep(self.memory.0));
        }
        if let Some(d) = self.disk.filter(|d| *d > MAX_DISK) {
            return Err(SpecError::Disk(d));
        }
        if !self.mac.is_valid_source() {
            return Err(SpecError::Mac(self.mac));
        }
        if self.image_ref.len() > MAX_IMAGE_REF {
            return Err(SpecError::ImageRef(self.image_ref.len()));
        }
        Ok(())
    }

    /// Size of the overlay, bytes: the larger of image and request, in whole sectors. `None`: the guest has no disk.
    pub fn overlay_size(&self, image: Option<ByteSize>) -> Result<Option<ByteSize>, SpecError> {
        let Some(image) = image else { return Ok(None) };
        match self.disk {
            Some(asked) if asked < image => return Err(SpecError::DiskBelowImage { asked, image }),
            _ => {}
        }
        let size = ByteSize(self.disk.unwrap_or(image).0.next_multiple_of(SECTOR));
        if size > MAX_DISK {
            Err(SpecError::Disk(size))
        } else {
            Ok(Some(size))
        }
    }
}

impl Boot {
    /// Checks what the image brings; its command line is a stranger's text that goes into one argument.
    pub fn check(&self) -> Result<(), SpecError> {
        if self.image_size.is_none() && self.kernel.is_none() && !self.later {
            return Err(SpecError::NothingToBoot);
        }
        if self.kernel.is_none() && (self.initrd.is_some() || self.cmdline.is_some() && !self.later) {
            return Err(SpecError::NoKernel);
        }
        match self.cmdline.as_deref() {
            Some(c) if c.len() > MAX_CMDLINE => Err(SpecError::CmdlineTooLong(c.len())),
            Some(c) if c.chars().any(char::is_control) => Err(SpecError::CmdlineControl),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked() -> GuestSpecV1 {
        GuestSpecV1 {
            name: "web".parse().unwrap(),
            image: ImageId([2; 32]),
            image_ref: "debian:12".into(),
            lan: None,
            cpus: 1,
            memory: ByteSize(256 << 20),
            disk: None,
            hints: Vec::new(),
        }
    }

    fn made(change: impl FnOnce(&mut GuestSpecV1)) -> Result<GuestSpec, SpecError> {
        let mut a = asked();
        change(&mut a);
        GuestSpec::from_wire(GuestId([1; 16]), NodeId([3; 32]), MacAddr([2, 0, 0, 0, 0, 1]), a)
    }

    #[test]
    fn each_bound_is_kept_and_named() {
        assert!(made(|_| {}).is_ok());
        assert_eq!(made(|a| a.cpus = 0), Err(SpecError::Cpus(0)));
        assert_eq!(made(|a| a.cpus = 256), Err(SpecError::Cpus(256)));
        assert!(made(|a| a.memory = MIN_MEMORY).is_ok());
        assert!(matches!(
            made(|a| a.memory = ByteSize(63 << 20)),
            Err(SpecError::Memory(_))
        ));
        assert!(matches!(
            made(|a| a.memory = ByteSize(u64::MAX)),
            Err(SpecError::Memory(_))
        ));
        assert!(matches!(
            made(|a| a.memory = ByteSize((256 << 20) + 1)),
            Err(SpecError::MemoryStep(_))
        ));
        assert!(matches!(
            made(|a| a.disk = Some(ByteSize(u64::MAX))),
            Err(SpecError::Disk(_))
        ));
        let mut s = made(|_| {}).unwrap();
        s.mac = MacAddr::BROADCAST;
        assert!(matches!(s.check(), Err(SpecError::Mac(_))));
    }

    #[test]
    fn an_overlay_is_never_smaller_than_its_image() {
        let s = made(|a| a.disk = Some(ByteSize(2 << 30))).unwrap();
        assert_eq!(s.overlay_size(Some(ByteSize(1 << 30))), Ok(Some(ByteSize(2 << 30))));
        assert!(matches!(
            s.overlay_size(Some(ByteSize(3 << 30))),
            Err(SpecError::DiskBelowImage { .. })
        ));
        let s = made(|_| {}).unwrap();
        assert_eq!(s.overlay_size(Some(ByteSize(1_000))), Ok(Some(ByteSize(1_024))));
        assert_eq!(s.overlay_size(None), Ok(None));
    }

    #[test]
    fn a_strangers_command_line_is_one_clean_line() {
        let boot = |c: &str| Boot {
            kernel: Some("kernel".into()),
            cmdline: Some(c.into()),
            ..Boot::default()
        };
        assert_eq!(boot("console=ttyS0 -- , quiet").check(), Ok(()));
        assert_eq!(boot(&"x".repeat(MAX_CMDLINE)).check(), Ok(()));
        assert_eq!(
            boot(&"x".repeat(MAX_CMDLINE + 1)).check(),
            Err(SpecError::CmdlineTooLong(MAX_CMDLINE + 1))
        );
        for bad in ["a\nb", "a\0b", "\x1b[m"] {
            assert_eq!(boot(bad).check(), Err(SpecError::CmdlineControl));
        }
        assert_eq!(Boot::default().check(), Err(SpecError::NothingToBoot));
        let b = Boot {
            image_size: Some(ByteSize(1)),
            cmdline: Some("x".into()),
            ..Boot::default()
        };
        assert_eq!(b.check(), Err(SpecError::NoKernel));
    }
}
