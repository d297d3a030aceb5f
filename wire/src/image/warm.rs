//! What a warm image says of the machine whose memory it holds: an extension field of its header, so it is under the image's
//! id like the disk, the memory and the devices' state, and none of them can be put together with another's.

use super::{Field, Header, Part};
use crate::{codec, guest::Accel, mac::MacAddr, units::ByteSize};
use serde::{Deserialize, Serialize};

/// Tag of the field. A reader that does not know it has a disk image that boots cold.
pub const WARM_FIELD: u16 = 1;
/// Largest encoding, bytes.
pub const MAX_WARM_BYTES: usize = 512;
/// Longest text in it, bytes.
const MAX_WORD: usize = 128;

/// The machine that a warm image's memory is of.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Warm {
    /// QEMU's versioned machine type.
    pub machine: String,
    /// CPU model, as QEMU names it.
    pub cpu: String,
    /// What executed it: memory of one is nothing for the other.
    pub accel: Accel,
    /// QEMU's version that saved it.
    pub qemu: String,
    /// Hash over the options that make its devices, without addresses; hex.
    pub devices: String,
    /// Virtual CPUs.
    pub cpus: u16,
    /// RAM, bytes.
    pub memory: ByteSize,
    /// It has a NIC; the address that its system knows it by.
    pub mac: Option<MacAddr>,
    /// It has a second disk with a cloud-init document.
    pub seed: bool,
}

impl Warm {
    /// As a field of a header.
    pub fn field(&self) -> Result<Field, codec::DecodeError> {
        Ok(Field {
            tag: WARM_FIELD,
            bytes: codec::encode(self)?,
        })
    }

    /// What a header says; `None`: the image is not warm, or what it says is no sense.
    pub fn of(header: &Header) -> Option<Self> {
        let layout = header.layout().ok()?;
        let ram = layout.part_bytes(Part::Ram)?;
        layout.part_bytes(Part::DeviceState)?;
        let field = header.fields.iter().find(|f| f.tag == WARM_FIELD)?;
        let warm: Self = codec::decode(&field.bytes, MAX_WARM_BYTES).ok()?;
        let words = [&warm.machine, &warm.cpu, &warm.qemu, &warm.devices];
        let plain = words
            .iter()
            .all(|w| w.len() <= MAX_WORD && !w.chars().any(char::is_control));
        (plain && warm.memory.0 == ram).then_some(warm)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::{Kind, PartSize, TableId};

    fn header(parts: &[(Part, u64)], warm: &Warm) -> Header {
        Header {
            kind: Kind::Disk,
            piece_bytes: 65_536,
            parts: parts
                .iter()
                .map(|(part, bytes)| PartSize {
                    part: *part,
                    bytes: *bytes,
                })
                .collect(),
            cmdline: None,
            parents: vec![],
            table: TableId([0; 32]),
            fields: vec![warm.field().unwrap()],
        }
    }

    #[test]
    fn a_header_is_warm_only_if_all_that_it_names_is_there() {
        let warm = Warm {
            machine: "pc-q35-7.2".into(),
            cpu: "Nehalem".into(),
            accel: Accel::Tcg,
            qemu: "7.2.22".into(),
            devices: "ab".repeat(32),
            cpus: 1,
            memory: ByteSize(128 << 20),
            mac: Some(MacAddr([2, 0, 0, 0, 0, 1])),
            seed: false,
        };
        let all = [
            (Part::Disk, 1 << 20),
            (Part::Ram, 128 << 20),
            (Part::DeviceState, 500_000),
        ];
        let whole = header(&all, &warm);
        let read = Header::decode(&whole.encode().unwrap()).unwrap();
        assert_eq!(Warm::of(&read), Some(warm.clone()));
        assert_eq!(Warm::of(&header(&all[..2], &warm)), None, "no devices");
        let short = [all[0], (Part::Ram, 64 << 20), all[2]];
        assert_eq!(Warm::of(&header(&short, &warm)), None, "another size of memory");
        let rude = Warm {
            machine: "q35\n-device x".into(),
            ..warm
        };
        assert_eq!(Warm::of(&header(&all, &rude)), None);
    }
}
