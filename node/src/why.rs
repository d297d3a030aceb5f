//! Why frames to a member go the way they go, what that gains, and what would be better: in words.
//!
//! What it does not do: ask anybody. All is in the link's [`PathInfo`] already.

use crate::render;
use std::time::Duration;
use wire::{
    NodeId,
    link::{PathClass, PathInfo, PathLeft, PathSeen, PathState, PathWhy},
};

/// Loss that is spoken of, of 1,000: TCP feels 1 %.
const NOTABLE: u16 = 10;

/// How the words on a link end that never had another path.
pub const FROM_THE_START: &str = ", as it was from the start";

/// What is said of a link.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Why {
    /// Why this path, and since when.
    pub text: String,
    /// What would make it better, if anything is known.
    pub better: Option<String>,
}

/// Says it. `name`: what people call a node; `nat`: why this side is hard to reach, as the report of its router has it.
pub fn of(p: &PathInfo, name: &dyn Fn(NodeId) -> String, nat: Option<String>) -> Why {
    let active = p.paths.iter().find(|s| s.state == PathState::Active);
    let (Some(active), Some(choice)) = (active, p.choice) else {
        return Why {
            text: "there is but one way".into(),
            better: nat,
        };
    };
    let mut text = format!(
        "{}{}",
        way(active.class, name),
        figures(active.rtt, active.loss_permille)
    );
    let since = render::span(whole_seconds(choice.since));
    match (choice.why, choice.left) {
        (PathWhy::First, _) => text.push_str(&first(active.class)),
        (PathWhy::Better, Some(l)) => text.push_str(&format!(
            ", for {since}: better by measurement than {}{}",
            way(l.class, name),
            figures(l.rtt, l.loss_permille)
        )),
        (PathWhy::Silent, Some(l)) => {
            text.push_str(&format!(", for {since}: {} stopped answering", left(l, name)));
        }
        (PathWhy::Gone, Some(l)) => text.push_str(&format!(", for {since}: {} is gone", left(l, name))),
        (PathWhy::Roamed, _) => text.push_str(&format!(", for {since}: the member was heard from there")),
        (_, None) => {}
    }
    if let Some(s) = spare(p, active) {
        text.push_str(&format!(
            "; next best: {}{}",
            way(s.class, name),
            figures(s.rtt, s.loss_permille)
        ));
    }
    Why {
        better: better(p, active, choice.seeking, nat),
        text,
    }
}

fn first(class: PathClass) -> String {
    if is_direct(class) {
        FROM_THE_START.into()
    } else {
        ": no direct path has answered".into()
    }
}

fn left(l: PathLeft, name: &dyn Fn(NodeId) -> String) -> String {
    way(l.class, name)
}

/// The best of the others that answer.
fn spare<'a>(p: &'a PathInfo, active: &PathSeen) -> Option<&'a PathSeen> {
    let others = p.paths.iter().filter(|s| s.state == PathState::Validated);
    others
        .filter(|s| s.class != active.class)
        .min_by_key(|s| (s.class, s.rtt))
}

fn better(p: &PathInfo, active: &PathSeen, seeking: Option<&str>, nat: Option<String>) -> Option<String> {
    let direct_answers = p
        .paths
        .iter()
        .any(|s| is_direct(s.class) && matches!(s.state, PathState::Validated | PathState::Active));
    let relay = p.paths.iter().any(|s| matches!(s.class, PathClass::Relayed(_)));
    match seeking {
        Some(why) if !relay => Some(format!(
            "the path is {why} and no member offers a way around: one that both reach directly could pass frames on"
        )),
        Some(why) => Some(format!("the path is {why}: ways through other members are being tried")),
        None if !direct_answers => nat,
        None if is_direct(active.class) && active.loss_permille >= NOTABLE => Some(
            "the network between the two loses packets; a member that both reach directly and without loss would be used".into(),
        ),
        None => None,
    }
}

fn is_direct(class: PathClass) -> bool {
    !matches!(class, PathClass::Relayed(_) | PathClass::Stream)
}

fn way(class: PathClass, name: &dyn Fn(NodeId) -> String) -> String {
    match class {
        PathClass::SameLan => "direct on the same network".into(),
        PathClass::Ipv6 => "direct by IPv6".into(),
        PathClass::Ipv4 => "direct by IPv4".into(),
        PathClass::Relayed(via) => format!("through {}", name(via)),
        PathClass::Stream => "over a stream".into(),
    }
}

