//! Tags and reserved addresses between two real bridges: what goes in by one comes out by the other, byte for byte.

use crate::common::{joined, owner, with_nodes};
use anyhow::{Context, Result, ensure};
use rustix::io::Errno;
use std::{
    fs::File,
    io::{Read, Write},
    time::Duration,
};
use tests::io::{
    lab::{Lab, say},
    node::{Node, NodeSpec},
    sh::{eventually, until},
    tap,
};

const WAIT: Duration = Duration::from_secs(60);

/// Local experimental EtherType 2 (IEEE 802): nobody reads it.
const PLAIN: [u8; 2] = [0x88, 0xb6];
const EVERYBODY: [u8; 6] = [0xff; 6];
const NEAR: [u8; 6] = [6, 0, 0, 0, 0, 1];
const FAR: [u8; 6] = [6, 0, 0, 0, 0, 2];
/// Stands at both ends, each in a VLAN of its own.
const TWIN: [u8; 6] = [6, 0, 0, 0, 0, 9];
/// Payload of the frames that only show that the LAN carries frames.
const HELLO: u8 = 0xee;

/// A tag: protocol, priority, VLAN.
fn tag(protocol: u16, pcp: u16, vid: u16) -> Vec<u8> {
    [protocol.to_be_bytes(), (pcp << 13 | vid).to_be_bytes()].concat()
}

fn c_tag(pcp: u16, vid: u16) -> Vec<u8> {
    tag(0x8100, pcp, vid)
}

/// A frame with these tags whose payload tells it from all others.
fn frame(dst: [u8; 6], src: [u8; 6], tags: &[u8], number: u8) -> Vec<u8> {
    let mut f = [&dst[..], &src, tags, &PLAIN].concat();
    f.resize(100, number);
    f
}

/// A member with a bridge that has a wire of the test in it.
struct Plugged {
    node: Node,
    wire: File,
}

impl Plugged {
    fn new(node: Node) -> Result<Self> {
        let ns = &node.machine().ns;
        // A bridge that learns nothing, so that it keeps no frame from the node: it knows no VLANs.
        let hub = [
            "link",
            "add",
            "br0",
            "type",
            "bridge",
            "stp_state",
            "0",
            "ageing_time",
            "0",
        ];
        ns.ip(&hub)?;
        ns.ip(&["link", "set", "br0", "up"])?;
        let wire = tap::open(ns, "w0")?;
        ns.ip(&["link", "set", "w0", "master", "br0"])?;
        // Lets LLDP and 802.1X pass the bridge; without STP it passes BPDUs by itself.
        ns.run("sh", &["-c", "echo 0xfff8 > /sys/class/net/br0/bridge/group_fwd_mask"])?;
        node.ok(&["lan", "attach", "home", "--bridge", "br0"])?;
        Ok(Self { node, wire })
    }

    fn say(&mut self, frame: &[u8]) -> Result<()> {
        Ok(self.wire.write_all(frame)?)
    }

    /// The next frame of the test's own.
    fn next(&mut self) -> Result<Option<Vec<u8>>> {
        let mut buf = [0; 2_048];
        loop {
            match self.wire.read(&mut buf) {
                Ok(n) => {
                    let f = buf.get(..n).unwrap_or_default();
                    if f.get(6..8) == Some(&[6, 0]) && f.len() == 100 {
                        return Ok(Some(f.to_vec()));
                    }
                }
                Err(e) if e.raw_os_error() == Some(Errno::AGAIN.raw_os_error()) => return Ok(None),
                Err(e) => return Err(e).context("the wire"),
            }
        }
    }

    /// Waits for this frame. Any other before it is an error: order is kept, so what should not come would come first.
    fn hears(&mut self, want: &[u8]) -> Result<()> {
        until(WAIT, "a frame to come out", || {
            let Some(got) = self.next()?.filter(|f| f.last() != Some(&HELLO)) else {
                return Ok(None);
            };
            ensure!(got == want, "another frame came out: {got:02x?}, not {want:02x?}");
            Ok(Some(()))
        })
    }

    fn dropped(&self, why: &str) -> Result<u64> {
        let lan = self.node.json(&["lan", "show", "home"])?;
        Ok(lan["drops"][why].as_u64().unwrap_or(0))
    }

