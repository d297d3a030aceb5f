//! Tickets that are wrong, expired or used up.

use crate::common::{owner, refused, started, with_nodes};
use anyhow::{Context, Result, ensure};
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tests::io::{
    node::{Node, NodeSpec, number, text},
    sh::eventually,
};

/// A node that was refused must be in no LAN.
fn in_no_lan(node: &Node) -> Result<()> {
    let status = node.json(&["status"])?;
    ensure!(status["lans"].as_array().context("no lans")?.is_empty(), "{status}");
    Ok(())
}

#[test]
fn a_ticket_is_refused_when_it_is_garbled_expired_or_used_up() -> Result<()> {
    with_nodes("tickets", |lab| {
        let owner = owner(lab)?;
        let guest = started(lab, "guest", NodeSpec::default())?;

        refused(&guest.cli(&["join", "nonsense"])?, 2, &["ticket"])?;
        let once = text(&owner.json(&["lan", "invite", "home", "--uses", "1"])?, "ticket")?;
        refused(&guest.cli(&["join", &flip_one(&once)])?, 2, &["ticket"])?;
        in_no_lan(&guest)?;

        let short = owner.json(&["lan", "invite", "home", "--expires", "1s"])?;
        let expires = number(&short, "expires")?;
        eventually(Duration::from_secs(10), "the ticket to expire", || {
            let now = SystemTime::now().duration_since(UNIX_EPOCH)?.as_millis();
            Ok((now > u128::from(expires)).then_some(()))
        })?;
        refused(
            &guest.cli(&["join", &text(&short, "ticket")?])?,
            3,
            &["ended", "invite"],
        )?;
        in_no_lan(&guest)?;

        guest.ok(&["join", &once])?;
        let late = started(lab, "late", NodeSpec::default())?;
        refused(&late.cli(&["join", &once])?, 3, &["used up"])?;
        in_no_lan(&late)
    })
}

/// The ticket with one letter in its middle changed.
fn flip_one(ticket: &str) -> String {
    let at = ticket.len() / 2;
    let other = if ticket.as_bytes().get(at) == Some(&b'a') {
        "b"
    } else {
        "a"
    };
    let mut out = ticket.to_owned();
    out.replace_range(at..=at, other);
    out
}

#[test]
fn a_ticket_whose_node_is_gone_is_unreachable_and_leaves_nothing() -> Result<()> {
    with_nodes("ticket-gone", |lab| {
        let owner = owner(lab)?;
        let guest = started(lab, "guest", NodeSpec::default())?;
        let ticket = owner.ok(&["lan", "invite", "home"])?;
        owner.kill();
        refused(&guest.cli(&["join", &ticket])?, 6, &["reach"])?;
        in_no_lan(&guest)
    })
}
