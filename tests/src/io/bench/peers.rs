//! How each peer is set up: as its own documentation says, with what this topology needs beside it.

use super::{
    products::Up,
    site::{Side, Site},
};
use crate::io::sh;
use anyhow::{Context, Result, bail};
use serde_json::{Value, json};
use std::{fs, process::Command, time::Duration};

/// Runs a tool of a product outside any namespace and gives what it prints.
fn tool(program: &str, args: &[&str]) -> Result<String> {
    let mut c = Command::new(super::site::find(program)?);
    c.args(args);
    Ok(sh::run_within(c, Duration::from_secs(30))?
        .ok()?
        .stdout
        .trim()
        .to_owned())
}

/// AES-128 of its own choice. It panics without a default route, and its `--ip` sets a wrong address on new kernels.
pub fn vpncloud(site: &Site) -> Result<Up> {
    for side in Side::BOTH {
        site.ns(side)
            .ip(&["route", "add", "default", "via", side.other().under()])?;
        let listen = format!("{}:3210", side.under());
        let peer = format!("{}:3210", side.other().under());
        let mut args = vec!["--type", "tap", "--device", "t0", "--mode", "switch", "--password", "x"];
        args.extend(["--listen", &listen, "--no-port-forwarding"]);
        if side == Side::Host {
            args.extend(["--peer", &peer]);
        }
        site.spawn(side, "vpncloud", &args)?;
    }
    for side in Side::BOTH {
        site.wait_device(side, "t0")?;
    }
    // It sets its own address late.
    sh::pause(Duration::from_secs(1));
    site.address("t0")?;
    Ok(Up::settled(1_000))
}

/// Version 1.0, switch mode, its default cipher and digest. Until it knows the path MTU it sends through TCP.
pub fn tinc(site: &Site) -> Result<Up> {
    let folder = |side: Side| site.dir().join(format!("tinc-{}", side.name()));
    for side in Side::BOTH {
        let dir = folder(side);
        fs::create_dir_all(dir.join("hosts"))?;
        let other = side.other().name();
        let conf = format!(
            "Name={}\nMode=switch\nDeviceType=tap\nInterface=t0\nAddressFamily=ipv4\nConnectTo={other}\n",
            side.name()
        );
        fs::write(dir.join("tinc.conf"), conf)?;
        fs::write(
            dir.join("hosts").join(side.name()),
            format!("Address={}\n", side.under()),
        )?;
        // It asks where to put both keys; without an input it takes its defaults, which are right.
        tool("tincd", &["-c", &dir.to_string_lossy(), "-K2048"])?;
    }
    for side in Side::BOTH {
        let name = side.other().name();
        fs::copy(
            folder(side.other()).join("hosts").join(name),
            folder(side).join("hosts").join(name),
        )?;
    }
    for side in Side::BOTH {
        let dir = folder(side);
        let pid = format!("--pidfile={}", dir.join("pid").display());
        site.spawn(side, "tincd", &["-c", &dir.to_string_lossy(), "-D", &pid])?;
    }
    site.address("t0")?;
    Ok(Up::settled(8_000))
}

/// Its recommended method for speed, salsa2012+umac.
pub fn fastd(site: &Site) -> Result<Up> {
    let mut keys = Vec::new();
    for side in Side::BOTH {
        let secret = tool("fastd", &["--generate-key", "--machine-readable"])?;
        let file = site.file(
            &format!("fastd-{}.key", side.name()),
            &format!("secret \"{secret}\";\n"),
        )?;
        keys.push((
            secret,
            tool("fastd", &["-c", &file, "--show-key", "--machine-readable"])?,
        ));
    }
    for (i, side) in Side::BOTH.into_iter().enumerate() {
        let (secret, public) = (&keys[i].0, &keys[1 - i].1);
        let (here, there) = (side.under(), side.other().under());
        let conf = format!(
            "mode tap; interface \"t0\"; method \"salsa2012+umac\"; mtu 1426; secret \"{secret}\"; bind {here}:10000; log \
             level warn; peer \"{}\" {{ key \"{public}\"; remote {there}:10000; }}\n",
            side.other().name()
        );
        let file = site.file(&format!("fastd-{}.conf", side.name()), &conf)?;
        site.spawn(side, "fastd", &["-c", &file])?;
    }
    site.address("t0")?;
    Ok(Up::settled(2_000))
}

