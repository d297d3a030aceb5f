//! A home: a router machine whose `br0` is the LAN, its own DHCP server (dnsmasq), and a laptop on that LAN.

use super::{
    lab::{Lab, Machine},
    netns::{Netns, RunAs},
    sh,
};
use crate::{defaults, netem::Params};
use anyhow::{Context, Result, bail};
use std::{
    fs::{self, File},
    io::{Read, Write},
    net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream},
    path::{Path, PathBuf},
    process::Stdio,
    sync::Arc,
    time::Duration,
};

/// The home; made by [`Lab::home`].
pub struct Home {
    /// The router, on which the home's node runs too. Its `br0` is the LAN.
    pub machine: Arc<Machine>,
    /// A laptop on the LAN; it knows nothing of lanline.
    pub laptop: Netns,
    /// The laptop's address, given by the DHCP server.
    pub laptop_addr: Ipv4Addr,
    /// What dnsmasq writes its leases to.
    pub lease_file: PathBuf,
}

/// One line of dnsmasq's lease file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lease {
    /// Hardware address, lower case with colons.
    pub mac: String,
    /// Address given.
    pub ip: IpAddr,
    /// Name that the client sent, or `*`.
    pub host_name: String,
}

/// What a page said.
#[derive(Debug, Clone)]
pub struct Page {
    /// HTTP status.
    pub status: u16,
    /// Everything after the headers.
    pub body: String,
}

impl Home {
    /// Builds it; use [`Lab::home`].
    pub(super) fn new(lab: &mut Lab, params: &Params) -> Result<Self> {
        let machine = lab.machine("home", params)?;
        let laptop = lab.namespace("laptop")?;
        let [a, b, c] = defaults::HOME_PREFIX;
        let ns = &machine.ns;
        ns.ip(&[
            "link",
            "add",
            "br0",
            "type",
            "bridge",
            "stp_state",
            "0",
            "forward_delay",
            "0",
        ])?;
        ns.ip(&["addr", "add", &format!("{a}.{b}.{c}.1/24"), "dev", "br0"])?;
        ns.ip(&["link", "set", "br0", "up"])?;
        ns.ip(&[
            "link",
            "add",
            "lan0",
            "type",
            "veth",
            "peer",
            "name",
            "eth0",
            "netns",
            laptop.name(),
        ])?;
        ns.ip(&["link", "set", "lan0", "master", "br0", "up"])?;
        laptop.ip(&["link", "set", "eth0", "up"])?;
        ns.sysctl("ipv4/ip_forward", "1")?;
        ns.nft(
            lab.dir(),
            "table ip home {\n  chain post {\n    type nat hook postrouting priority srcnat;\n    oifname wan0 \
             masquerade\n  }\n}\n",
        )?;
        let lease_file = lab.dir().join("dnsmasq.leases");
        start_dnsmasq(ns, lab.dir(), &lease_file)?;
        let laptop_addr = lease_for_laptop(&laptop, lab.dir())?;
        Ok(Self {
            machine,
            laptop,
            laptop_addr,
            lease_file,
        })
    }

    /// The leases that the home's DHCP server has given out.
    pub fn leases(&self) -> Result<Vec<Lease>> {
        let text = fs::read_to_string(&self.lease_file).unwrap_or_default();
        text.lines()
            .filter(|l| !l.starts_with("duid"))
            .map(parse_lease)
            .collect()
    }

    /// One ping from the laptop: its round trip, or `None` without an answer within a second.
    pub fn ping(&self, ip: IpAddr) -> Result<Option<Duration>> {
        let mut c = self.laptop.command(Path::new("busybox"), RunAs::Root)?;
        c.args(["ping", "-c", "1", "-W", "1", &ip.to_string()]);
        let out = sh::run_within(c, Duration::from_secs(5))?;
        if out.code != 0 {
            return Ok(None);
        }
        let ms = out.stdout.split("time=").nth(1).and_then(|t| t.split(' ').next());
        let ms: f64 = ms.context("ping answered without a time")?.parse()?;
        Ok(Some(Duration::from_secs_f64(ms / 1_000.0)))
    }

    /// Loads `http://IP{path}` from the laptop.
    pub fn fetch(&self, ip: IpAddr, path: &str, limit: Duration) -> Result<Page> {
        let request = format!("GET {path} HTTP/1.0\r\nHost: {ip}\r\n\r\n");
        let raw = self.laptop.enter(move || {
            let mut s = TcpStream::connect_timeout(&SocketAddr::new(ip, 80), limit)?;
            s.set_read_timeout(Some(limit))?;
            s.write_all(request.as_bytes())?;
            let mut raw = Vec::new();
            s.read_to_end(&mut raw)?;
            Ok(raw)
        })?;
        parse_page(&String::from_utf8_lossy(&raw))
    }
}

