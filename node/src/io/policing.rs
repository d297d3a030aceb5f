//! `policy`: checked and simulated here, put in force and explained by the node.

use super::{
    client::EMPTY,
    terminal,
    verbs::{Done, Session},
};
use crate::{
    api::{PolicyReport, PolicyRequest, PolicyView, routes::Op},
    cli::{CheckArgs, EditArgs, ExplainArgs, PolicyCommand, SimulateArgs},
    owner::{self, Here},
};
use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};
use wire::{Fault, FaultKind};

/// Name of the policy in the state folder.
pub(crate) const POLICY_FILE: &str = "owner.toml";

/// This machine and its clock.
pub(crate) fn here(dir: &Path) -> Here {
    Here {
        machine: vm::io::machine(dir),
        zone: jiff::tz::TimeZone::system(),
        now: jiff::Timestamp::now(),
    }
}

/// A policy's text.
pub(crate) fn read(path: &Path) -> Result<String, Fault> {
    fs::read_to_string(path).map_err(|e| {
        let kind = if e.kind() == std::io::ErrorKind::NotFound {
            FaultKind::NoMatch
        } else {
            FaultKind::Failed
        };
        Fault::new(kind, format!("{}: {e}", path.display()))
            .next("write one: lanline policy edit --preset polite; or name a file")
    })
}

impl Session {
    pub(super) async fn policy(&self, command: PolicyCommand) -> Done {
        match command {
            PolicyCommand::Check(a) => self.policy_check(&a),
            PolicyCommand::Simulate(a) => self.policy_simulate(&a),
            PolicyCommand::Explain(a) => self.policy_explain(&a).await,
            PolicyCommand::Edit(a) => self.policy_edit(&a).await,
        }
    }

    fn policy_text(&self, file: Option<&PathBuf>) -> Result<String, Fault> {
        read(&file.cloned().unwrap_or_else(|| self.state.join(POLICY_FILE)))
    }

    fn policy_check(&self, a: &CheckArgs) -> Done {
        let text = self.policy_text(a.file.as_ref())?;
        self.show(&owner::report(&text, &here(&self.state), None, 24, &[])?)
    }

    fn policy_simulate(&self, a: &SimulateArgs) -> Done {
        let text = self.policy_text(a.file.as_ref())?;
        let here = here(&self.state);
        let at = a.at.as_deref().map(|t| owner::moment(t, &here)).transpose()?;
        self.show(&owner::report(&text, &here, at, a.hours.unwrap_or(24), &a.assume)?)
    }

    async fn policy_explain(&self, a: &ExplainArgs) -> Done {
        let mut view: PolicyView = self.client.call(Op::PolicyExplain, &[], EMPTY).await?;
        if let Some(g) = &a.guest {
            view.guests.retain(|r| r.name == *g || r.id == *g);
            if view.guests.is_empty() {
                let what = format!("no guest {g} of others runs here");
                return Err(Fault::new(FaultKind::NoMatch, what)
                    .next("see all: lanline policy explain")
                    .into());
            }
        }
        self.show(&view)
    }

    /// The text goes to the editor as a draft beside the policy; only a sound one takes its place.
    async fn policy_edit(&self, a: &EditArgs) -> Done {
        let (path, draft) = (self.state.join(POLICY_FILE), self.state.join("owner.draft.toml"));
        let text = match (fs::read_to_string(&draft), fs::read_to_string(&path)) {
            (Ok(t), _) => {
                terminal::hint("going on with the draft that was not sound\n");
                t
            }
            (_, Ok(t)) => t,
            _ => format!(
                "# What this machine lends. All keys: docs/policy.md\n[host]\npreset = \"{}\"\n",
                a.preset.as_deref().unwrap_or("polite")
            ),
        };
        let failed = |e: std::io::Error| Fault::new(FaultKind::Failed, format!("{}: {e}", draft.display()));
        fs::write(&draft, &text).map_err(failed)?;
        let editor = ["VISUAL", "EDITOR"]
            .iter()
            .find_map(|v| std::env::var(v).ok())
            .unwrap_or_else(|| "vi".into());
        let mut words = editor.split_whitespace();
        let program = words.next().unwrap_or("vi");
        let done = Command::new(program).args(words).arg(&draft).status().map_err(|e| {
            Fault::new(
                FaultKind::Missing,
                format!("the editor '{program}' cannot be started: {e}"),
            )
            .next("name another: EDITOR=nano lanline policy edit")
        })?;
        if !done.success() {
            return Err(Fault::new(
                FaultKind::Failed,
                "the editor ended with a failure; nothing was changed",
            )
            .into());
        }
        let text = fs::read_to_string(&draft).map_err(failed)?;
        owner::compile(&text, here(&self.state).machine)?;
        let request = PolicyRequest {
            text: Some(text),
            store: true,
            ..PolicyRequest::default()
        };
        let report: PolicyReport = self.client.call(Op::PolicyCheck, &[], Some(&request)).await?;
        fs::remove_file(&draft).map_err(failed)?;
        self.show(&report)
    }
}
