//! Frames in a few words.

use super::{
    build::{Tcp, udp},
    policy::arp,
};
use crate::peek::{addresses, ips, words};
use proptest::prelude::*;
use wire::MacAddr;

#[test]
fn the_usual_frames_in_words() {
    let tcp = Tcp {
        v6: false,
        vlan: true,
        port: 1234,
        seq: 0,
        fin: false,
        cwr: false,
        mss: 1400,
        payload: vec![1; 10],
    };
    assert_eq!(words(&tcp.build().0), "VLAN 7 TCP 10.0.0.1:1234 > 10.0.0.2:80");
    let six = Tcp {
        v6: true,
        vlan: false,
        ..tcp
    };
    assert!(
        words(&six.build().0).starts_with("TCP [101:101:"),
        "{}",
        words(&six.build().0)
    );
    assert_eq!(words(&udp(false, 68, 100, b"x").0), "UDP 10.0.0.1:68 > 10.0.0.2:53");
    assert_eq!(words(&[0; 5]), "frame is cut short");
    let lldp = [&[1; 12][..], &[0x88, 0xcc]].concat();
    assert_eq!(words(&lldp), "LLDP");
    let a = MacAddr([2, 0, 0, 0, 0, 1]);
    let who = arp(a.0, a.0, [10, 0, 0, 1], [10, 0, 0, 9]);
    assert_eq!(words(&who), "ARP who-has 10.0.0.9 tell 10.0.0.1");
    assert_eq!(ips(&who), Some(([10, 0, 0, 1].into(), [10, 0, 0, 9].into())));
    assert_eq!(addresses(&who).map(|(_, src)| src), Some(a));
}

proptest! {
    #[test]
    fn any_bytes_have_words(b in proptest::collection::vec(any::<u8>(), 0..120)) {
        prop_assert!(!words(&b).is_empty());
        let _ = (ips(&b), addresses(&b));
    }
}
