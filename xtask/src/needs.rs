//! What `demo` and `test` need beyond a Rust toolchain, and the Debian or Ubuntu package that gives it.

/// One tool.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Need {
    /// Program to look for in PATH and the sbin folders.
    pub tool: &'static str,
    /// Package that has it.
    pub package: &'static str,
    /// What it is for.
    pub for_what: &'static str,
    /// False if all works without it, with less to show.
    pub required: bool,
}

/// Everything, in the order in which it is shown.
pub const NEEDS: [Need; 14] = [
    need("cc", "gcc", "builds the C parts of two libraries"),
    need("qemu-system-x86_64", "qemu-system-x86", "runs guests"),
    need("qemu-img", "qemu-utils", "makes and checks guests' disks"),
    need("dnsmasq", "dnsmasq-base", "the home LAN's own DHCP server"),
    need("ip", "iproute2", "makes the lab's namespaces and bridges"),
    need("nft", "nftables", "makes the lab's routers"),
    need("setpriv", "util-linux", "runs the lending host's node without rights"),
    need(
        "busybox",
        "busybox-static",
        "the guest's programs, and the laptop's DHCP client",
    ),
    need("mkfs.ext4", "e2fsprogs", "makes the guest's disk"),
    need("cpio", "cpio", "packs the guests of vm's own tests"),
    Need {
        required: false,
        ..need(
            "qemu-ga",
            "qemu-guest-agent",
            "exec, cp and saves of the lab's guests with an agent",
        )
    },
    need("depmod", "kmod", "orders the guest's kernel modules"),
    need("xz", "xz-utils", "unpacks the guest's kernel modules"),
    Need {
        required: false,
        ..need("tcpdump", "tcpdump", "captures of a failed test")
    },
];

const fn need(tool: &'static str, package: &'static str, for_what: &'static str) -> Need {
    Need {
        tool,
        package,
        for_what,
        required: true,
    }
}

/// How this system installs packages, from `/etc/os-release`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum System {
    /// Debian, Ubuntu and what calls itself like them.
    Apt,
    /// Another; xtask only says what to install.
    Other,
}

/// Reads `/etc/os-release`.
pub fn system(os_release: &str) -> System {
    let ids = os_release
        .lines()
        .filter_map(|l| l.strip_prefix("ID=").or_else(|| l.strip_prefix("ID_LIKE=")));
    let mut words = ids.flat_map(|v| v.trim_matches('"').split(' '));
    if words.any(|w| w == "debian" || w == "ubuntu") {
        System::Apt
    } else {
        System::Other
    }
}

/// The packages that give what is missing, each once, in order.
pub fn packages(missing: &[Need]) -> Vec<&'static str> {
    let mut out: Vec<&'static str> = Vec::new();
    for n in missing {
        if !out.contains(&n.package) {
            out.push(n.package);
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn systems_are_told_apart() {
        assert_eq!(system("NAME=x\nID=debian\n"), System::Apt);
        assert_eq!(system("ID=linuxmint\nID_LIKE=\"ubuntu debian\"\n"), System::Apt);
        assert_eq!(system("ID=fedora\nID_LIKE=\"rhel\"\n"), System::Other);
        assert_eq!(system(""), System::Other);
    }

    #[test]
    fn a_package_is_listed_once() {
        let twice = [NEEDS[0], NEEDS[0], NEEDS[1]];
        assert_eq!(packages(&twice), ["gcc", "qemu-system-x86"]);
    }
}
