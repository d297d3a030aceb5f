//! One peer of a swarm over plain TCP, for `cargo xtask bench images`: the exchange of pieces alone, without a mesh.
//!
//! ```text
//! peer import STORE FILE [PARENT]       prints the id
//! peer serve STORE ME LISTEN            until it is killed
//! peer pull STORE ID ME LISTEN N@ADDR.. pulls and serves; prints one line of JSON when all is here, serves on
//! peer hash MIB                         bytes a second of page hashes and piece ids, on one core
//! ```
//!
//! `ME` and `N` are numbers below 256 that tell peers apart.

#![allow(
    clippy::disallowed_methods,
    clippy::print_stdout,
    clippy::indexing_slicing,
    reason = "a program for measuring: it is all input and output"
)]

use images::io::{BoxFuture, Connect, ImportSpec, PeerHint, PeerStream, PullProgress, PullSpec, Store, StoreConfig};
use std::{collections::BTreeMap, error::Error, io, net::SocketAddr, path::Path, sync::Arc, time::Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};
use wire::{ImageId, NodeId};

type Done = Result<(), Box<dyn Error>>;

struct Tcp(u8, BTreeMap<NodeId, SocketAddr>);

impl Connect for Tcp {
    fn connect(&self, peer: NodeId) -> BoxFuture<'static, io::Result<Box<dyn PeerStream>>> {
        let (me, to) = (self.0, self.1.get(&peer).copied());
        Box::pin(async move {
            let mut s = TcpStream::connect(to.ok_or(io::ErrorKind::NotFound)?).await?;
            s.set_nodelay(true)?;
            s.write_u8(me).await?;
            Ok(Box::new(s) as Box<dyn PeerStream>)
        })
    }
}

async fn serve(store: Store, listen: SocketAddr) -> io::Result<()> {
    let listener = TcpListener::bind(listen).await?;
    loop {
        let (mut s, _) = listener.accept().await?;
        let store = store.clone();
        tokio::spawn(async move {
            s.set_nodelay(true)?;
            let peer = NodeId([s.read_u8().await?; 32]);
            images::io::serve_peer(store, peer, s).await.map_err(io::Error::other)
        });
    }
}

fn open(dir: &str) -> Result<Store, Box<dyn Error>> {
    Ok(Store::open(Path::new(dir), StoreConfig::default())?)
}

async fn pull(store: Store, id: ImageId, me: u8, listen: SocketAddr, peers: &[String]) -> Done {
    let mut at = BTreeMap::new();
    for p in peers {
        let (n, addr) = p.split_once('@').ok_or("a peer is N@ADDR")?;
        at.insert(NodeId([n.parse()?; 32]), addr.parse()?);
    }
    let serving = tokio::spawn(serve(store.clone(), listen));
    let (tx, rx) = mpsc::channel(at.len().max(1));
    let connect = Arc::new(Tcp(me, at.clone()));
    for peer in at.keys() {
        tx.send(PeerHint { id: *peer, rtt: None }).await?;
    }
    let begun = Instant::now();
    let progress = watch::Sender::new(PullProgress::default());
    let report = images::io::pull(store, PullSpec { id, part: None }, rx, connect, progress).await?;
    println!(
        "{{\"seconds\":{:.3},\"bytes\":{},\"duplicate_bytes\":{},\"shared_bytes\":{},\"pieces\":{}}}",
        begun.elapsed().as_secs_f64(),
        report.bytes,
        report.duplicate_bytes,
        report.shared_bytes,
        report.pieces
    );
    drop(tx);
    serving.await??;
    Ok(())
}

fn hash(mib: usize) {
    let data = vec![7u8; mib << 20];
    let (pieces, _) = data.as_chunks::<{ wire::image::PIECE_BYTES }>();
    let begun = Instant::now();
    let zero = pieces.iter().filter(|p| wire::image::PieceId::of(p).is_zero()).count();
    let rate = data.len() as f64 / begun.elapsed().as_secs_f64();
    println!("{{\"bytes_per_second\":{rate:.0},\"zero\":{zero}}}");
}

#[tokio::main]
async fn main() -> Done {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = args.iter().map(String::as_str).collect();
    match words[..] {
        ["import", dir, file, ref parent @ ..] => {
            let spec = ImportSpec {
                file: file.into(),
                name: "image".parse()?,
                tag: "latest".parse()?,
                kernel: None,
                initrd: None,
                cmdline: None,
                parents: parent.iter().map(|p| p.parse()).collect::<Result<_, _>>()?,
            };
            println!("{}", open(dir)?.import(&spec, &mut |_| {})?);
        }
        ["serve", dir, _, listen] => serve(open(dir)?, listen.parse()?).await?,
        ["pull", dir, id, me, listen, ..] => {
            let peers = args.get(5..).unwrap_or_default();
            pull(open(dir)?, id.parse()?, me.parse()?, listen.parse()?, peers).await?;
        }
        ["hash", mib] => hash(mib.parse()?),
        _ => return Err("peer import | serve | pull | hash; see the source".into()),
    }
    Ok(())
}
