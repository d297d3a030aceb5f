//! Who else looks after an interface: programs that would fight a change of ours, or that renew its address.

use crate::attach::holdings::Holdings;
use std::{fs, path::Path};

/// A program that manages an interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Manager {
    /// Its name.
    pub name: &'static str,
    /// How to make a bridge that lasts with it.
    pub advice: String,
    /// It acts on the interface while it runs; otherwise it only sets it up at the next boot.
    pub acts: bool,
}

/// Wireless stations cannot be ports of a bridge: the access point takes frames from the station's own address alone.
pub fn is_wireless(interface: &str) -> bool {
    let dir = Path::new("/sys/class/net").join(interface);
    dir.join("wireless").exists() || dir.join("phy80211").exists()
}

/// The program that manages it, if one says so in `root`/run or `root`/etc; `root` is `/` but in tests.
pub fn manager(root: &Path, h: &Holdings) -> Option<Manager> {
    let i = &h.interface;
    let read = |p: String| fs::read_to_string(root.join(p)).unwrap_or_default();
    if read(format!("run/NetworkManager/devices/{}", h.index)).contains("managed=true") {
        return Some(Manager {
            name: "NetworkManager",
            advice: format!(
                "nmcli con add type bridge ifname lanbr0 con-name lanbr0 bridge.stp no; nmcli con add type ethernet ifname {i} master lanbr0; nmcli con up lanbr0"
            ),
            acts: true,
        });
    }
    let networkd = read(format!("run/systemd/netif/links/{}", h.index));
    let says = |key: &str| networkd.lines().find_map(|l| l.strip_prefix(key)).map(str::to_owned);
    if !networkd.is_empty() && says("ADMIN_STATE=").is_some_and(|s| s != "unmanaged") {
        return Some(Manager {
            name: "systemd-networkd",
            advice: format!(
                "a lanbr0.netdev of Kind=bridge, Bridge=lanbr0 in {}, and its addresses in a .network for lanbr0 (netplan: bridges: lanbr0: interfaces: [{i}]); then networkctl reload",
                says("NETWORK_FILE=").unwrap_or_else(|| format!("the .network file of {i}"))
            ),
            acts: true,
        });
    }
    let file = read("etc/network/interfaces".to_owned());
    let named = file
        .lines()
        .map(|l| l.split_whitespace().collect::<Vec<_>>())
        .any(|w| matches!(w.as_slice(), ["iface", name, ..] if name == i));
    named.then(|| Manager {
        name: "ifupdown",
        advice: format!(
            "in /etc/network/interfaces: 'iface lanbr0 inet ...' with 'bridge_ports {i}' in place of 'iface {i}'"
        ),
        acts: false,
    })
}

/// The IPv4 address that a DHCP client got and must renew, with the seconds that it is good for.
pub fn leased(h: &Holdings) -> Option<(String, u32)> {
    let hit = |a: &&crate::attach::holdings::Addr| !a.v6 && a.valid_s().is_some();
    let addr = h.addrs.iter().find(hit)?;
    Some((addr.text.clone(), addr.valid_s()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn held() -> Holdings {
        Holdings {
            interface: "eth0".into(),
            index: 2,
            mac: [2, 0, 0, 0, 0, 1],
            mtu: 1_500,
            addrs: Vec::new(),
            routes: Vec::new(),
            knobs: Vec::new(),
            at: 0,
        }
    }

    #[test]
    fn each_manager_is_found_by_what_it_writes() {
        let dir = tempfile::tempdir().unwrap();
        let put = |p: &str, text: &str| {
            let p = dir.path().join(p);
            fs::create_dir_all(p.parent().unwrap()).unwrap();
            fs::write(p, text).unwrap();
        };
        assert_eq!(manager(dir.path(), &held()), None);
        put("etc/network/interfaces", "auto lo\niface lo inet loopback\n");
        assert_eq!(manager(dir.path(), &held()), None);
        put("etc/network/interfaces", "auto eth0\niface  eth0 inet dhcp\n");
        let m = manager(dir.path(), &held()).unwrap();
        assert_eq!((m.name, m.acts), ("ifupdown", false));
        put("run/systemd/netif/links/2", "ADMIN_STATE=unmanaged\n");
        assert_eq!(manager(dir.path(), &held()).unwrap().name, "ifupdown");
        put(
            "run/systemd/netif/links/2",
            "ADMIN_STATE=configured\nNETWORK_FILE=/etc/systemd/network/a.network\n",
        );
        let m = manager(dir.path(), &held()).unwrap();
        assert!(m.name == "systemd-networkd" && m.advice.contains("a.network"), "{m:?}");
        put("run/NetworkManager/devices/2", "[device]\nmanaged=true\n");
        assert_eq!(manager(dir.path(), &held()).unwrap().name, "NetworkManager");
    }
}
