//! Captures and the memory of drops, over real TAPs.

use super::{
    lab::{HANG, Host, lan},
    traffic::{pair, transfer},
};
use crate::{
    DropReason,
    capture::{Select, Spot, SpotCount, Taken, Way},
    defaults::{CAPTURE_BYTES, CAPTURES},
    io::{CaptureError, CaptureReader, TapSpec},
    need_root,
    packet::Packet,
    segment,
};
use wire::frame::LanTag;

/// All that a capture took, which must have been ended.
async fn all(mut reader: CaptureReader) -> Vec<Taken> {
    let mut out = Vec::new();
    let read = async {
        while let Some(batch) = reader.next().await {
            out.extend(batch);
        }
    };
    tokio::time::timeout(HANG, read).await.unwrap();
    out
}

#[tokio::test(flavor = "multi_thread")]
async fn each_frame_is_seen_where_it_passes_and_a_stalled_reader_stops_nothing() {
    need_root!();
    let (a, b) = pair(1_400, 0).await.unwrap();
    let stalled = a.tunnel.capture(Select::all(LanTag::from(&lan()))).await.unwrap();
    let heads = Select {
        snaplen: 64,
        ..Select::all(LanTag::from(&lan()))
    };
    let heads = a.tunnel.capture(heads).await.unwrap();
    let len = 8 * CAPTURE_BYTES;
    transfer(&a, &b, len);
    let saw = a.tunnel.end_capture(stalled.id()).await;
    let sum = |pick: fn(&SpotCount) -> u64| saw.values().map(pick).sum::<u64>();
    assert!(sum(|c| c.lost) > 0, "{saw:?}");
    let kept = all(stalled).await;
    assert_eq!(kept.len() as u64, sum(|c| c.taken - c.lost));
    assert!(kept.iter().map(|t| t.bytes.len()).sum::<usize>() <= CAPTURE_BYTES);
    for t in kept.iter().filter(|t| t.bytes.len() == t.len) {
        let packet = Packet::check(&t.bytes, t.offload).unwrap();
        segment::plain(&packet, &mut Vec::new(), &mut |f| {
            assert!(f.len() <= 1_518, "a frame of ordinary size");
        });
    }
    let saw = a.tunnel.end_capture(heads.id()).await;
    assert_eq!(
        saw.keys()
            .filter(|s| matches!(s, Spot::Link(n) if *n == b.node))
            .count(),
        1
    );
    assert_eq!(saw.len(), 2, "one port, one link: {saw:?}");
    let taken = all(heads).await;
    assert!(taken.iter().all(|t| t.bytes.len() <= 64));
    let bytes = |link: bool, way| {
        let at = taken
            .iter()
            .filter(|t| matches!(t.spot, Spot::Link(_)) == link && t.way == way);
        at.map(|t| t.len as u64).sum::<u64>()
    };
    let lost: u64 = saw.values().map(|c| c.lost).sum();
    if lost == 0 {
        assert!(bytes(false, Way::In) >= len as u64);
        assert_eq!(
            bytes(false, Way::In),
            bytes(true, Way::Out),
            "what came in by the port left by the link"
        );
    }
    let link = a.tunnel.lan_links(&lan()).await.pop().unwrap();
    assert!(
        link.traffic.tx_bytes >= len as u64 && link.traffic.rx_frames > 0,
        "{link:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn drops_are_remembered_and_captures_are_few() {
    need_root!();
    let a = Host::new(1).await;
    let spec = TapSpec {
        name: Some("lln0".into()),
        bridge: None,
    };
    a.tunnel.add_tap(&lan(), spec).await.unwrap();
    a.ns.ip("addr add 10.99.0.1/24 dev lln0");
    let drops = Select {
        drops_only: true,
        ip: Some([10, 99, 0, 9].into()),
        ..Select::all(LanTag::from(&lan()))
    };
    let mut reader = a.tunnel.capture(drops).await.unwrap();
    // Whoever sends a datagram asks for its neighbour first.
    a.ns.thread(|| {
        std::net::UdpSocket::bind("10.99.0.1:0")
            .unwrap()
            .send_to(b"x", "10.99.0.9:9")
            .unwrap()
    })
    .join()
    .unwrap();
    let taken = tokio::time::timeout(HANG, reader.next()).await.unwrap().unwrap();
    assert!(taken.iter().all(|t| t.dropped == Some(DropReason::Nowhere)));
    let recent = a.tunnel.recent_drops(&lan(), None).await;
    let arp = recent
        .iter()
        .find(|d| d.what == "ARP who-has 10.99.0.9 tell 10.99.0.1")
        .unwrap_or_else(|| panic!("{recent:?}"));
    assert_eq!((arp.reason, arp.way), (DropReason::Nowhere, Way::In));
    let (_, src) = arp.addresses.unwrap();
    assert!(!a.tunnel.recent_drops(&lan(), Some(src)).await.is_empty());
    assert!(
        a.tunnel
            .recent_drops(&lan(), Some(wire::MacAddr([4; 6])))
            .await
            .is_empty()
    );
    let mut more = Vec::new();
    for _ in 1..CAPTURES {
        more.push(a.tunnel.capture(Select::all(LanTag(1))).await.unwrap());
    }
    let refused = a.tunnel.capture(Select::all(LanTag(1))).await;
    assert!(matches!(refused, Err(CaptureError::TooMany(CAPTURES))));
    drop(more);
    a.tunnel.capture(Select::all(LanTag(1))).await.unwrap();
}
