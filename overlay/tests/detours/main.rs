//! Are outages gone around, and how soon? The experiment of the resilient overlay network, replayed in virtual time with
//! the product's own machines; `cargo xtask bench detours` runs it whole and writes docs/detours.md.
#![allow(
    clippy::disallowed_methods,
    clippy::print_stdout,
    clippy::panic,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::needless_range_loop,
    reason = "a test may read the clock for an origin of time, write its page and fail loudly; matrices are walked by index"
)]

mod figures;
mod net;
mod ours;
mod page;
mod ron;

use figures::{Figures, figures};
use net::Net;

fn all(net: &Net, seed: u64) -> [Figures; 3] {
    let direct = (vec![vec![(0.0, None)]; net.n * net.n], 0);
    [direct, ron::run(net, seed), ours::run(net, seed, true)].map(|(ways, bytes)| figures(net, &ways, bytes))
}

#[test]
fn outages_of_links_are_gone_around_within_three_seconds() {
    let net = Net::new(7, 7, 2.0);
    let [direct, ron, ours] = all(&net, 7);
    println!("{direct:?}\n{ron:?}\n{ours:?}");
    let n = direct.avoidable;
    assert!(n >= 20, "only {n} outages: this shows nothing");
    assert_eq!(direct.failovers.len(), 0);
    assert!(ron.failovers.len() + ron.over.len() + ron.never == n);
    assert!(ours.failovers.len() + ours.over.len() + ours.never == n);
    assert_eq!(ours.never, 0);
    assert!(ours.failovers.last().is_some_and(|t| *t <= 3.0), "{:?}", ours.failovers);
    assert!(ours.bad_seconds < ron.bad_seconds && ron.bad_seconds < direct.bad_seconds);
}

#[test]
#[ignore = "a minute in release; `cargo xtask bench detours` runs it and writes the page"]
fn fourteen_hours_of_twelve_nodes() {
    let net = Net::new(42, 12, 14.0);
    let all = all(&net, 42);
    page::write(&net, &all).unwrap();
}
