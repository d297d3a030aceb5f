//! Guests.

use super::{Human, Table, Tone, View, accel, count, escape, facts, image, or_dash, short, span};
use crate::api::{DiskRow, DiskWord, GuestLogs, GuestRemoved, GuestRow, GuestView, RunResult, StopView};
use wire::{ByteSize, fault::plain};

fn tone(state: &str) -> Option<Tone> {
    match state {
        "running" => Some(Tone::Good),
        "crashed" | "error" => Some(Tone::Bad),
        "in-doubt" | "fetching" | "starting" | "moving" => Some(Tone::Warn),
        "stopped" | "hibernated" | "paused" => Some(Tone::Dim),
        _ => None,
    }
}

/// A disk in a few words.
fn disk_words(d: &DiskRow) -> String {
    let share = |word: &str| {
        let done = d.have_bytes.saturating_mul(100).checked_div(d.total_bytes);
        format!("{word} {} %", done.unwrap_or(100).min(100))
    };
    match d.stage {
        DiskWord::OnDemand => share("on demand"),
        DiskWord::Fetching => share("fetching"),
        DiskWord::Copying => share("copying"),
        DiskWord::Waiting => share("waiting"),
        DiskWord::Persistent => "persistent".into(),
    }
}

impl Human for Vec<GuestRow> {
    fn human(&self, view: &View) -> String {
        if self.is_empty() {
            return "no guests; start one with: lanline run IMAGE\n".to_owned();
        }
        // Guests boot from memory alone where none has a disk.
        let disks = self.iter().any(|g| g.disk.is_some());
        let mut heads = vec![
            "NAME", "STATE", "HOST", "IP", "LAN", ">CPUS", ">MEMORY", ">UP", "IMAGE", "NOTE",
        ];
        if disks {
            heads.insert(9, "DISK");
        }
        let mut t = Table::new(&heads);
        for g in self {
            let note = match (&g.note, g.mine) {
                (Some(n), _) => n.clone(),
                (None, false) => format!("of {}", short(&g.owner)),
                (None, true) => String::new(),
            };
            let mut row = vec![
                g.name.clone(),
                g.state.clone(),
                g.host_name.clone(),
                or_dash(g.ip.as_deref()),
                or_dash(g.lan.as_deref()),
                g.cpus.to_string(),
                ByteSize(g.memory_bytes).to_string(),
                g.uptime_ms.map_or_else(|| "-".into(), span),
                if g.image.len() == 52 {
                    image::head(&g.image)
                } else {
                    g.image.clone()
                },
                note,
            ];
            if disks {
                row.insert(9, g.disk.as_ref().map_or_else(|| "-".into(), disk_words));
            }
            t.row(row);
            if let Some(tone) = tone(&g.state) {
                t.tone(1, tone);
            }
        }
        t.text(view)
    }
}

impl Human for GuestView {
    fn human(&self, view: &View) -> String {
        let g = &self.guest;
        let state = tone(&g.state).map_or_else(|| plain(&g.state), |t| view.paint(t, &plain(&g.state)));
        let up = g.uptime_ms.map_or_else(String::new, |ms| format!(", up {}", span(ms)));
        let why = g
            .note
            .as_deref()
            .map_or_else(String::new, |n| format!(" ({})", plain(n)));
        let seen: Vec<String> = self
            .addresses
            .iter()
            .map(|a| format!("{} ({})", plain(&a.ip), plain(&a.learned)))
            .collect();
        let disk = self
            .disk_bytes
            .map_or_else(|| "as the image".into(), |d| ByteSize(d).to_string());
        let own = g.disk.as_ref().map_or_else(String::new, |d| {
            let why = d
                .note
                .as_deref()
                .map_or_else(String::new, |n| format!(" ({})", plain(n)));
            format!(", {}{why}", disk_words(d))
        });
        let disk = format!("{disk}{own}");
        let mut rows = vec![
            ("guest", plain(&g.id)),
            ("name", plain(&g.name)),
            ("state", format!("{state}{up}{why}")),
            ("host", format!("{} ({})", plain(&g.host_name), short(&g.host))),
            ("owner", if g.mine { "this node".into() } else { short(&g.owner) }),
            ("lan", or_dash(g.lan.as_deref())),
            ("mac", plain(&g.mac)),
            (
                "addresses",
                if seen.is_empty() {
                    "none seen yet".into()
                } else {
                    seen.join(", ")
                },
            ),
            (
                "image",
                format!("{} ({})", plain(&g.image), image::head(&self.image_id)),
            ),
            (
                "size",
                format!("{}, {}, disk {disk}", count(g.cpus, "cpu"), ByteSize(g.memory_bytes)),
            ),
            ("accel", accel(&g.accel, self.accel_reason.as_deref())),
        ];
        rows.extend(self.qemu.iter().map(|q| ("qemu", plain(q))));
        rows.push(("made", view.ago(self.created)));
        let mut out = facts(&rows, view);
        for n in &self.history {
            out.push_str(&format!("  {:>8}  {}\n", view.ago(n.at), plain(&n.what)));
        }
        out
    }
}

