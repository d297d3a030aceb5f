//! The products: ours, the kernel's, and where the peers' set-ups are.

use super::{
    peers,
    site::{Side, Site, find},
};
use crate::{
    bench::metrics::Layer,
    io::{node, sh},
};
use anyhow::{Context, Result, bail};
use std::time::Duration;

/// Something to measure.
pub struct Product {
    /// What it is called on the command line and in tables.
    pub name: &'static str,
    /// What it carries.
    pub layer: Layer,
    /// Programs without which it is absent.
    pub needs: &'static [&'static str],
    /// Starts it on a site.
    pub up: fn(&Site) -> Result<Up>,
}

/// A product that was started.
pub struct Up {
    /// The home's address inside the tunnel.
    pub server: String,
    /// How long it needs, after the first ping, until it does what it does for good.
    pub settle: Duration,
}

impl Up {
    /// At the usual address, settled after `ms`.
    pub(super) fn settled(ms: u64) -> Self {
        Self {
            server: Side::Home.over().to_owned(),
            settle: Duration::from_millis(ms),
        }
    }
}

const fn product(
    name: &'static str,
    layer: Layer,
    needs: &'static [&'static str],
    up: fn(&Site) -> Result<Up>,
) -> Product {
    Product { name, layer, needs, up }
}

/// All of them, in the order of the table.
pub const PRODUCTS: [Product; 14] = [
    product("veth", Layer::Raw, &[], veth),
    product("vxlan", Layer::Kernel, &[], vxlan),
    product("lanline", Layer::L2, &[], lanline),
    product("vpncloud", Layer::L2, &["vpncloud"], peers::vpncloud),
    product("tinc", Layer::L2, &["tincd"], peers::tinc),
    product("fastd", Layer::L2, &["fastd"], peers::fastd),
    product("openvpn", Layer::L2, &["openvpn", "openssl"], peers::openvpn),
    product("n2n", Layer::L2, &["edge", "supernode"], peers::n2n),
    product("socat", Layer::L2, &["socat"], peers::socat),
    product("nebula", Layer::L3, &["nebula", "nebula-cert"], peers::nebula),
    product("boringtun", Layer::L3, &["boringtun-cli", "wg"], peers::boringtun),
    product("wireguard-go", Layer::L3, &["wireguard-go", "wg"], peers::wireguard_go),
    product("yggdrasil", Layer::L3, &["yggdrasil"], peers::yggdrasil),
    product(
        "zerotier",
        Layer::L2,
        &["zerotier-one", "zerotier-idtool"],
        peers::zerotier,
    ),
];

/// True if its programs are on this machine.
pub fn is_installed(p: &Product) -> bool {
    p.needs.iter().all(|n| find(n).is_ok())
}

fn veth(_: &Site) -> Result<Up> {
    Ok(Up {
        server: Side::Home.under().to_owned(),
        ..Up::settled(200)
    })
}

fn vxlan(site: &Site) -> Result<Up> {
    vxlan_links(site)?;
    site.address("vx0")?;
    Ok(Up::settled(200))
}

/// The kernel's tunnel at both ends, `vx0`, without addresses.
pub(super) fn vxlan_links(site: &Site) -> Result<()> {
    for side in Side::BOTH {
        let (local, remote) = (side.under(), side.other().under());
        site.ns(side).ip(&[
            "link", "add", "vx0", "type", "vxlan", "id", "42", "local", local, "remote", remote, "dstport", "4789",
            "dev", "u0",
        ])?;
    }
    Ok(())
}

/// Two nodes with a TAP each, as a person would set them up.
fn lanline(site: &Site) -> Result<Up> {
    lanline_nodes(site)?;
    for side in Side::BOTH {
        cli(site, side, &["lan", "attach", "bench", "--tap", "t0"])?;
    }
    site.address("t0")?;
    Ok(Up::settled(1_500))
}

/// Two nodes in one LAN called `bench`, without ports yet.
pub(super) fn lanline_nodes(site: &Site) -> Result<()> {
    let bin = node::binary()?.canonicalize().context("no lanline to measure")?;
    let bin = bin.to_string_lossy();
    for side in Side::BOTH {
        let state = state(site, side);
        std::fs::create_dir_all(&state)?;
        let args = [
            "up",
            "--state",
            &state,
            "--listen",
            "0.0.0.0:7000",
            "--name",
            side.name(),
        ];
        site.spawn(side, &bin, &args)?;
    }
    for side in Side::BOTH {
        sh::until(Duration::from_secs(20), "lanline to be ready", || {
            site.all_live()?;
            Ok(site.said(side).contains("lanline: ready").then_some(()))
        })?;
    }
    cli(site, Side::Home, &["lan", "create", "bench"])?;
    let ticket = cli(site, Side::Home, &["lan", "invite", "bench"])?;
    cli(site, Side::Host, &["join", ticket.trim()])?;
    Ok(())
}

/// Runs a verb of ours against the node of a side.
pub(super) fn cli(site: &Site, side: Side, args: &[&str]) -> Result<String> {
    let mut c = site.command(side, &node::binary()?.canonicalize()?.to_string_lossy())?;
    c.args(args).env("LANLINE_STATE", state(site, side));
    match sh::run_within(c, Duration::from_secs(60))?.ok() {
        Ok(out) => Ok(out.stdout),
        Err(e) => bail!("{e:#}; {}", site.logs()),
    }
}

fn state(site: &Site, side: Side) -> String {
    site.dir().join(side.name()).to_string_lossy().into_owned()
}
