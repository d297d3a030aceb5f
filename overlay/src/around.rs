//! Which control connections go around a dead direct path, and when they are dialled.
//!
//! A member whose control connections are silent while its frames arrive is dialled where its frames go: inside the relay's channel
//! that carries them, or, when a direct path works again, there.
//!
//! ```text
//! link works │ control │ through a channel │ what is done
//! directly   │ silent  │ whatever          │ dialled directly
//! by channel │ silent  │ no                │ dialled through the channel
//! by channel │ silent  │ yes               │ streams take it
//! by stream  │ silent  │ whatever          │ nothing: a stream is control's own, and pinged
//! any        │ answers │ whatever          │ nothing: pauses begin anew
//! no         │ silent  │ whatever          │ nothing: there is nowhere to dial
//! ```
//!
//! What it does not do: it dials nothing, and reads no connection.
//!
//! Invariant: it remembers members alone, and one that does not answer is dialled after pauses that grow
//! ([`crate::defaults::AROUND`]).

use crate::defaults;
use libp2p::PeerId;
use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

/// A control connection to a member.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Seen {
    /// TCP or a circuit: pinged by libp2p, and closed when it does not answer.
    Stream,
    /// QUIC through a relay's channel.
    Carried,
    /// QUIC on a direct path; whether its questions are unanswered.
    Direct {
        /// They are.
        silent: bool,
    },
}

/// Where a member's frames arrive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Frames {
    /// Nowhere, as far as is known.
    Lost,
    /// On a direct path.
    Direct,
    /// Through a relay's channel.
    Channel,
    /// Through a stream.
    Stream,
}

/// How a member's control connections do.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Control {
    /// One answers, or was not asked.
    pub answers: bool,
    /// One goes through a relay's channel.
    pub carried: bool,
}

impl FromIterator<Seen> for Control {
    fn from_iter<I: IntoIterator<Item = Seen>>(conns: I) -> Self {
        conns.into_iter().fold(Self::default(), |c, seen| Self {
            answers: c.answers || matches!(seen, Seen::Stream | Seen::Direct { silent: false }),
            carried: c.carried || seen == Seen::Carried,
        })
    }
}

/// Who is reached so, and who is dialled again when.
#[derive(Debug, Default)]
pub struct Around {
    peers: BTreeSet<PeerId>,
    tries: BTreeMap<PeerId, (Instant, Duration)>,
}

impl Around {
    /// How the members with a link do; `is_member` of all others. Gives who is to be dialled where its frames go.
    pub fn handle_looks(
        &mut self,
        now: Instant,
        looks: &BTreeMap<PeerId, (Control, Frames)>,
        is_member: impl Fn(&PeerId) -> bool,
    ) -> Vec<PeerId> {
        self.tries.retain(|p, _| is_member(p));
        let around = looks.iter().filter(|(_, (c, _))| !c.answers && c.carried);
        self.peers = around.map(|(p, _)| *p).collect();
        let mut out = Vec::new();
        for (peer, (control, frames)) in looks {
            let dial = match (control.answers, frames) {
                (true, _) => {
                    self.tries.remove(peer);
                    false
                }
                (false, Frames::Direct) => true,
                (false, Frames::Channel) => !control.carried,
                (false, Frames::Lost | Frames::Stream) => false,
            };
            if dial && self.is_due(now, *peer) {
                out.push(*peer);
            }
        }
        out
    }

    fn is_due(&mut self, now: Instant, peer: PeerId) -> bool {
        let (first, longest) = defaults::AROUND;
        let (next, pause) = self.tries.entry(peer).or_insert((now, first));
        let due = *next <= now;
        if due {
            *next = now + *pause;
            *pause = (*pause * 2).min(longest);
        }
        due
    }