impl Human for RunResult {
    /// Only the address, so that `$(lanline run web)` is one; [`run_hints`] says the rest.
    fn human(&self, _: &View) -> String {
        self.ip
            .as_deref()
            .map_or_else(String::new, |ip| format!("{}\n", plain(ip)))
    }
}

/// How the hosts that fitted were weighed, for standard error.
pub fn placement(r: &RunResult, view: &View) -> String {
    let line = |(i, p): (usize, &crate::api::PlaceRow)| {
        let chosen = if p.host == r.host { " (chosen)" } else { "" };
        format!("  {}. {}{chosen}: {}\n", i + 1, plain(&p.host_name), plain(&p.why))
    };
    let lines: String = r.placement.iter().enumerate().map(line).collect();
    view.paint(
        Tone::Dim,
        &format!("{} fitted, best first:", super::count(r.placement.len() as u64, "host")),
    ) + "\n"
        + &lines
}

/// What a person can do with a guest that just started, for standard error.
pub fn run_hints(r: &RunResult, view: &View) -> String {
    let name = plain(&r.name);
    let lan = r
        .lan
        .as_deref()
        .map_or_else(String::new, |l| format!(" · LAN {}", plain(l)));
    let from = match r.image_bytes {
        0 => String::new(),
        _ => format!(" · {}", image::sources(&r.bytes_from)),
    };
    let line = format!(
        "  {name} on {}{lan} · {} · {}{from}\n",
        plain(&r.host_name),
        plain(&r.accel),
        span(r.total_ms)
    );
    let line = if view.unicode { line } else { line.replace('·', "-") };
    let hints = format!("  console: lanline console {name}   logs: lanline logs {name}   stop: lanline stop {name}\n");
    view.paint(Tone::Dim, line.trim_end_matches('\n')) + "\n" + &hints
}

impl Human for StopView {
    fn human(&self, view: &View) -> String {
        let (name, took) = (plain(&self.name), span(self.took_ms));
        match (self.how.as_str(), self.obeyed) {
            ("already", _) => format!("{name} was stopped already\n"),
            (_, Some(true)) => format!("{name} shut itself down in {took}\n"),
            (how, Some(false)) => {
                let how = if how == "killed" {
                    "its process was killed"
                } else {
                    "it was switched off"
                };
                let said = view.paint(Tone::Warn, "did not shut down when asked");
                format!("{name} {said}; {how} after {took}\n")
            }
            ("killed", None) => format!("{name}: its process was killed after {took}\n"),
            (_, None) => format!("{name} was switched off in {took}\n"),
        }
    }
}

impl Human for GuestRemoved {
    fn human(&self, _: &View) -> String {
        if self.forgotten {
            return format!(
                "{} is forgotten here; its host did not answer and is told to remove it when it comes back\n",
                plain(&self.name)
            );
        }
        format!("{} removed, with its disk\n", plain(&self.name))
    }
}

impl Human for GuestLogs {
    fn human(&self, view: &View) -> String {
        let mut out = String::new();
        if self.truncated {
            out.push_str(&view.paint(Tone::Dim, "(earlier output is left out)"));
            out.push('\n');
        }
        // A serial line ends in CR LF; a terminal needs LF alone.
        out.push_str(&escape::text(&self.console).replace("\r\n", "\n").replace('\r', ""));
        if !out.is_empty() && !out.ends_with('\n') {
            out.push('\n');
        }
        if !self.qemu.trim().is_empty() {
            out.push_str(&view.paint(Tone::Dim, "-- QEMU said:"));
            out.push('\n');
            out.push_str(escape::text(&self.qemu).trim_end());
            out.push('\n');
        }
        if out.is_empty() {
            return format!("{} has printed nothing yet\n", plain(&self.name));
        }
        out
    }
}
