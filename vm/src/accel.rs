//! Which accelerator a guest gets, and the sentence that says why.
//!
//! A kernel may offer /dev/kvm without the CPU's extension (paravirtual KVM): QEMU starts, QMP greets, and the guest
//! hangs or crawls (notes/vm.md §1, facts 1 and 2). So KVM needs all three: the CPU's flag, a device that opens, and
//! a probe whose code ran faster than under TCG.

use std::time::Duration;
use wire::guest::Accel;

/// What was found out about the machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Evidence {
    /// `vmx` or `svm` among the CPU's flags.
    pub cpu_flag: bool,
    /// Opening /dev/kvm: why it failed, in words with the remedy.
    pub device: Result<(), String>,
    /// The probe under KVM: how long its code took, or what went wrong. `None`: not run, a condition before it failed.
    pub kvm_probe: Option<Result<Duration, String>>,
    /// The same under TCG.
    pub tcg_probe: Option<Result<Duration, String>>,
}

/// The owner's wish.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum AccelChoice {
    /// As the evidence says.
    #[default]
    Auto,
    /// Never KVM.
    Tcg,
}

/// Decides, with a sentence for `doctor` and for adverts.
pub fn decide(choice: AccelChoice, found: &Evidence) -> (Accel, String) {
    let tcg = |why: String| (Accel::Tcg, why);
    if choice == AccelChoice::Tcg {
        return tcg("TCG: set by this machine's owner".into());
    }
    if !found.cpu_flag {
        let seen = if found.device.is_ok() {
            ", though /dev/kvm opens"
        } else {
            ""
        };
        return tcg(format!(
            "TCG: the CPU shows neither vmx nor svm{seen}; guests run translated, several times slower"
        ));
    }
    if let Err(why) = &found.device {
        return tcg(format!("TCG: {why}"));
    }
    let Some(kvm) = &found.kvm_probe else {
        return tcg("TCG: KVM was not probed".into());
    };
    let kvm = match kvm {
        Ok(took) => *took,
        Err(why) => return tcg(format!("TCG: code under KVM did not run: {why}")),
    };
    match &found.tcg_probe {
        Some(Ok(tcg_took)) if kvm >= *tcg_took => tcg(format!(
            "TCG: KVM ran the probe in {} ms, TCG in {} ms",
            kvm.as_millis(),
            tcg_took.as_millis()
        )),
        Some(Ok(tcg_took)) => (
            Accel::Kvm,
            format!(
                "KVM: ran the probe in {} ms, TCG in {} ms",
                kvm.as_millis(),
                tcg_took.as_millis()
            ),
        ),
        Some(Err(why)) => tcg(format!(
            "TCG: its own probe failed, so KVM has nothing to be compared with: {why}"
        )),
        None => tcg("TCG: it was not probed, so KVM has nothing to be compared with".into()),
    }
}

/// The CPU's virtualisation extension in the text of /proc/cpuinfo.
pub fn has_cpu_flag(cpuinfo: &str) -> bool {
    cpuinfo
        .lines()
        .filter(|l| l.starts_with("flags"))
        .any(|l| l.split_whitespace().any(|f| f == "vmx" || f == "svm"))
}

/// Loops that [`probe_sector`] spins: 40 ms of a 3 GHz core, so that the time of the work shows beside that of QEMU's
/// own start.
pub const PROBE_LOOPS: u32 = 20_000_000;

/// QEMU's exit status after the probe wrote to `isa-debug-exit`: `(0x31 << 1) | 1`.
pub const PROBE_EXIT: i32 = 99;

/// A boot sector that spins [`PROBE_LOOPS`] times in 16-bit mode with 32-bit registers, then writes 0x31 to port 0xf4.
pub fn probe_sector() -> [u8; 512] {
    let mut code = vec![0xfa, 0x66, 0xb9]; // cli; mov ecx, imm32
    code.extend_from_slice(&PROBE_LOOPS.to_le_bytes());
    code.extend_from_slice(&[0x66, 0x49]); // dec ecx
    code.extend_from_slice(&[0x75, 0xfc]); // jnz back to it
    code.extend_from_slice(&[0xb0, 0x31, 0xe6, 0xf4]); // mov al, 0x31; out 0xf4, al
    code.extend_from_slice(&[0xf4, 0xeb, 0xfd]); // hlt; jmp back to it
    let mut sector = [0u8; 512];
    for (slot, byte) in sector.iter_mut().zip(code) {
        *slot = byte;
    }
    sector[510] = 0x55;
    sector[511] = 0xaa;
    sector
}

/// The probe as a disk: 1 MiB, because firmware does not read a virtio disk of one sector.
pub fn probe_disk() -> Vec<u8> {
    let mut disk = probe_sector().to_vec();
    disk.resize(1 << 20, 0);
    disk
}

#[cfg(test)]
mod tests {
    use super::*;

    fn good() -> Evidence {
        Evidence {
            cpu_flag: true,
            device: Ok(()),
            kvm_probe: Some(Ok(Duration::from_millis(60))),
            tcg_probe: Some(Ok(Duration::from_millis(160))),
        }
    }

    #[test]
    fn kvm_needs_flag_device_and_the_faster_probe() {
        assert_eq!(decide(AccelChoice::Auto, &good()).0, Accel::Kvm);
        assert_eq!(decide(AccelChoice::Tcg, &good()).0, Accel::Tcg);
        let bad = [
            (
                Evidence {
                    cpu_flag: false,
                    ..good()
                },
                "neither vmx nor svm, though /dev/kvm opens",
            ),
            (
                Evidence {
                    device: Err("/dev/kvm: permission denied".into()),
                    ..good()
                },
                "permission denied",
            ),
            (
                Evidence {
                    kvm_probe: None,
                    ..good()
                },
                "not probed",
            ),
            (
                Evidence {
                    kvm_probe: Some(Err("no exit in 20 s".into())),
                    ..good()
                },
                "no exit in 20 s",
            ),
            (
                Evidence {
                    kvm_probe: Some(Ok(Duration::from_millis(3_500))),
                    ..good()
                },
                "3500 ms, TCG in 160 ms",
            ),
            (
                Evidence {
                    tcg_probe: None,
                    ..good()
                },
                "nothing to be compared",
            ),
            (
                Evidence {
                    tcg_probe: Some(Err("x".into())),
                    ..good()
                },
                "nothing to be compared",
            ),
        ];
        for (evidence, word) in bad {
            let (accel, why) = decide(AccelChoice::Auto, &evidence);
            assert!(accel == Accel::Tcg && why.contains(word), "{why}");
        }
    }

    #[test]
    fn the_flag_is_a_whole_word() {
        assert!(has_cpu_flag("processor: 0\nflags\t\t: fpu vmx sse\n"));
        assert!(has_cpu_flag("flags\t\t: fpu svm\n"));
        assert!(!has_cpu_flag("flags\t\t: fpu svm_lock vmxnet\nmodel name: vmx\n"));
    }

    #[test]
    fn the_probe_is_a_boot_sector() {
        let s = probe_sector();
        assert_eq!(s[510..], [0x55, 0xaa]);
        assert_eq!(s[3..7], PROBE_LOOPS.to_le_bytes());
    }
}