/// TAP over UDP with TLS and AES-128-GCM, its data channel in user space.
pub fn openvpn(site: &Site) -> Result<Up> {
    let pem = |side: Side, kind: &str| {
        site.dir()
            .join(format!("{}.{kind}", side.name()))
            .to_string_lossy()
            .into_owned()
    };
    let mut prints = Vec::new();
    for side in Side::BOTH {
        let (key, cert) = (pem(side, "key"), pem(side, "crt"));
        let subject = format!("/CN={}", side.name());
        let mut args = vec![
            "req",
            "-x509",
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:prime256v1",
            "-nodes",
        ];
        args.extend(["-keyout", &key, "-out", &cert, "-subj", &subject, "-days", "30"]);
        tool("openssl", &args)?;
        let said = tool("openssl", &["x509", "-in", &cert, "-noout", "-fingerprint", "-sha256"])?;
        prints.push(
            said.split_once('=')
                .context("openssl printed no fingerprint")?
                .1
                .to_owned(),
        );
    }
    for (i, side) in Side::BOTH.into_iter().enumerate() {
        let (key, cert) = (pem(side, "key"), pem(side, "crt"));
        let mut args = vec!["--dev", "t0", "--dev-type", "tap", "--proto", "udp", "--verb", "1"];
        args.extend([
            "--data-ciphers",
            "AES-128-GCM:AES-256-GCM",
            "--sndbuf",
            "1048576",
            "--rcvbuf",
            "1048576",
        ]);
        args.extend(["--cert", &cert, "--key", &key, "--peer-fingerprint", &prints[1 - i]]);
        args.extend(["--ifconfig", side.over(), "255.255.255.0"]);
        match side {
            Side::Home => args.extend(["--local", side.under(), "--tls-server", "--dh", "none"]),
            Side::Host => args.extend(["--remote", side.other().under(), "--tls-client"]),
        }
        site.spawn(side, "openvpn", &args)?;
    }
    Ok(Up::settled(2_000))
}

/// Version 1, the one that Debian packages; Twofish.
pub fn n2n(site: &Site) -> Result<Up> {
    site.spawn(Side::Home, "supernode", &["-l", "7654"])?;
    sh::pause(Duration::from_millis(300));
    let supernode = format!("{}:7654", Side::Home.under());
    for side in Side::BOTH {
        let args = [
            "-d",
            "t0",
            "-a",
            side.over(),
            "-c",
            "c",
            "-k",
            "k",
            "-l",
            &supernode,
            "-p",
            "7655",
        ];
        site.spawn(side, "edge", &args)?;
    }
    Ok(Up::settled(2_000))
}

/// No encryption, one frame a datagram, one thread: what user space costs at least without tricks.
pub fn socat(site: &Site) -> Result<Up> {
    for side in Side::BOTH {
        let udp = format!("UDP4-DATAGRAM:{}:7000,bind={}:7000", side.other().under(), side.under());
        let tun = format!("TUN:{}/24,tun-type=tap,tun-name=t0,iff-no-pi,iff-up", side.over());
        site.spawn(side, "socat", &["-b", "2000", &udp, &tun])?;
    }
    for side in Side::BOTH {
        site.wait_device(side, "t0")?;
        site.ns(side).ip(&["link", "set", "t0", "mtu", "1458"])?;
    }
    Ok(Up::settled(500))
}

/// AES, with the batches and buffers that its documentation advises for speed.
pub fn nebula(site: &Site) -> Result<Up> {
    let path = |name: &str| site.dir().join(name).to_string_lossy().into_owned();
    let (ca, ca_key) = (path("ca.crt"), path("ca.key"));
    tool(
        "nebula-cert",
        &["ca", "-name", "ca", "-out-crt", &ca, "-out-key", &ca_key],
    )?;
    for side in Side::BOTH {
        let (name, ip) = (side.name(), format!("{}/24", side.over()));
        let (crt, key) = (path(&format!("{name}.crt")), path(&format!("{name}.key")));
        let mut args = vec!["sign", "-ca-crt", &ca, "-ca-key", &ca_key, "-name", name, "-ip", &ip];
        args.extend(["-out-crt", &crt, "-out-key", &key]);
        tool("nebula-cert", &args)?;
        let any = json!([{ "port": "any", "proto": "any", "host": "any" }]);
        let lighthouses = if side == Side::Host {
            vec![Side::Home.over()]
        } else {
            vec![]
        };
        // YAML reads JSON.
        let conf = json!({
            "pki": { "ca": ca, "cert": crt, "key": key },
            "static_host_map": {
                Side::Home.over(): [format!("{}:4242", Side::Home.under())],
                Side::Host.over(): [format!("{}:4242", Side::Host.under())],
            },
            "lighthouse": { "am_lighthouse": side == Side::Home, "hosts": lighthouses },
            "listen": { "host": "0.0.0.0", "port": 4242, "batch": 64, "read_buffer": 4_000_000, "write_buffer": 4_000_000 },
            "tun": { "dev": "t0", "mtu": 1420, "tx_queue": 500 },
            "cipher": "aes",
            "firewall": { "outbound": any, "inbound": any },
        });
        let file = site.file(&format!("nebula-{name}.yml"), &conf.to_string())?;
        site.spawn(side, "nebula", &["-config", &file])?;
    }
    Ok(Up::settled(1_500))
}

