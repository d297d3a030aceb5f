//! Groups of cgroup v2 and v1: found, made, written, removed.

use super::Order;
use crate::{
    enforce::{
        Backend, Found,
        cgroup::{self, Controller, V1, Write},
    },
    policy::Plan,
};
use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
};
use wire::ids::GuestId;

/// One line of `/proc/self/mountinfo` that matters here: mount point, type, options of the super block.
fn mounts(root: &Path) -> Vec<(PathBuf, String, Vec<String>)> {
    let text = fs::read_to_string(root.join("proc/self/mountinfo")).unwrap_or_default();
    let parse = |line: &str| {
        let (left, right) = line.split_once(" - ")?;
        let at = left.split(' ').nth(4)?.to_owned();
        let mut right = right.split(' ');
        let (kind, options) = (right.next()?.to_owned(), right.nth(1)?);
        let under = at.strip_prefix('/').unwrap_or(&at);
        Some((root.join(under), kind, options.split(',').map(str::to_owned).collect()))
    };
    text.lines().filter_map(parse).collect()
}

/// This process's group in a hierarchy: `controller` empty for version 2.
fn own(root: &Path, controller: &str) -> Option<String> {
    let text = fs::read_to_string(root.join("proc/self/cgroup")).ok()?;
    text.lines().find_map(|line| {
        let mut parts = line.splitn(3, ':');
        let (_, names, path) = (parts.next()?, parts.next()?, parts.next()?);
        let found = names.split(',').any(|n| n == controller);
        found.then(|| path.trim_start_matches('/').to_owned())
    })
}

/// What the machine grants: version 2 first, then version 1.
pub(super) fn look(root: &Path, name: &str) -> (Result<PathBuf, String>, Result<V1, String>) {
    let mounts = mounts(root);
    (look_v2(root, &mounts, name), look_v1(root, &mounts, name))
}

type Mounts = [(PathBuf, String, Vec<String>)];

fn look_v2(root: &Path, mounts: &Mounts, name: &str) -> Result<PathBuf, String> {
    let (at, ..) = mounts
        .iter()
        .find(|(_, kind, _)| kind == "cgroup2")
        .ok_or("is not mounted")?;
    let base = at.join(own(root, "").ok_or("has no group of this node")?);
    let controllers = fs::read_to_string(base.join("cgroup.controllers")).unwrap_or_default();
    for wanted in ["cpu", "memory"] {
        if !controllers.split_whitespace().any(|c| c == wanted) {
            return Err(format!(
                "does not give this node the controller '{wanted}': start it as a systemd service with Delegate=yes"
            ));
        }
    }
    delegate(root, at, &base)
        .map_err(|e| format!("is not delegated to this node ({e}): start it as a systemd service with Delegate=yes"))?;
    let all = base.join(name);
    make(&all).map_err(|e| format!("refuses groups ({e})"))?;
    enable(&all).map_err(|e| format!("refuses controllers below {} ({e})", all.display()))?;
    Ok(all)
}

/// A group with controllers for its children may hold no process itself, but the root: this node and its guests go into a
/// leaf. A group that others share is left alone.
fn delegate(root: &Path, mount: &Path, base: &Path) -> io::Result<()> {
    if base == mount || base == mount.join("") {
        return enable(base);
    }
    let pids = fs::read_to_string(base.join("cgroup.procs"))?;
    let me = std::process::id().to_string();
    let comm = |pid: &str| fs::read_to_string(root.join("proc").join(pid).join("comm")).unwrap_or_default();
    if let Some(other) = pids.lines().find(|p| *p != me && !comm(p).starts_with("qemu-system")) {
        return Err(io::Error::other(format!("process {other} is in its group too")));
    }
    let leaf = base.join("node");
    make(&leaf)?;
    for pid in pids.lines() {
        put(&leaf.join("cgroup.procs"), pid)?;
    }
    enable(base)
}

fn enable(group: &Path) -> io::Result<()> {
    put(&group.join("cgroup.subtree_control"), "+cpu +memory")
}

fn look_v1(root: &Path, mounts: &Mounts, name: &str) -> Result<V1, String> {
    let folder = |controller: &str| -> Result<PathBuf, String> {
        let found = mounts
            .iter()
            .find(|(_, kind, options)| kind == "cgroup" && options.iter().any(|o| o == controller));
        let (at, ..) = found.ok_or_else(|| format!("has no controller '{controller}'"))?;
        let all = at.join(own(root, controller).unwrap_or_default()).join(name);
        // Tried, not kept: a node without a policy leaves nothing behind.
        make(&all).map_err(|e| format!("refuses groups ({e}): run the node as root"))?;
        tidy(&all);
        Ok(all)
    };
    Ok(V1 {
        cpu: folder("cpu")?,
        memory: folder("memory").ok(),
        freezer: folder("freezer").ok(),
    })
}

fn make(dir: &Path) -> io::Result<()> {
    match fs::create_dir(dir) {
        Err(e) if e.kind() != io::ErrorKind::AlreadyExists => Err(e),
        _ => Ok(()),
    }
}

/// Removes a group that holds nothing; one that does stays, and so does one that is not there.
fn tidy(dir: &Path) {
    let _ = fs::remove_dir(dir);
}

/// One write, as control files want it: whole, into a file that is there.
fn put(file: &Path, value: &str) -> io::Result<()> {
    use io::Write as _;
    fs::OpenOptions::new()
        .write(true)
        .open(file)?
        .write_all(value.as_bytes())
}

/// Groups of this node.
pub(super) struct Groups {
    v2: Option<PathBuf>,
    v1: Option<V1>,
    /// What was written where, so that the same is not written every second.
    written: BTreeMap<PathBuf, String>,
}

