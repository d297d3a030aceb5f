//! Images.

use super::{Human, Table, Tone, View, facts, peer, short, span};
use crate::api::{ImageRemoved, ImageRow, ImageView, PullResult, VerifyResult};
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
        rows.push(("added", view.ago(i.added)));
        facts(&rows, view)
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