/// Cloudflare's WireGuard in user space.
pub fn boringtun(site: &Site) -> Result<Up> {
    wireguard(site, &["boringtun-cli", "-f", "--disable-drop-privileges"])
}

/// The reference WireGuard in user space.
pub fn wireguard_go(site: &Site) -> Result<Up> {
    wireguard(site, &["wireguard-go", "-f"])
}

/// A WireGuard in user space that takes the interface's name last and speaks wg(8)'s socket. Those sockets lie in one
/// folder for all namespaces: the names differ by side.
fn wireguard(site: &Site, program: &[&str]) -> Result<Up> {
    let [first, rest @ ..] = program else {
        bail!("no program");
    };
    let dev = |side: Side| format!("lbwg-{}", side.name());
    let mut keys = Vec::new();
    for side in Side::BOTH {
        let secret = site.file(&format!("wg-{}.key", side.name()), &tool("wg", &["genkey"])?)?;
        let public = sh::run("sh", &["-c", &format!("wg pubkey <{secret}")])?
            .trim()
            .to_owned();
        keys.push((secret, public));
        let name = dev(side);
        fs::remove_file(format!("/var/run/wireguard/{name}.sock")).ok(); // Usually there is none.
        site.spawn(side, first, &[rest, &[&name]].concat())?;
    }
    for (i, side) in Side::BOTH.into_iter().enumerate() {
        let name = dev(side);
        site.wait_device(side, &name)?;
        let (ip, end) = (
            format!("{}/32", side.other().over()),
            format!("{}:51820", side.other().under()),
        );
        let mut args = vec![
            "set",
            &name,
            "listen-port",
            "51820",
            "private-key",
            &keys[i].0,
            "peer",
            &keys[1 - i].1,
        ];
        args.extend(["allowed-ips", &ip, "endpoint", &end]);
        sh::eventually(Duration::from_secs(10), "wg(8) to reach the program", || {
            site.ns(side).run("wg", &args).map(Some)
        })?;
        let ns = site.ns(side);
        ns.ip(&["link", "set", &name, "mtu", "1420", "up"])?;
        ns.ip(&["addr", "replace", &format!("{}/24", side.over()), "dev", &name])?;
    }
    Ok(Up::settled(500))
}

/// One TCP connection between the two; its addresses follow from its keys.
pub fn yggdrasil(site: &Site) -> Result<Up> {
    let home = format!("tcp://{}:9001", Side::Home.under());
    let mut server = String::new();
    for side in Side::BOTH {
        let mut conf: Value = serde_json::from_str(&tool("yggdrasil", &["-genconf", "-json"])?)?;
        let admin = format!("unix://{}/ygg-{}.sock", site.dir().display(), side.name());
        let (listen, peers) = match side {
            Side::Home => (vec![home.as_str()], vec![]),
            Side::Host => (vec![], vec![home.as_str()]),
        };
        for (key, value) in [
            ("Listen", json!(listen)),
            ("Peers", json!(peers)),
            ("MulticastInterfaces", json!([])),
            ("IfName", json!("t0")),
            ("AdminListen", json!(admin)),
        ] {
            conf[key] = value;
        }
        let file = site.file(&format!("ygg-{}.json", side.name()), &conf.to_string())?;
        if side == Side::Home {
            server = tool("yggdrasil", &["-useconffile", &file, "-address"])?;
        }
        site.spawn(side, "yggdrasil", &["-useconffile", &file])?;
    }
    Ok(Up {
        server,
        ..Up::settled(1_500)
    })
}

/// Not measured: two nodes only find each other through its root servers, which no namespace of ours reaches.
pub fn zerotier(_: &Site) -> Result<Up> {
    bail!("its nodes meet through root servers on the internet; there is none in the benchmark's namespaces")
}
