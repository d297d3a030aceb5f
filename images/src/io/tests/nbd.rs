use super::net::{Net, Peer, hint, pull_part};
use super::*;
use crate::io::nbd::{NbdError, NbdExport, serve};
use crate::io::{PullProgress, PullSpec};
use crate::nbd::{GREETING, OPTION_HEAD};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::process::Command;
use tokio::sync::{mpsc, watch};

async fn exported(pieces: u32) -> (Lab, NbdExport, Vec<u8>) {
    let lab = Lab::new();
    let bytes = disk_bytes(pieces, 512);
    let id = lab.image("a", &bytes);
    let export = serve(lab.store.clone(), id, &lab.path("s")).await.unwrap();
    (lab, export, bytes)
}

/// A client by hand: greeting and one option.
async fn dial(lab: &Lab, option: u32, data: &[u8]) -> UnixStream {
    let mut s = UnixStream::connect(lab.path("s")).await.unwrap();
    let mut greeting = [0; 18];
    s.read_exact(&mut greeting).await.unwrap();
    assert_eq!(greeting, GREETING);
    s.write_all(&3u32.to_be_bytes()).await.unwrap();
    s.write_all(b"IHAVEOPT").await.unwrap();
    s.write_all(&option.to_be_bytes()).await.unwrap();
    s.write_all(&(data.len() as u32).to_be_bytes()).await.unwrap();
    s.write_all(data).await.unwrap();
    s
}

async fn request(s: &mut UnixStream, kind: u16, cookie: u64, offset: u64, len: u32) {
    let mut r = 0x2560_9513u32.to_be_bytes().to_vec();
    r.extend([0, 0]);
    r.extend(kind.to_be_bytes());
    r.extend(cookie.to_be_bytes());
    r.extend(offset.to_be_bytes());
    r.extend(len.to_be_bytes());
    s.write_all(&r).await.unwrap();
}

/// A simple reply: error, cookie.
async fn reply(s: &mut UnixStream) -> (u32, u64) {
    assert_eq!(s.read_u32().await.unwrap(), 0x6744_6698);
    (s.read_u32().await.unwrap(), s.read_u64().await.unwrap())
}

#[tokio::test]
async fn a_plain_client_reads_and_is_refused_nonsense() {
    let (lab, export, bytes) = exported(6).await;
    let mut s = dial(&lab, 1, b"").await;
    assert_eq!(s.read_u64().await.unwrap(), bytes.len() as u64);
    assert_eq!(s.read_u16().await.unwrap() & 0b111, 0b111, "flags, read-only, flush");
    request(&mut s, 0, 7, 65_000, 2_000).await;
    assert_eq!(reply(&mut s).await, (0, 7));
    let mut got = vec![0; 2_000];
    s.read_exact(&mut got).await.unwrap();
    assert!(got == bytes[65_000..67_000]);
    for (kind, offset, len, errno) in [
        (0, bytes.len() as u64, 1, 22),
        (0, u64::MAX, 2, 22),
        (0, 0, u32::MAX, 22),
        (7, 0, 10, 95),
        (99, 0, 10, 95),
        (3, 0, 0, 0),
    ] {
        request(&mut s, kind, 1, offset, len).await;
        assert_eq!(reply(&mut s).await, (errno, 1), "{kind} {offset} {len}");
    }
    request(&mut s, 1, 1, 0, 10).await;
    assert!(s.read_u8().await.is_err(), "a write ends the connection");
    export.close().await;
    assert!(!lab.path("s").exists());
}

#[tokio::test]
async fn broken_clients_are_cut_off_and_others_go_on() {
    let (lab, _export, _) = exported(2).await;
    let mut long = dial(&lab, 7, &[0; 0]).await;
    assert_eq!(long.read_u64().await.unwrap(), 0x0003_e889_0455_65a9);
    let mut huge = UnixStream::connect(lab.path("s")).await.unwrap();
    huge.write_all(&3u32.to_be_bytes()).await.unwrap();
    let mut head = b"IHAVEOPT\0\0\0\x07".to_vec();
    head.extend(u32::MAX.to_be_bytes());
    assert_eq!(head.len(), OPTION_HEAD);
    huge.write_all(&head).await.unwrap();
    let mut all = Vec::new();
    huge.read_to_end(&mut all).await.unwrap();
    assert_eq!(all.len(), 18 + 20, "greeting, one refusal, end");
    let mut old = UnixStream::connect(lab.path("s")).await.unwrap();
    old.write_all(&0u32.to_be_bytes()).await.unwrap();
    all.clear();
    old.read_to_end(&mut all).await.unwrap();
    assert_eq!(all, GREETING);
    let mut named = dial(&lab, 1, b"nope").await;
    assert!(named.read_u8().await.is_err());
    let mut fine = dial(&lab, 1, b"").await;
    assert!(fine.read_u64().await.unwrap() > 0);
}

