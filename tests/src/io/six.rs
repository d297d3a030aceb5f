//! Lines of IPv6 alone.

use super::lab::{Lab, Machine};
use anyhow::Result;
use std::net::Ipv6Addr;

impl Lab {
    /// Takes IPv4 off a machine's line and gives it IPv6 in its place. Its address there.
    pub fn ipv6_only(&self, m: &Machine) -> Result<Ipv6Addr> {
        let [_, _, n, _] = m.addr.octets();
        let at = |host: u16| Ipv6Addr::new(0xfd4c, 0x6c6c, 0, u16::from(n), 0, 0, 0, host);
        let (far_if, net) = (format!("link{n}"), self.internet());
        net.sysctl("ipv6/conf/all/forwarding", "1")?;
        for (ns, dev, addr) in [(&m.ns, "wan0", at(2)), (net, far_if.as_str(), at(1))] {
            ns.ip(&["-4", "addr", "flush", "dev", dev])?;
            ns.ip(&["-6", "addr", "add", &format!("{addr}/64"), "dev", dev, "nodad"])?;
        }
        m.ns.ip(&["-6", "route", "add", "default", "via", &at(1).to_string()])?;
        Ok(at(2))
    }
}
