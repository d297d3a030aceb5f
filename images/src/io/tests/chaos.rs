//! Peers that say anything at all, well-formed or not, at any time.

use super::net::{Net, Peer, node, pull};
use super::*;
use crate::io::serve_peer;
use crate::io::stream::{Reader, send};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::io::AsyncWriteExt;
use wire::image::{Blob, Encoding, Lane, Message, Part, Range, Refusal, SegmentId};

/// Numbers that look random and are the same for the same seed.
struct Dice(blake3::OutputReader);

impl Dice {
    fn new(seed: u64) -> Self {
        Self(blake3::Hasher::new().update(&seed.to_be_bytes()).finalize_xof())
    }

    /// Below `n`.
    fn roll(&mut self, n: u32) -> u32 {
        let mut b = [0; 4];
        self.0.fill(&mut b);
        u32::from_be_bytes(b) % n
    }

    /// Mostly inside the image, sometimes far out.
    fn index(&mut self) -> u32 {
        match self.roll(12) {
            0 => u32::MAX,
            1 => 10_000 + self.roll(10_000),
            _ => self.roll(14),
        }
    }

    fn bytes(&mut self, n: u32) -> Blob {
        let len = 1 + self.roll(n);
        Blob((0..len).map(|_| self.roll(256) as u8).collect())
    }

    fn ranges(&mut self) -> Vec<Range> {
        (0..1 + self.roll(3))
            .map(|_| Range {
                first: self.index() / 2,
                count: 1 + self.roll(20),
            })
            .collect()
    }

    fn message(&mut self) -> Message {
        let index = self.index();
        match self.roll(22) {
            0 => Message::Hello {
                version: 1,
                image: ImageId([3; 32]),
            },
            1 => Message::Welcome { version: 1 },
            2 => Message::Refused { why: Refusal::Protocol },
            3 => Message::GetHeader,
            4 => Message::Header { bytes: self.bytes(200) },
            5 => Message::GetTable { first: index },
            6 => Message::Table {
                first: self.roll(2),
                ids: vec![SegmentId([9; 32]); 1 + self.roll(5) as usize],
            },
            7 => Message::GetSegment { index },
            8 => Message::Segment {
                index,
                bytes: self.bytes(200),
            },
            9 => Message::Absent { index },
            10 => Message::HaveAll,
            11 => Message::HaveBits {
                first: 1_024 * self.roll(3),
                bits: self.bytes(9),
            },
            12 => Message::Have { ranges: self.ranges() },
            13 => Message::Lost { ranges: self.ranges() },
            14 => Message::InFlight { ranges: self.ranges() },
            15 | 16 => {
                let pages = 1 + self.roll(65_535) as u16;
                Message::Want {
                    index,
                    pages,
                    lane: Lane::Profile,
                    list: self.roll(2) == 0,
                }
            }
            17 => {
                let encoding = if self.roll(2) == 0 {
                    Encoding::Raw
                } else {
                    Encoding::Zstd
                };
                let pages = if self.roll(4) == 0 { 3 } else { u16::MAX };
                Message::Piece {
                    index,
                    pages,
                    encoding,
                    list: Blob(vec![]),
                    bytes: self.bytes(300),
                }
            }
            18 => Message::Cancel { index },
            19 => Message::NotHave { index },
            20 => Message::Choke,
            _ => Message::Unchoke,
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_pull_ends_well_whatever_one_peer_says() {
    let seed = Lab::new();
    let bytes = disk_bytes(14, 3);
    let id = seed.image("a", &bytes);
    for n in 0..150 {
        let me = Lab::new();
        let dice = Mutex::new(Dice::new(n));
        let rubbish = move |m| {
            let mut dice = dice.lock().unwrap();
            match dice.roll(3) {
                0 => vec![m],
                1 => vec![dice.message(), m],
                _ => (0..dice.roll(3)).map(|_| dice.message()).collect(),
            }
        };
        let net = Net::new([
            (1, Peer::Bent(seed.store.clone(), Arc::new(rubbish))),
            (2, Peer::Rate(seed.store.clone(), 100_000)),
        ]);
        pull(&me.store, id, &net, &[1, 2])
            .await
            .unwrap_or_else(|e| panic!("seed {n}: {e}"));
        let out = me.path("out");
        me.store.materialise(id, Part::Disk, &out).unwrap();
        assert!(std::fs::read(&out).unwrap() == bytes, "seed {n}");
    }
}

#[tokio::test]
async fn serving_outlives_whatever_an_asker_says() {
    let seed = Lab::new();
    let id = seed.image("a", &disk_bytes(14, 3));
    for n in 0..300 {
        let mut dice = Dice::new(n);
        let (ours, theirs) = tokio::io::duplex(1 << 20);
        let serving = tokio::spawn(serve_peer(seed.store.clone(), node(1), theirs));
        let (r, mut w) = tokio::io::split(ours);
        let mut reader = Reader::new(r);
        if n % 10 > 0 {
            send(&mut w, &Message::Hello { version: 1, image: id }).await.unwrap();
        }
        for _ in 0..dice.roll(30) {
            let sent = match dice.roll(15) {
                0 => w.write_all(&dice.bytes(40).0).await.is_ok(),
                // Only what an asker may say, so that the session goes on.
                1..8 => {
                    let index = dice.roll(14);
                    let pages = 1 + dice.roll(65_535) as u16;
                    send(
                        &mut w,
                        &Message::Want {
                            index,
                            pages,
                            lane: Lane::Demand,
                            list: true,
                        },
                    )
                    .await
                    .is_ok()
                }
                _ => send(&mut w, &dice.message()).await.is_ok(),
            };
            if !sent {
                break;
            }
        }
        let _ = w.shutdown().await;
        drop(w);
        // A panic of the task would show as an error of the join itself.
        let end = async {
            while let Ok(Some(_)) = reader.next().await {}
            drop(reader);
            serving.await
        };
        let end = tokio::time::timeout(Duration::from_secs(60), end)
            .await
            .unwrap_or_else(|_| panic!("seed {n} hangs"));
        assert!(end.is_ok(), "seed {n}: {end:?}");
    }
    assert!(
        crate::io::store::lock(&seed.store.0.sessions).is_empty(),
        "every session is let go"
    );
}
