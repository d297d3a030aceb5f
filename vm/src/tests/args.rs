use super::*;
use wire::{
    ids::{GuestId, ImageId, LanId, NodeId},
    mac::MacAddr,
    sign::PublicKey,
    units::ByteSize,
};

fn spec() -> GuestSpec {
    GuestSpec {
        id: GuestId::from_random([0x11; 16]),
        name: "web".parse().unwrap(),
        owner: NodeId([3; 32]),
        lan: Some(LanId {
            key: PublicKey([4; 32]),
            name: "home".parse().unwrap(),
        }),
        image: ImageId([2; 32]),
        image_ref: "debian:12".into(),
        cpus: 2,
        memory: ByteSize(512 << 20),
        disk: None,
        mac: MacAddr([2, 0, 0x5e, 0x10, 0, 1]),
    }
}

fn launch() -> Launch<'static> {
    Launch {
        machine: "pc-q35-7.2",
        accel: Accel::Tcg,
        cpu: Cpu::Model("Nehalem"),
        ram: Ram::File(9),
        disk: true,
        whole: false,
        kernel: true,
        initrd: true,
        later: false,
        cmdline: Some("console=ttyS0 root=/dev/vda, -drive file=/etc/passwd"),
        seed: false,
        incoming: false,
    }
}

#[test]
fn hardware_is_what_the_guest_sees_and_nothing_else() {
    let key = |l: &Launch<'_>| hardware(&argv(&spec(), l));
    let same = Launch {
        ram: Ram::Anonymous,
        incoming: true,
        cmdline: Some("other"),
        ..launch()
    };
    assert_eq!(key(&same), key(&launch()));
    for other in [
        Launch {
            machine: "pc-q35-8.0",
            ..launch()
        },
        Launch {
            cpu: Cpu::Host,
            ..launch()
        },
        Launch { seed: true, ..launch() },
    ] {
        assert_ne!(key(&other), key(&launch()));
    }
}

/// The whole command line, pair by pair: a change here is a change of every guest.
const GOLDEN: &str = r#"-nodefaults
-no-user-config
-name lanline-11111111-1111-4111-9111-111111111111,debug-threads=on
-uuid 11111111-1111-4111-9111-111111111111
-machine pc-q35-7.2,memory-backend=ram0,usb=off,vmport=off
-accel tcg
-cpu Nehalem
-smp 2,sockets=1,cores=2,threads=1
-m 512M
-object memory-backend-file,id=ram0,size=512M,share=on,mem-path=/proc/self/fd/9
-rtc base=utc,driftfix=slew
-display none
-S
-no-shutdown
-chardev socket,id=qmp,path=qmp.sock,server=on,wait=off
-mon chardev=qmp,mode=control
-chardev socket,id=rescue,path=rescue.sock,server=on,wait=off
-mon chardev=rescue,mode=control
-chardev socket,id=console,path=console.sock,server=on,wait=off
-serial chardev:console
-device pcie-root-port,id=rp0,chassis=1,slot=0,bus=pcie.0
-device pcie-root-port,id=rp1,chassis=2,slot=1,bus=pcie.0
-device pcie-root-port,id=rp2,chassis=3,slot=2,bus=pcie.0
-device pcie-root-port,id=rp3,chassis=4,slot=3,bus=pcie.0
-object rng-builtin,id=rng0
-device virtio-rng-pci,rng=rng0,bus=pcie.0
-device vmgenid,guid=auto
-device virtio-balloon-pci,id=balloon0,bus=pcie.0
-device VGA,id=vga0,vgamem_mb=8,bus=pcie.0
-vnc unix:display.sock
-device virtio-serial-pci,id=vser0,bus=pcie.0
-chardev socket,id=agent,path=agent.sock,server=on,wait=off
-device virtserialport,bus=vser0.0,chardev=agent,id=agent0,name=org.qemu.guest_agent.0
-blockdev {"driver":"nbd","export":"","node-name":"image","open-timeout":30,"read-only":true,"reconnect-delay":300,"server":{"path":"disk.sock","type":"unix"}}
-blockdev {"discard":"unmap","driver":"file","filename":"overlay.qcow2","node-name":"overlay-file"}
-blockdev {"backing":"image","discard":"unmap","driver":"qcow2","file":"overlay-file","node-name":"disk0"}
-device virtio-blk-pci,id=vda,drive=disk0,rerror=stop,werror=stop,bootindex=1,bus=pcie.0
-netdev stream,id=net0,server=on,addr.type=unix,addr.path=nic.sock
-device virtio-net-pci,id=nic0,netdev=net0,mac=02:00:5e:10:00:01,romfile=,bus=rp0
-kernel ../kernel
-initrd ../initrd
-append no_timer_check console=ttyS0 root=/dev/vda, -drive file=/etc/passwd
-sandbox on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny
-msg timestamp=on"#;

