//! Removes what labs of dead processes left behind: a lab that was killed could not tidy up.

use super::netns::{self, PREFIX};
use std::{fs, path::Path};

/// Sweeps namespaces and folders whose owner no longer lives. What cannot be removed is reported and left.
pub fn sweep() {
    for name in entries(Path::new(netns::DIR)).into_iter().filter(|n| is_orphan(n)) {
        if let Err(e) = netns::remove(&name) {
            super::lab::say(&format!("lab: cannot remove the leftover namespace {name}: {e:#}"));
        }
    }
    let tmp = std::env::temp_dir();
    for name in entries(&tmp).into_iter().filter(|n| is_orphan(n)) {
        if let Err(e) = fs::remove_dir_all(tmp.join(&name)) {
            super::lab::say(&format!("lab: cannot remove the leftover folder {name}: {e}"));
        }
    }
}

fn entries(dir: &Path) -> Vec<String> {
    let Ok(list) = fs::read_dir(dir) else {
        return Vec::new(); // No folder: no leftovers.
    };
    list.flatten()
        .filter_map(|e| e.file_name().into_string().ok())
        .collect()
}

/// True for a name `lln-lab-PID-…` whose process does not live.
fn is_orphan(name: &str) -> bool {
    let pid = name.strip_prefix(PREFIX).and_then(|rest| rest.split('-').next());
    let pid = pid.and_then(|p| p.parse::<u32>().ok());
    pid.is_some_and(|p| !Path::new(&format!("/proc/{p}")).exists())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_of_dead_labs_are_orphans() {
        let me = std::process::id();
        assert!(!is_orphan(&format!("lln-lab-{me}-0-home")));
        // Above the kernel's largest pid, 2^22.
        assert!(is_orphan("lln-lab-4194999-0-home"));
        for other in ["lln-lab-x-home", "home", "lln-4194999-home", "lln-lab-"] {
            assert!(!is_orphan(other), "{other}");
        }
    }
}
