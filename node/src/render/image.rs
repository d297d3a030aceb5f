//! Images.

use super::{Human, Table, Tone, View, facts, peer, short, span};
use crate::api::{
    ArchiveResult, ExportResult, GcResult, ImageRemoved, ImageRow, ImageView, MountRow, PublishResult, PullResult,
    SwarmHealth, VerifyResult,
};
use std::collections::BTreeMap;
use wire::{ByteSize, fault::plain};

/// How much of it is here.
fn here(i: &ImageRow) -> String {
    match i.complete {
        true => "all".into(),
        false => {
            let percent = u64::from(i.pieces_have) * 100 / u64::from(i.pieces_total.max(1));
            // 100 % is said only of a whole image.
            format!("{}%", percent.min(99))
        }
    }
}

fn name(names: &[String], id: &str) -> String {
    names.first().map_or_else(|| head(id), |n| plain(n))
}

/// The beginning of an image id: enough to name it.
pub(super) fn head(id: &str) -> String {
    plain(id).chars().take(12).collect()
}

impl Human for Vec<ImageRow> {
    fn human(&self, view: &View) -> String {
        if self.is_empty() {
            return "no images; import one with: lanline image add FILE --name NAME\n".to_owned();
        }
        let mut t = Table::new(&["NAME", "ID", ">SIZE", ">STORED", ">HERE", "ADDED"]);
        for i in self {
            t.row([
                if i.names.is_empty() {
                    "-".into()
                } else {
                    i.names.join(",")
                },
                head(&i.id),
                ByteSize(i.size_bytes).to_string(),
                ByteSize(i.stored_bytes).to_string(),
                here(i),
                view.ago(i.added),
            ]);
            if !i.complete {
                t.tone(4, Tone::Warn);
            }
        }
        t.text(view)
    }
}

impl Human for ImageView {
    fn human(&self, view: &View) -> String {
        let i = &self.image;
        let boot = match (self.kernel, self.initrd) {
            (true, true) => "own kernel and initrd",
            (true, false) => "own kernel",
            _ => "its own boot loader",
        };
        let mut rows = vec![
            ("image", plain(&i.id)),
            (
                "names",
                if i.names.is_empty() {
                    "-".into()
                } else {
                    plain(&i.names.join(", "))
                },
            ),
            (
                "size",
                format!("{}, {} stored", ByteSize(i.size_bytes), ByteSize(i.stored_bytes)),
            ),
            (
                "here",
                format!("{} ({} of {} pieces)", here(i), i.pieces_have, i.pieces_total),
            ),
            ("boots", boot.into()),
        ];
        rows.extend(self.cmdline.iter().map(|c| ("cmdline", plain(c))));
        if !self.providers.is_empty() {
            let all: Vec<String> = self.providers.iter().map(|p| short(p)).collect();
            rows.push(("held by", all.join(" ")));
        }
        if let Some(p) = &self.profile {
            let whence = match p.nodes {
                0 => "carried over from another version".to_owned(),
                1 => "learned from one node".to_owned(),
                n => format!("learned from {n} nodes"),
            };
            rows.push((
                "a boot reads",
                format!("{} in {} pieces, {whence}", ByteSize(p.bytes), p.pieces),
            ));
        }
        rows.push(("added", view.ago(i.added)));
        if let Some(h) = &self.health {
            let copies = match h.rarest_copies {
                0 => view.paint(Tone::Bad, "some pieces are nowhere"),
                1 => view.paint(Tone::Warn, &format!("{} pieces are at one node only", h.rarest_pieces)),
                n => format!("every piece is at {n} nodes or more"),
            };
            rows.push(("swarm", copies));
        }
        let mut text = facts(&rows, view);
        if let Some(h) = &self.health {
            text.push('\n');
            text.push_str(&holders(h, i.pieces_total, view));
        }
        text
    }
}

fn holders(h: &SwarmHealth, total: u32, view: &View) -> String {
    let mut t = Table::new(&["HOLDER", "SITE", ">RTT", ">HAS"]);
    for p in &h.holders {
        let has = p.pieces.map_or_else(
            || "no answer".into(),
            |n| format!("{}%", u64::from(n) * 100 / u64::from(total.max(1))),
        );
        let rtt = p
            .rtt_us
            .map_or_else(|| "-".into(), |us| format!("{:.1} ms", us as f64 / 1e3));
        t.row([peer(&p.peer), p.site.clone(), rtt, has]);
        if p.pieces.is_none() {
            t.tone(3, Tone::Warn);
        }
    }
    t.text(view)
}