fn paired(argv: &[String]) -> String {
    let mut out = String::new();
    for (i, a) in argv.iter().enumerate() {
        let key = a.starts_with('-') && argv.get(i.wrapping_sub(1)).is_none_or(|p| p != "-append");
        out.push_str(if i == 0 {
            ""
        } else if key {
            "\n"
        } else {
            " "
        });
        out.push_str(a);
    }
    out
}

#[test]
fn the_whole_command_line() {
    assert_eq!(paired(&argv(&spec(), &launch())), GOLDEN);
}

#[test]
fn a_strangers_text_is_one_argument() {
    let argv = argv(&spec(), &launch());
    let at = argv.iter().position(|a| a == "-append").unwrap();
    assert_eq!(argv[at + 1], format!("no_timer_check {}", launch().cmdline.unwrap()));
    assert_eq!(argv.iter().filter(|a| a.contains("/etc/passwd")).count(), 1);
}

#[test]
fn what_the_guest_lacks_is_left_out() {
    let mut s = spec();
    s.lan = None;
    let bare = Launch {
        disk: false,
        initrd: false,
        cmdline: None,
        accel: Accel::Kvm,
        cpu: Cpu::Host,
        ..launch()
    };
    let line = argv(&s, &bare).join(" ");
    for absent in ["netdev", "virtio-net", "blockdev", "virtio-blk", "-initrd", "-append"] {
        assert!(!line.contains(absent), "{absent}");
    }
    assert!(line.contains("-accel kvm -cpu host"));
    let firmware = argv(
        &s,
        &Launch {
            kernel: false,
            ..launch()
        },
    )
    .join(" ");
    let later = argv(
        &s,
        &Launch {
            kernel: false,
            later: true,
            ..launch()
        },
    )
    .join(" ");
    assert!(later.contains("-action reboot=shutdown") && !later.contains("-kernel") && !firmware.contains("-action"));
    assert!(!firmware.contains("-kernel") && !firmware.contains("-initrd") && !firmware.contains("-append"));
}

#[test]
fn a_whole_disk_has_nothing_under_it_and_is_the_same_hardware() {
    let whole = Launch {
        whole: true,
        ..launch()
    };
    let (line, other) = (argv(&spec(), &whole), argv(&spec(), &launch()));
    assert!(!line.join(" ").contains("nbd") && other.join(" ").contains("nbd"));
    let disk = line.iter().find(|a| a.contains("\"disk0\"")).unwrap();
    assert!(disk.contains("\"backing\":null"), "{disk}");
    assert_eq!(hardware(&line), hardware(&other));
}

#[test]
fn the_machine_type_is_the_pinned_one_or_the_newest() {
    let help = "Supported machines are:\npc-q35-10.0 x\npc-q35-7.2  x\nq35 x (alias of pc-q35-10.0)\nmicrovm x\n";
    assert_eq!(choose_machine(help).as_deref(), Some("pc-q35-7.2"));
    let newer = "pc-q35-9.2 x\npc-q35-10.0 x\npc-q35-10.0.1 x\npc-i440fx-11.0 x\npc-q35-rhel9 x\n";
    assert_eq!(choose_machine(newer).as_deref(), Some("pc-q35-10.0.1"));
    assert_eq!(choose_machine("none empty machine\n"), None);
}