    /// Waits until an address is known in a VLAN here, as behind a member or not.
    fn knows(&self, mac: &str, vlan: u64, elsewhere: bool) -> Result<()> {
        eventually(WAIT, "an address in its VLAN's table", || {
            let lan = self.node.json(&["lan", "show", "home"])?;
            let rows = lan["fdb"].as_array().cloned().unwrap_or_default();
            let row = rows.iter().find(|r| r["mac"] == mac && r["vlan"] == vlan);
            Ok(row.filter(|r| r["peer"].is_string() == elsewhere).map(|_| ()))
        })
    }
}

/// Both ends, once frames pass.
fn ends(lab: &mut Lab) -> Result<(Plugged, Plugged)> {
    let home = owner(lab)?;
    let away = joined(lab, &home, "away", "member", NodeSpec::default())?;
    let (mut near, mut far) = (Plugged::new(home)?, Plugged::new(away)?);
    eventually(WAIT, "the LAN to carry a frame each way", || {
        near.say(&frame(EVERYBODY, NEAR, &[], HELLO))?;
        far.say(&frame(EVERYBODY, FAR, &[], HELLO))?;
        let hello = |f: Option<Vec<u8>>, src: [u8; 6]| f.is_some_and(|f| f.get(6..12) == Some(&src[..]));
        Ok((hello(far.next()?, NEAR) && hello(near.next()?, FAR)).then_some(()))
    })?;
    Ok((near, far))
}

#[test]
fn tags_are_carried_as_they_are_and_keep_vlans_apart() -> Result<()> {
    with_nodes("tags", |lab| {
        let (mut near, mut far) = ends(lab)?;
        let q_in_q = [tag(0x88a8, 2, 200), c_tag(1, 300)].concat();
        for (n, tags) in [vec![], c_tag(5, 100), c_tag(6, 0), q_in_q].into_iter().enumerate() {
            let n = n as u8;
            let there = frame(EVERYBODY, NEAR, &tags, n);
            near.say(&there)?;
            far.hears(&there)
                .with_context(|| format!("tags {tags:02x?}, to everybody"))?;
            let back = frame(NEAR, FAR, &tags, 0x40 | n);
            far.say(&back)?;
            near.hears(&back).with_context(|| format!("tags {tags:02x?}, to one"))?;
        }
        // No VLAN has the number 4095 (802.1Q table 9-2).
        near.say(&frame(EVERYBODY, NEAR, &c_tag(0, 4_095), 0x80))?;
        // One address in two VLANs, at two places.
        far.say(&frame(EVERYBODY, TWIN, &c_tag(0, 10), 0x81))?;
        near.hears(&frame(EVERYBODY, TWIN, &c_tag(0, 10), 0x81))?;
        near.say(&frame(EVERYBODY, TWIN, &c_tag(0, 20), 0x82))?;
        far.hears(&frame(EVERYBODY, TWIN, &c_tag(0, 20), 0x82))?;
        let twin = "06:00:00:00:00:09";
        near.knows(twin, 10, true)?;
        near.knows(twin, 20, false)?;
        // In VLAN 20 it is on the wire where the frame was said.
        near.say(&frame(TWIN, NEAR, &c_tag(0, 20), 0x83))?;
        let to_far = frame(TWIN, NEAR, &c_tag(3, 10), 0x84);
        near.say(&to_far)?;
        far.hears(&to_far)?;
        let (bad, same) = (near.dropped("bad_tag")?, near.dropped("same_port")?);
        say(&format!(
            "tags: {bad} of VLAN 4095 and {same} for the port they came from dropped"
        ));
        ensure!(bad == 1 && same >= 1, "bad_tag {bad}, same_port {same}");
        Ok(())
    })
}

#[test]
fn addresses_that_bridges_keep_are_never_tunnelled() -> Result<()> {
    with_nodes("reserved", |lab| {
        let (mut near, mut far) = ends(lab)?;
        // Spanning tree, 802.1X, provider bridges, LLDP: as far as this kernel's bridge lets them reach the node.
        let kept = [0x00, 0x03, 0x08, 0x0d, 0x0e];
        for last in kept {
            near.say(&frame([1, 0x80, 0xc2, 0, 0, last], NEAR, &[], last))?;
        }
        let behind = frame(EVERYBODY, NEAR, &[], 0x90);
        near.say(&behind)?;
        far.hears(&behind)
            .context("what was sent behind them is the first to come")?;
        let dropped = near.dropped("reserved_mac")?;
        say(&format!("reserved: {dropped} of {} dropped by name", kept.len()));
        ensure!(dropped >= kept.len() as u64, "reserved_mac {dropped}");
        Ok(())
    })
}
