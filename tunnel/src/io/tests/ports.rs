//! TAPs and bridges: making, refusing, vanishing.

use super::lab::{HANG, Host, lan};
use crate::{
    io::{
        PortError, PortInfo, PortKind, TapSpec, TunnelEvent,
        tap::{Tap, joins_received},
    },
    need_root,
};
use std::time::Duration;

fn tap(name: &str, bridge: Option<&str>) -> TapSpec {
    TapSpec {
        name: Some(name.into()),
        bridge: bridge.map(Into::into),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_tap_joins_a_bridge_and_goes_with_its_port() {
    need_root!();
    let host = Host::new(1).await;
    host.ns.ip("link add br0 type bridge");
    host.ns.ip("link set br0 up");
    let info = host.tunnel.add_tap(&lan(), tap("lln0", Some("br0"))).await.unwrap();
    assert_eq!((info.name.as_str(), info.bridge.as_deref()), ("lln0", Some("br0")));
    assert!(info.mac.is_valid_source() && info.mac.0[0] & 2 == 2, "{}", info.mac);
    let shown = host.ns.ip("link show lln0");
    assert!(
        shown.contains("master br0") && shown.contains("mtu 1500") && shown.contains("UP"),
        "{shown}"
    );
    assert!(!host.ns.ip("-6 addr show dev lln0").contains("inet6"));
    assert_eq!(host.tunnel.interfaces().await, ["lln0", "br0"]);
    let numbered = host.tunnel.add_tap(&lan(), TapSpec::default()).await.unwrap();
    assert_eq!(numbered.name, "lanline0");
    host.tunnel.remove_port(info.id).await.unwrap();
    assert!(!host.ns.ip("link show").contains("lln0"));
    host.tunnel.remove_lan(&lan()).await;
    assert!(!host.ns.ip("link show").contains("lanline0"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn refusals_say_what_to_do() {
    need_root!();
    let host = Host::new(1).await;
    host.ns.ip("link add lln1 type veth peer name lln2");
    let err = async |name: &str, bridge: Option<&str>| {
        let e = host.tunnel.add_tap(&lan(), tap(name, bridge)).await.unwrap_err();
        (e.to_string(), e)
    };
    let (text, e) = err("lln0", Some("br7")).await;
    assert!(
        matches!(e, PortError::NoInterface(n) if n == "br7") && text.contains("ip -br link"),
        "{text}"
    );
    let (text, e) = err("lln0", Some("lln1")).await;
    assert!(matches!(e, PortError::NotBridge(n) if n == "lln1"), "{text}");
    assert!(text.contains("--interface lln1"), "{text}");
    let (text, e) = err("lln1", None).await;
    assert!(matches!(e, PortError::NameTaken(_)), "{text}");
    for bad in ["", "a/b", "sixteen-letters-", "..", "-x", "a b", "%d"] {
        let (text, e) = err(bad, None).await;
        assert!(matches!(e, PortError::BadName(_)), "{bad:?}: {text}");
    }
    assert!(!host.ns.ip("link show").contains("lln0"), "nothing half-made is left");
    assert!(host.tunnel.ports(&lan()).await.is_empty());
    let without = host.ns.thread(|| {
        let mut sets = rustix::thread::capabilities(None).unwrap();
        sets.effective.remove(rustix::thread::CapabilitySet::NET_ADMIN);
        rustix::thread::set_capabilities(None, sets).unwrap();
        Tap::open(Some("lln0"), None).map(|_| ()).unwrap_err()
    });
    let e = without.join().unwrap();
    assert!(
        matches!(e, PortError::NoPermission { .. }) && e.to_string().contains("cap_net_admin"),
        "{e}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_deleted_interface_ends_its_port() {
    need_root!();
    let mut host = Host::new(1).await;
    let info = host.tunnel.add_tap(&lan(), tap("lln0", None)).await.unwrap();
    host.ns.ip("link set lln0 down");
    host.ns.ip("link set lln0 up");
    host.ns.ip("link del lln0");
    let (port, why) = host
        .event(|e| match e {
            TunnelEvent::PortDown { port, why } => Some((port, why)),
            _ => None,
        })
        .await;
    assert_eq!(port, info.id);
    assert!(why.contains("deleted"), "{why}");
    assert!(host.tunnel.ports(&lan()).await.is_empty());
    let again = host.tunnel.add_tap(&lan(), tap("lln0", None)).await.unwrap();
    assert_ne!(again.id, info.id);
}

/// Looks at the ports until `good`; the pump asks its interfaces every few seconds.
async fn ports_become(host: &Host, good: impl Fn(&[PortInfo]) -> bool) {
    let look = async {
        loop {
            let ports = host.tunnel.ports(&lan()).await;
            if good(&ports) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(HANG, look)
        .await
        .expect("the ports stay as they were");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn case_21_a_tap_that_is_renamed_resized_and_moved_goes_on_until_it_is_deleted() {
    need_root!();
    let mut host = Host::new(1).await;
    let info = host.tunnel.add_tap(&lan(), tap("lln0", None)).await.unwrap();
    host.ns.ip("link set lln0 mtu 600");
    host.ns.ip("link set lln0 down");
    host.ns.ip("link set lln0 name lln9");
    host.ns.ip("link set lln9 up");
    ports_become(&host, |p| p.iter().any(|p| p.name == "lln9" && p.id == info.id)).await;
    assert_eq!(
        host.tunnel.interfaces().await,
        ["lln9"],
        "the underlay must be told the new name"
    );
    let other = super::lab::Netns::new();
    host.ns.ip(&format!("link set lln9 netns {}", other.0));
    other.ip("link set lln9 name lln5");
    ports_become(&host, |p| p.iter().any(|p| p.name == "lln5" && p.id == info.id)).await;
    other.ip("link del lln5");
    let down = host.event(|e| match e {
        TunnelEvent::PortDown { port, .. } => Some(port),
        _ => None,
    });
    assert_eq!(down.await, info.id);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn case_21_a_card_that_is_deleted_or_renamed_ends_its_port() {
    need_root!();
    let mut host = Host::new(1).await;
    for change in ["link del lln1", "link set lln1 name lln3"] {
        host.ns.ip("link add lln1 type veth peer name lln2");
        host.ns.ip("link set lln1 up");
        let info = host.tunnel.add_packet(&lan(), "lln1".into()).await.unwrap();
        assert_eq!((info.kind, info.name.as_str()), (PortKind::Packet, "lln1"));
        assert!(
            host.tunnel.interfaces().await.is_empty(),
            "the underlay goes by the card"
        );
        host.ns.ip("link set lln1 down");
        host.ns.ip(change);
        let down = host.event(|e| match e {
            TunnelEvent::PortDown { port, .. } => Some(port),
            _ => None,
        });
        assert_eq!(down.await, info.id, "{change}");
    }
    let e = host.tunnel.add_packet(&lan(), "lo".into()).await.unwrap_err();
    assert!(e.to_string().contains("not an Ethernet interface"), "{e}");
    let e = host.tunnel.add_packet(&lan(), "lln7".into()).await.unwrap_err();
    assert!(matches!(e, PortError::NoInterface(n) if n == "lln7"));
}

#[test]
fn any_card_says_whether_it_joins_what_it_receives() {
    assert!(joins_received("lo").is_ok());
    assert!(joins_received("lln-no-such").is_err());
}
