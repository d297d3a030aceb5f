//! Finds what is missing on this machine and installs it after asking once.

use super::{answer, as_root, is_root, run, say, tool};
use crate::needs::{self, NEEDS, Need, System};
use anyhow::{Context, Result, bail};
use std::{
    fs,
    io::{IsTerminal, Write},
    path::Path,
    process::ExitCode,
};

/// How often it is looked again after an installation.
const ROUNDS: usize = 3;

/// Makes sure that everything is there, or says what to do.
///
/// # Errors
/// The person declined, this system has no apt-get, or the installation failed.
pub fn prepare(yes: bool) -> Result<()> {
    let mut yes = yes;
    for _ in 0..ROUNDS {
        let missing = missing();
        let lists = needs_package_lists();
        if missing.is_empty() && !lists {
            return Ok(());
        }
        if !install(&missing, lists, yes)? {
            return Ok(());
        }
        // Asked once. What was installed may have put out what was here: QEMU of one release the tools of another.
        yes = true;
    }
    give_up(&missing())
}

/// Installs these, if that is wanted; false: not, and all works without them.
fn install(missing: &[Need], lists: bool, yes: bool) -> Result<bool> {
    let packages = needs::packages(missing);
    for n in missing {
        say(&format!("missing: {} ({}): package {}", n.tool, n.for_what, n.package));
    }
    if lists {
        say("missing: apt's package lists, to download the guest's kernel into target/ (it is not installed)");
    }
    if os() == System::Other {
        return give_up(missing).map(|()| false);
    }
    if !packages.is_empty() {
        say(&format!("to install: apt-get install {}", packages.join(" ")));
    }
    if !yes && !ask()? {
        return give_up(missing).map(|()| false);
    }
    let apt = tool("apt-get").context("apt-get is missing")?;
    let quiet = [("DEBIAN_FRONTEND", "noninteractive".to_owned())];
    run(as_root(&apt, &quiet)?.args(["update", "-qq"]).stdout(std::io::stderr()))?;
    if !packages.is_empty() {
        let mut c = as_root(&apt, &quiet)?;
        c.args(["install", "-y", "-qq", "--no-install-recommends"])
            .args(&packages);
        run(c.stdout(std::io::stderr()))?;
    }
    Ok(true)
}

fn missing() -> Vec<Need> {
    NEEDS.into_iter().filter(|n| tool(n.tool).is_none()).collect()
}

fn os() -> System {
    needs::system(&fs::read_to_string("/etc/os-release").unwrap_or_default())
}

/// Only what is required stops; the rest is worth a line.
fn give_up(missing: &[Need]) -> Result<()> {
    let required: Vec<_> = missing.iter().filter(|n| n.required).map(|n| n.tool).collect();
    if required.is_empty() {
        return Ok(());
    }
    bail!("install these and run it again: {}", required.join(", "))
}

fn ask() -> Result<bool> {
    if !std::io::stdin().is_terminal() {
        bail!("nobody to ask: add --yes to install what is missing");
    }
    let how = if is_root() {
        ""
    } else {
        " (sudo will ask for your password)"
    };
    eprint!("Install now{how}? [y/N] ");
    std::io::stderr().flush()?;
    let mut said = String::new();
    std::io::stdin().read_line(&mut said)?;
    Ok(matches!(said.trim(), "y" | "Y" | "yes"))
}

/// True if the guest's kernel would have to be downloaded and apt has no lists to find it by.
fn needs_package_lists() -> bool {
    let some = |dir: &str, wanted: &dyn Fn(&str) -> bool| {
        let list = fs::read_dir(Path::new(dir)).into_iter().flatten().flatten();
        list.filter_map(|e| e.file_name().into_string().ok())
            .any(|n| wanted(&n))
    };
    let kernel = some("/boot", &|n| n.starts_with("vmlinuz-") && n.contains("cloud"));
    let lists = some("/var/lib/apt/lists", &|n| n.contains("Packages"));
    os() == System::Apt && !kernel && !lists
}

/// `cargo xtask doctor`.
pub fn doctor() -> Result<ExitCode> {
    let mut lacking = 0;
    for n in NEEDS {
        let found = tool(n.tool);
        let verdict = match (&found, n.required) {
            (Some(_), _) => "ok",
            (None, true) => "missing",
            (None, false) => "would help",
        };
        lacking += u32::from(found.is_none() && n.required);
        let fix = found.map_or_else(|| format!("apt-get install {}", n.package), |p| p.display().to_string());
        answer(&format!("{verdict:<11} {:<19} {:<52} {fix}", n.tool, n.for_what))?;
    }
    let root = if is_root() || tool("sudo").is_some() {
        "ok"
    } else {
        "missing"
    };
    answer(&format!(
        "{root:<11} {:<19} {:<52} run as root, or install sudo",
        "root", "makes network namespaces"
    ))?;
    let tun = if Path::new("/dev/net/tun").exists() {
        "ok"
    } else {
        "missing"
    };
    answer(&format!(
        "{tun:<11} {:<19} {:<52} modprobe tun",
        "/dev/net/tun", "the lab's links and the home's TAP"
    ))?;
    let kvm = if Path::new("/dev/kvm").exists() {
        "ok"
    } else {
        "would help"
    };
    answer(&format!(
        "{kvm:<11} {:<19} {:<52} without it guests run 5 to 20 times slower",
        "/dev/kvm", "fast guests"
    ))?;
    lacking += u32::from(root != "ok") + u32::from(tun != "ok");
    Ok(if lacking == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::from(7)
    })
}
