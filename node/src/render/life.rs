//! The rest of a guest's life, for people.

use super::{Human, Table, View, span};
use crate::api::{ExecView, FileWritten, LifeView, SnapshotRow};
use wire::{ByteSize, fault::plain};

impl Human for LifeView {
    fn human(&self, _: &View) -> String {
        let why = self
            .note
            .as_deref()
            .map_or_else(String::new, |n| format!(" ({})", plain(n)));
        format!(
            "{} is {}{why}, after {}\n",
            plain(&self.name),
            plain(&self.state),
            span(self.took_ms)
        )
    }
}

impl Human for Vec<SnapshotRow> {
    fn human(&self, view: &View) -> String {
        if self.is_empty() {
            return "no snapshots; take one with: lanline snapshot VM NAME\n".into();
        }
        let mut t = Table::new(&["NAME", "TAKEN", ">SIZE", "HOLDS"]);
        for s in self {
            let holds = if s.memory { "disk and memory" } else { "disk" };
            t.row([
                s.name.clone(),
                view.ago(s.at),
                ByteSize(s.bytes).to_string(),
                holds.into(),
            ]);
        }
        t.text(view)
    }
}

impl Human for ExecView {
    fn human(&self, _: &View) -> String {
        super::escape::text(&self.stdout)
    }
}

impl Human for FileWritten {
    fn human(&self, _: &View) -> String {
        format!("{} copied\n", ByteSize(self.bytes))
    }
}
