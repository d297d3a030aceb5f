//! Tags of access ports: put on when a frame enters the LAN, taken off when it leaves (802.1Q §6.9).

use crate::DropReason;
use wire::frame::{Frame, MIN_FRAME, Offload, PartialCsum};

/// Destination and source: a tag follows them.
const ADDRESSES: usize = 12;
/// A tag, bytes.
const TAG: usize = 4;
const TPID: [u8; 2] = [0x81, 0];

fn shifted(offload: Offload, by: impl Fn(u16) -> Option<u16>) -> Result<Offload, DropReason> {
    let csum = match offload.csum {
        None => None,
        Some(c) => Some(PartialCsum {
            start: by(c.start).ok_or(DropReason::BadOffload)?,
            ..c
        }),
    };
    Ok(Offload { csum, ..offload })
}

/// Writes the frame into `out` as a frame of VLAN `vid`. A priority tag gives way, its priority is kept; any other tag
/// is the sender's own and refused.
pub fn tag(bytes: &[u8], offload: Offload, vid: u16, out: &mut Vec<u8>) -> Result<Offload, DropReason> {
    let frame = Frame::new(bytes)?;
    let (pcp, old) = match frame.vlan() {
        None => (0, 0),
        Some(t) if t.vid == 0 && frame.l3() == MIN_FRAME + TAG => (t.pcp, TAG),
        Some(_) => return Err(DropReason::GuestTag),
    };
    let (head, rest) = bytes.split_at_checked(ADDRESSES).ok_or(DropReason::Runt)?;
    out.clear();
    out.extend_from_slice(head);
    out.extend_from_slice(&TPID);
    out.extend_from_slice(&(u16::from(pcp) << 13 | vid).to_be_bytes());
    out.extend_from_slice(rest.get(old..).unwrap_or_default());
    let by = (TAG - old) as u16;
    shifted(offload, |start| start.checked_add(by))
}

/// Writes the frame into `out` without its outer tag, if it has one.
pub fn strip(bytes: &[u8], offload: Offload, out: &mut Vec<u8>) -> Result<Offload, DropReason> {
    let tags = Frame::new(bytes)?.l3() - MIN_FRAME;
    let cut = tags.min(TAG);
    let (head, rest) = bytes.split_at_checked(ADDRESSES).ok_or(DropReason::Runt)?;
    out.clear();
    out.extend_from_slice(head);
    out.extend_from_slice(rest.get(cut..).unwrap_or_default());
    shifted(offload, |start| start.checked_sub(cut as u16))
}