#[tokio::test]
async fn a_dead_socket_is_replaced_a_live_one_is_not() {
    let (lab, export, _) = exported(2).await;
    let id = lab.store.resolve("a").unwrap().unwrap();
    let again = serve(lab.store.clone(), id, &lab.path("s")).await;
    assert!(matches!(again, Err(NbdError::InUse(_))));
    drop(std::os::unix::net::UnixListener::bind(lab.path("dead")).unwrap());
    let second = serve(lab.store.clone(), id, &lab.path("dead")).await.unwrap();
    std::fs::write(lab.path("file"), b"precious").unwrap();
    assert!(serve(lab.store.clone(), id, &lab.path("file")).await.is_err());
    assert_eq!(std::fs::read(lab.path("file")).unwrap(), b"precious");
    export.close().await;
    second.close().await;
    lab.store.remove(id).unwrap();
}

async fn tool(program: &str, args: &[&str]) -> Option<String> {
    let Ok(out) = Command::new(program).args(args).output().await else {
        eprintln!("skipped: {program} is missing");
        return None;
    };
    assert!(
        out.status.success(),
        "{program} {args:?}: {}",
        String::from_utf8_lossy(&out.stderr)
    );
    Some(String::from_utf8_lossy(&out.stdout).into_owned())
}

#[tokio::test(flavor = "multi_thread")]
async fn qemu_reads_the_same_disk() {
    let (lab, _export, bytes) = exported(70).await;
    let uri = format!("nbd+unix:///?socket={}", lab.path("s").display());
    let out = lab.path("out");
    let Some(_) = tool(
        "qemu-img",
        &["convert", "-f", "raw", "-O", "raw", &uri, out.to_str().unwrap()],
    )
    .await
    else {
        return;
    };
    assert!(std::fs::read(&out).unwrap() == bytes);
    let map = tool("qemu-img", &["map", "-f", "raw", "--output=json", &uri])
        .await
        .unwrap();
    assert!(
        map.contains("\"zero\": true") && map.contains("\"zero\": false"),
        "{map}"
    );
    let info = tool("qemu-img", &["info", "-f", "raw", "--output=json", &uri])
        .await
        .unwrap();
    assert!(info.contains(&bytes.len().to_string()), "{info}");
    if let Some(said) = tool(
        "qemu-io",
        &["-r", "-f", "raw", "-c", "read -P 0 196608 65536", "-c", "flush", &uri],
    )
    .await
    {
        assert!(said.contains("read 65536/65536"), "{said}");
    }
}

#[tokio::test]
async fn a_guest_reads_what_is_still_with_a_peer() {
    let seed = Lab::new();
    let bytes = disk_bytes(40, 0);
    let id = seed.image("a", &bytes);
    let me = Lab::new();
    let net = Net::new([(1, Peer::Honest(seed.store.clone()))]);
    pull_part(&me.store, id, Some((1, 40)), &net, &[1]).await.unwrap();
    let _export = serve(me.store.clone(), id, &me.path("s")).await.unwrap();
    let mut s = dial(&me, 1, b"").await;
    s.read_u64().await.unwrap();
    s.read_u16().await.unwrap();
    request(&mut s, 0, 5, 0, bytes.len() as u32).await;
    let waits = tokio::time::timeout(Duration::from_millis(50), s.read_u8()).await;
    assert!(waits.is_err(), "no answer before the bytes are here");
    let (tx, rx) = mpsc::channel(1);
    tx.send(hint(1)).await.unwrap();
    let progress = watch::Sender::new(PullProgress::default());
    let pull = crate::io::pull(me.store.clone(), PullSpec { id, part: None }, rx, net, progress);
    let (report, answer) = tokio::join!(pull, async {
        let answer = reply(&mut s).await;
        let mut got = vec![0; bytes.len()];
        s.read_exact(&mut got).await.unwrap();
        (answer, got)
    });
    report.unwrap();
    assert_eq!(answer.0, (0, 5));
    assert!(answer.1 == bytes);
}