impl Human for PublishResult {
    fn human(&self, _: &View) -> String {
        format!(
            "{} is published: {} pieces changed, {} new, {} in {}\n  {}\n",
            plain(&self.name),
            self.changed_pieces,
            self.new_pieces,
            ByteSize(self.new_bytes),
            span(self.elapsed_ms),
            plain(&self.id),
        )
    }
}

impl Human for ExportResult {
    fn human(&self, _: &View) -> String {
        let (bytes, took) = (ByteSize(self.bytes), span(self.elapsed_ms));
        format!("{} written: {bytes} in {took}\n", plain(&self.file))
    }
}

impl Human for GcResult {
    fn human(&self, view: &View) -> String {
        let mut text = format!(
            "{} pieces dropped, {} freed, {} held\n",
            self.pieces,
            ByteSize(self.freed_bytes),
            ByteSize(self.held_bytes)
        );
        for t in &self.thinned {
            text.push_str(&format!("  {}: {} pieces that others have\n", head(&t.id), t.pieces));
        }
        if !self.reached {
            let why = "the rest is in use, boots read it, or fewer than 3 other nodes have it";
            text.push_str(&format!("{}\n", view.paint(Tone::Warn, why)));
            text.push_str(
                "  next: remove an image: lanline image rm REF; or move one: lanline image archive REF FOLDER\n",
            );
        }
        text
    }
}

impl Human for ArchiveResult {
    fn human(&self, _: &View) -> String {
        format!(
            "{} is in {}: {} pieces, {} written, {} freed here\n",
            head(&self.id),
            plain(&self.folder),
            self.pieces,
            ByteSize(self.written_bytes),
            ByteSize(self.freed_bytes)
        )
    }
}

/// `61.0 MiB from …abc, 12 MiB from …def`.
pub(super) fn sources(bytes_from: &BTreeMap<String, u64>) -> String {
    let all: Vec<String> = bytes_from
        .iter()
        .map(|(p, n)| format!("{} from {}", ByteSize(*n), peer(p)))
        .collect();
    all.join(", ")
}

impl Human for PullResult {
    fn human(&self, _: &View) -> String {
        let name = name(&self.names, &self.id);
        let state = if self.complete {
            "is here, whole"
        } else {
            "is here in part"
        };
        if self.pieces == 0 {
            return format!("{name} {state}: nothing was left to fetch\n");
        }
        let rate = self.bytes.saturating_mul(1_000) / self.elapsed_ms.max(1);
        let (bytes, rate, took) = (ByteSize(self.bytes), ByteSize(rate), span(self.elapsed_ms));
        format!(
            "{name} {state}: {bytes} in {took}, {rate}/s\n  {}\n",
            sources(&self.bytes_from)
        )
    }
}

impl Human for VerifyResult {
    fn human(&self, view: &View) -> String {
        let read = format!(
            "{} pieces, {} in {}",
            self.pieces,
            ByteSize(self.bytes),
            span(self.elapsed_ms)
        );
        let id = head(&self.id);
        match self.bad {
            0 => format!("{} every stored piece of {id} is right ({read})\n", view.check()),
            n => {
                let bad = view.paint(Tone::Bad, &format!("{n} pieces were wrong and are dropped"));
                format!("{bad} ({read})\n  next: fetch them again: lanline image pull {id}\n")
            }
        }
    }
}

impl Human for ImageRemoved {
    fn human(&self, _: &View) -> String {
        format!(
            "{} removed, {} freed\n",
            name(&self.names, &self.id),
            ByteSize(self.freed_bytes)
        )
    }
}

impl Human for MountRow {
    fn human(&self, _: &View) -> String {
        let files: Vec<String> = self.files.iter().map(|f| plain(f)).collect();
        format!("{}  {}  {}\n", plain(&self.dir), head(&self.id), files.join(" "))
    }
}

impl Human for Vec<MountRow> {
    fn human(&self, view: &View) -> String {
        if self.is_empty() {
            return "no image is mounted; mount one with: lanline image mount REF DIR\n".to_owned();
        }
        let mut t = Table::new(&["FOLDER", "IMAGE", "FILES"]);
        for m in self {
            t.row([m.dir.clone(), head(&m.id), m.files.join(",")]);
        }
        t.text(view)
    }
}