/// ` (12 ms, 3.0% lost)`.
fn figures(rtt: Option<Duration>, loss_permille: u16) -> String {
    let rtt = rtt.map(|d| render::rtt(d.as_secs_f64() * 1e3));
    let loss = (loss_permille >= NOTABLE).then(|| format!("{:.1}% lost", f64::from(loss_permille) / 10.0));
    let all: Vec<String> = rtt.into_iter().chain(loss).collect();
    match all.is_empty() {
        true => String::new(),
        false => format!(" ({})", all.join(", ")),
    }
}

fn whole_seconds(d: Duration) -> u64 {
    d.as_secs().max(1) * 1_000
}

#[cfg(test)]
mod tests {
    use super::*;
    use wire::{
        Demand,
        link::{PathChoice, PathKind},
    };

    const ATTIC: NodeId = NodeId([7; 32]);

    fn seen(class: PathClass, state: PathState, ms: u64, loss_permille: u16) -> PathSeen {
        PathSeen {
            class,
            state,
            remote: None,
            rtt: Some(Duration::from_millis(ms)),
            jitter: Duration::ZERO,
            loss_permille,
            mtu: None,
        }
    }

    fn info(why: PathWhy, left: Option<PathLeft>, paths: Vec<PathSeen>) -> PathInfo {
        PathInfo {
            kind: PathKind::Direct,
            remote: None,
            rtt: Duration::ZERO,
            lost: 0,
            sent: 0,
            tx_bytes: 0,
            rx_bytes: 0,
            mtu: None,
            queue_delay: None,
            pace: None,
            drops: vec![],
            paths,
            choice: Some(PathChoice {
                why,
                since: Duration::from_secs(3),
                left,
                demand: Demand::Heavy,
                seeking: None,
            }),
        }
    }

    fn say(p: &PathInfo, nat: Option<&str>) -> Why {
        of(p, &|_| "attic".into(), nat.map(str::to_owned))
    }

    #[test]
    fn a_detour_says_through_whom_and_what_was_left() {
        let left = PathLeft {
            class: PathClass::Ipv4,
            rtt: Some(Duration::from_millis(20)),
            loss_permille: 120,
        };
        let paths = vec![
            seen(PathClass::Relayed(ATTIC), PathState::Active, 34, 0),
            seen(PathClass::Ipv4, PathState::Validated, 20, 120),
        ];
        let w = say(&info(PathWhy::Better, Some(left), paths.clone()), Some("a router"));
        assert_eq!(
            w.text,
            "through attic (34 ms), for 3s: better by measurement than direct by IPv4 (20 ms, 12.0% lost); \
             next best: direct by IPv4 (20 ms, 12.0% lost)"
        );
        assert_eq!(w.better, None, "the direct path answers: no router is in the way");
        let w = say(
            &info(PathWhy::Silent, Some(left), paths[..1].to_vec()),
            Some("a router"),
        );
        assert_eq!(
            w.text,
            "through attic (34 ms), for 3s: direct by IPv4 stopped answering"
        );
        assert_eq!(w.better.as_deref(), Some("a router"));
    }

    #[test]
    fn what_never_changed_and_what_is_being_sought() {
        let direct = vec![seen(PathClass::SameLan, PathState::Active, 1, 0)];
        let w = say(&info(PathWhy::First, None, direct), Some("a router"));
        assert_eq!(w.text, "direct on the same network (1.0 ms), as it was from the start");
        assert_eq!(w.better, None);
        let relayed = vec![seen(PathClass::Relayed(ATTIC), PathState::Active, 50, 0)];
        let w = say(&info(PathWhy::First, None, relayed), Some("forward a port"));
        assert_eq!(w.text, "through attic (50 ms): no direct path has answered");
        assert_eq!(w.better.as_deref(), Some("forward a port"));
        let mut lossy = info(
            PathWhy::First,
            None,
            vec![seen(PathClass::Ipv4, PathState::Active, 20, 90)],
        );
        assert!(say(&lossy, None).better.unwrap().contains("loses packets"));
        lossy.choice.as_mut().unwrap().seeking = Some("lossy");
        assert!(
            say(&lossy, None)
                .better
                .unwrap()
                .contains("no member offers a way around")
        );
        let none = PathInfo { choice: None, ..lossy };
        assert_eq!(say(&none, None).text, "there is but one way");
    }
}