fn start_dnsmasq(ns: &Netns, dir: &Path, leases: &Path) -> Result<()> {
    let [a, b, c] = defaults::HOME_PREFIX;
    let log = dir.join("dnsmasq.log");
    let mut cmd = ns.command(&sh::tool("dnsmasq").context("dnsmasq is missing")?, RunAs::Root)?;
    cmd.args([
        "--keep-in-foreground",
        "--conf-file=/dev/null",
        "--port=0",
        "--user=root",
    ]);
    cmd.args([
        "--interface=br0",
        "--bind-interfaces",
        "--dhcp-authoritative",
        "--log-dhcp",
    ]);
    // The test of each address by ping before it is offered would add 3 s to every first lease.
    cmd.arg("--no-ping");
    cmd.arg(format!("--dhcp-range={a}.{b}.{c}.50,{a}.{b}.{c}.150,255.255.255.0,1h"));
    cmd.arg(format!("--dhcp-leasefile={}", leases.display()));
    cmd.arg("--pid-file=").arg("--log-facility=-");
    let out = File::create(&log)?;
    let err = out.try_clone()?;
    let mut child = cmd.stdin(Stdio::null()).stdout(out).stderr(err).spawn()?;
    sh::until(Duration::from_secs(5), "dnsmasq to start", || {
        let said = fs::read_to_string(&log)?;
        if let Some(status) = child.try_wait()? {
            bail!("dnsmasq ended with {status}: {said}");
        }
        Ok(said.contains("started").then_some(()))
    })
}

/// What udhcpc calls with the lease; the laptop needs an address and a way out.
const UDHCPC_SCRIPT: &str = "#!/bin/sh
case \"$1\" in
bound|renew)
    busybox ip addr replace \"$ip/$mask\" dev \"$interface\"
    busybox ip route replace default via \"$router\" dev \"$interface\"
    echo \"$ip\" > \"$LEASE_OUT\"
    ;;
esac
";

fn lease_for_laptop(laptop: &Netns, dir: &Path) -> Result<Ipv4Addr> {
    use std::os::unix::fs::PermissionsExt;
    let script = dir.join("udhcpc.sh");
    let out = dir.join("laptop.ip");
    fs::write(&script, UDHCPC_SCRIPT)?;
    fs::set_permissions(&script, fs::Permissions::from_mode(0o755))?;
    let mut c = laptop.command(Path::new("busybox"), RunAs::Root)?;
    c.args([
        "udhcpc",
        "-f",
        "-q",
        "-n",
        "-i",
        "eth0",
        "-x",
        "hostname:laptop",
        "-t",
        "10",
        "-T",
        "1",
        "-s",
    ]);
    c.arg(&script).env("LEASE_OUT", &out);
    sh::run_within(c, Duration::from_secs(20))?.ok()?;
    let ip = fs::read_to_string(&out).context("the laptop got no lease")?;
    ip.trim().parse().with_context(|| format!("lease of the laptop: {ip}"))
}

/// `EXPIRY MAC IP NAME CLIENT-ID`, dnsmasq(8) under dhcp-leasefile.
fn parse_lease(line: &str) -> Result<Lease> {
    let words: Vec<&str> = line.split_whitespace().collect();
    let [_, mac, ip, name, ..] = words.as_slice() else {
        bail!("lease file has the line '{line}'");
    };
    Ok(Lease {
        mac: mac.to_ascii_lowercase(),
        ip: ip.parse()?,
        host_name: (*name).to_owned(),
    })
}

fn parse_page(raw: &str) -> Result<Page> {
    let (head, body) = raw
        .split_once("\r\n\r\n")
        .context("an HTTP answer without end of headers")?;
    let status = head.split(' ').nth(1).context("an HTTP answer without a status")?;
    Ok(Page {
        status: status.parse()?,
        body: body.to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lease_line_is_read_and_a_broken_one_refused() {
        let l = parse_lease("1700003600 52:54:00:AA:bb:01 192.168.77.51 web 01:52:54:00:aa:bb:01").unwrap();
        assert_eq!(l.mac, "52:54:00:aa:bb:01");
        assert_eq!(l.ip.to_string(), "192.168.77.51");
        assert_eq!(l.host_name, "web");
        assert!(parse_lease("1700003600 52:54:00:aa:bb:01").is_err());
    }

    #[test]
    fn a_page_is_split_from_its_headers() {
        let p = parse_page("HTTP/1.1 200 OK\r\nContent-type: text/html\r\n\r\nhello\r\n\r\nworld").unwrap();
        assert_eq!((p.status, p.body.as_str()), (200, "hello\r\n\r\nworld"));
        assert!(parse_page("HTTP/1.1 200").is_err());
    }
}
