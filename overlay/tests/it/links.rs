use crate::support::*;
use bytes::Bytes;
use wire::link::{Link, PathKind};

#[tokio::test]
async fn frames_travel_both_ways_over_quic() {
    let (a, mut b) = (node(1).await, node(2).await);
    a.join(&b).await;
    let mut ours = a.net.open_link(b.id()).await.unwrap();
    let mut theirs = b.next_link().await;
    assert_eq!((ours.peer(), theirs.peer()), (b.id(), a.id()));
    assert!(ours.max_payload() > 1_100, "{}", ours.max_payload());
    exchange(&mut ours, &mut theirs).await;
    exchange(&mut theirs, &mut ours).await;
    assert_eq!(ours.path().kind, PathKind::Direct);
    drop(theirs);
    assert!(recv(&mut ours).await.is_err(), "the other end is gone");
}

/// Sends numbered datagrams and expects them; loopback loses none while the buffer has room.
pub async fn exchange(from: &mut Box<dyn Link>, to: &mut Box<dyn Link>) {
    let sent: Vec<Bytes> = (0..50u8).map(|i| Bytes::from(vec![i; 600 + usize::from(i)])).collect();
    let report = from.send(&mut sent.clone()).unwrap();
    assert_eq!((report.taken, report.overflow, report.too_large), (50, 0, 0));
    let mut got = Vec::new();
    while got.len() < sent.len() {
        got.extend(recv(to).await.unwrap());
    }
    got.sort();
    assert_eq!(got, sent);
}
