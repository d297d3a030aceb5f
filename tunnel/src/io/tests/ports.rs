//! TAPs and bridges: making, refusing, vanishing.

use super::lab::{Host, lan};
use crate::{
    io::{PortError, TapSpec, TunnelEvent, tap::Tap},
    need_root,
};

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
    assert!(text.contains("ip link set lln1 master br0"), "{text}");
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