    /// Members with a carried connection, and no other that answers: streams take that.
    pub fn peers(&self) -> &BTreeSet<PeerId> {
        &self.peers
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use libp2p::identity::Keypair;
    use proptest::prelude::*;

    const SILENT: Seen = Seen::Direct { silent: true };

    fn peer(n: u8) -> PeerId {
        Keypair::ed25519_from_bytes([n; 32]).unwrap().public().to_peer_id()
    }

    fn control(conns: &[Seen]) -> Control {
        conns.iter().copied().collect()
    }

    fn look(a: &mut Around, now: Instant, conns: &[Seen], frames: Frames) -> bool {
        let looks = BTreeMap::from([(peer(1), (control(conns), frames))]);
        !a.handle_looks(now, &looks, |_| true).is_empty()
    }

    #[test]
    fn control_answers_if_any_connection_but_a_carried_one_does() {
        let is = |conns: &[Seen]| (control(conns).answers, control(conns).carried);
        assert_eq!(is(&[]), (false, false));
        assert_eq!(is(&[SILENT]), (false, false));
        assert_eq!(is(&[SILENT, Seen::Carried]), (false, true));
        assert_eq!(is(&[Seen::Carried, Seen::Stream]), (true, true));
        assert_eq!(is(&[SILENT, Seen::Direct { silent: false }]), (true, false));
    }

    #[test]
    fn a_silent_member_is_dialled_where_its_frames_go() {
        let now = Instant::now();
        let dialled = |conns: &[Seen], frames| look(&mut Around::default(), now, conns, frames);
        for (frames, conns, want) in [
            (Frames::Direct, [SILENT, SILENT], true),
            (Frames::Direct, [SILENT, Seen::Carried], true),
            (Frames::Channel, [SILENT, SILENT], true),
            (Frames::Channel, [SILENT, Seen::Carried], false),
            (Frames::Stream, [SILENT, SILENT], false),
            (Frames::Lost, [SILENT, SILENT], false),
            (Frames::Direct, [SILENT, Seen::Stream], false),
            (Frames::Channel, [SILENT, Seen::Direct { silent: false }], false),
        ] {
            assert_eq!(dialled(&conns, frames), want, "{frames:?} {conns:?}");
        }
        assert!(dialled(&[], Frames::Channel), "it has none at all");
    }

    #[test]
    fn streams_go_around_only_while_nothing_else_answers() {
        let (now, mut a) = (Instant::now(), Around::default());
        look(&mut a, now, &[SILENT], Frames::Channel);
        assert!(a.peers().is_empty(), "there is no such connection yet");
        look(&mut a, now, &[SILENT, Seen::Carried], Frames::Channel);
        assert_eq!(a.peers(), &BTreeSet::from([peer(1)]));
        look(&mut a, now, &[Seen::Carried, Seen::Stream], Frames::Channel);
        assert!(a.peers().is_empty());
        look(&mut a, now, &[SILENT, Seen::Carried], Frames::Lost);
        assert_eq!(a.peers().len(), 1);
        a.handle_looks(now, &BTreeMap::new(), |_| true);
        assert!(a.peers().is_empty(), "its link is gone");
    }

    #[test]
    fn pauses_grow_up_to_a_bound_and_begin_anew_when_it_answers() {
        let (mut now, mut a) = (Instant::now(), Around::default());
        let (first, longest) = defaults::AROUND;
        let mut pause = first;
        for _ in 0..12 {
            assert!(look(&mut a, now, &[SILENT], Frames::Channel));
            let early = now + pause - Duration::from_millis(1);
            assert!(!look(&mut a, early, &[SILENT], Frames::Channel), "{pause:?}");
            now += pause;
            pause = (pause * 2).min(longest);
        }
        assert_eq!(pause, longest);
        assert!(!look(&mut a, now, &[Seen::Stream], Frames::Channel));
        assert!(look(&mut a, now, &[SILENT], Frames::Channel), "a new outage");
        assert!(!look(&mut a, now, &[SILENT], Frames::Lost));
        assert!(
            !look(&mut a, now, &[SILENT], Frames::Channel),
            "the pause outlasts a worse moment"
        );
        assert!(look(&mut a, now + first, &[SILENT], Frames::Channel));
    }

    #[test]
    fn who_is_no_member_any_more_is_forgotten() {
        let (now, mut a) = (Instant::now(), Around::default());
        assert!(look(&mut a, now, &[SILENT], Frames::Direct));
        a.handle_looks(now, &BTreeMap::new(), |p| *p != peer(1));
        assert!(a.tries.is_empty());
    }

    proptest! {
        /// Whatever happens, memory is bounded by the members, and nobody is dialled sooner than the first pause.
        #[test]
        fn nobody_is_dialled_twice_within_a_pause(
            steps in proptest::collection::vec((0u64..5_000, 0u8..4, 0usize..4, 0usize..3), 1..60),
        ) {
            let (mut now, mut a) = (Instant::now(), Around::default());
            let mut dialled: BTreeMap<PeerId, Instant> = BTreeMap::new();
            let all = [Frames::Lost, Frames::Direct, Frames::Channel, Frames::Stream];
            let conns: [&[Seen]; 3] = [&[], &[SILENT], &[SILENT, Seen::Carried]];
            for (ms, n, f, c) in steps {
                now += Duration::from_millis(ms);
                let looks = BTreeMap::from([(peer(n + 1), (control(conns[c]), all[f]))]);
                for p in a.handle_looks(now, &looks, |_| true) {
                    let last = dialled.insert(p, now);
                    prop_assert!(last.is_none_or(|at| at + defaults::AROUND.0 <= now));
                }
                prop_assert!(a.tries.len() <= 4);
            }
        }
    }
}