impl Groups {
    pub(super) fn new(found: &Found, _name: &str) -> Self {
        Self {
            v2: found.v2.as_ref().ok().cloned(),
            v1: found.v1.as_ref().ok().cloned(),
            written: BTreeMap::new(),
        }
    }

    pub(super) fn backend(&self) -> Option<Backend> {
        match (&self.v2, &self.v1) {
            (Some(_), _) => Some(Backend::CgroupV2),
            (None, Some(_)) => Some(Backend::CgroupV1),
            (None, None) => None,
        }
    }

    fn write(&mut self, dir: &Path, w: &Write) -> io::Result<()> {
        let file = dir.join(w.file);
        if self.written.get(&file) == Some(&w.value) {
            return Ok(());
        }
        put(&file, &w.value)?;
        self.written.insert(file, w.value.clone());
        Ok(())
    }

    fn dir_v1(v1: &V1, controller: Controller) -> Option<&Path> {
        match controller {
            Controller::Cpu => Some(&v1.cpu),
            Controller::Memory => v1.memory.as_deref(),
            Controller::Freezer => v1.freezer.as_deref(),
        }
    }

    /// The ceiling and weight of all guests together.
    pub(super) fn all(&mut self, plan: &Plan) {
        let mut todo: Vec<(PathBuf, Write)> = Vec::new();
        if let Some(dir) = &self.v2 {
            todo.extend(
                cgroup::all_v2(plan.cpu, plan.weight, plan.period)
                    .into_iter()
                    .map(|w| (dir.clone(), w)),
            );
        } else if let Some(v1) = &self.v1 {
            let writes = cgroup::all_v1(plan.cpu, plan.weight, plan.period);
            todo.extend(
                writes
                    .into_iter()
                    .filter_map(|(c, w)| Some((Self::dir_v1(v1, c)?.to_owned(), w))),
            );
        }
        for (dir, _) in &todo {
            if let Err(e) = make(dir) {
                tracing::warn!(group = %dir.display(), error = %e, "the group of all guests cannot be made");
            }
        }
        // While everything stands still the ceiling stays what it was: a quota of nothing cannot be written.
        for (dir, w) in todo.into_iter().filter(|_| plan.cpu.0 > 0) {
            if let Err(e) = self.write(&dir, &w) {
                tracing::warn!(file = %dir.join(w.file).display(), value = %w.value, error = %e, "the ceiling of all guests was refused");
            }
        }
    }

    /// Puts a guest into its group and writes its slice.
    pub(super) fn guest(&mut self, order: &Order) -> io::Result<()> {
        let name = order.slice.id.to_string();
        if let Some(all) = self.v2.clone() {
            let dir = all.join(name);
            make(&dir)?;
            self.join(&dir, order.pid)?;
            for w in cgroup::guest_v2(&order.slice, order.cpus, order.memory) {
                self.write(&dir, &w)?;
            }
            return Ok(());
        }
        let v1 = self.v1.clone().ok_or_else(|| io::Error::other("there are no groups"))?;
        for (controller, w) in cgroup::guest_v1(&order.slice, order.cpus, order.memory) {
            let Some(all) = Self::dir_v1(&v1, controller) else {
                if controller == Controller::Freezer && order.slice.held.is_some() {
                    return Err(io::Error::other("there is no freezer"));
                }
                continue;
            };
            let dir = all.join(&name);
            make(all)?;
            make(&dir)?;
            self.join(&dir, order.pid)?;
            match self.write(&dir, &w) {
                // A guest that already has more than a new limit keeps it: memory is asked back, not torn away.
                Err(e) if controller == Controller::Memory => tracing::debug!(error = %e, "memory limit not set"),
                result => result?,
            }
        }
        Ok(())
    }

    fn join(&mut self, dir: &Path, pid: u32) -> io::Result<()> {
        self.write(
            dir,
            &Write {
                file: "cgroup.procs",
                value: pid.to_string(),
            },
        )
    }

    /// Takes a guest out of its group; a living process goes back to the one above.
    pub(super) fn remove(&mut self, id: GuestId) {
        let v1 = self
            .v1
            .iter()
            .flat_map(|v| [Some(&v.cpu), v.memory.as_ref(), v.freezer.as_ref()])
            .flatten();
        let dirs: Vec<PathBuf> = self.v2.iter().chain(v1).map(|all| all.join(id.to_string())).collect();
        for dir in dirs {
            self.written.retain(|f, _| !f.starts_with(&dir));
            let above = dir.parent().filter(|_| self.v2.is_none()).map(Path::to_owned);
            if dir.exists() {
                Self::empty(&dir);
            }
            if let Some(all) = above {
                self.written.retain(|f, _| f.parent() != Some(all.as_path()));
                tidy(&all);
            }
        }
    }

    /// Lets what is in a group go, and removes it.
    fn empty(dir: &Path) {
        for file in [("cgroup.freeze", "0"), ("freezer.state", "THAWED")] {
            if dir.join(file.0).exists()
                && let Err(e) = put(&dir.join(file.0), file.1)
            {
                tracing::warn!(group = %dir.display(), error = %e, "a guest cannot be thawed");
            }
        }
        if let (Ok(pids), Some(above)) = (
            fs::read_to_string(dir.join("cgroup.procs")),
            dir.parent().and_then(Path::parent),
        ) {
            for pid in pids.lines() {
                // One that has ended meanwhile needs no group.
                let _ = put(&above.join("cgroup.procs"), pid);
            }
        }
        if let Err(e) = fs::remove_dir(dir) {
            tracing::debug!(group = %dir.display(), error = %e, "a group stays");
        }
    }
}
