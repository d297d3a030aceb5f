//! Which kernel modules to load, and in which order, from the kernel's own `modules.dep` and `modules.builtin`.

use anyhow::{Result, bail};
use std::collections::BTreeMap;

/// Paths (relative to the modules folder) to load one after the other so that each finds what it needs. Every one of
/// `needed` must be a module or built in; `useful` ones are left out if the kernel has neither.
///
/// # Errors
/// The kernel lacks a needed module.
pub fn load_order(dep: &str, builtin: &str, needed: &[&str], useful: &[&str]) -> Result<Vec<String>> {
    let mut by_name = BTreeMap::new();
    for line in dep.lines() {
        if let Some((path, before)) = line.split_once(':') {
            by_name.insert(module_name(path), (path, before));
        }
    }
    let built_in: Vec<String> = builtin.lines().map(module_name).collect();
    let mut order: Vec<String> = Vec::new();
    for (name, must) in needed
        .iter()
        .map(|n| (n, true))
        .chain(useful.iter().map(|n| (n, false)))
    {
        match by_name.get(&module_name(name)) {
            // depmod lists every dependency, the deepest last.
            Some((path, before)) => {
                let chain = before.split_whitespace().rev().chain([*path]);
                let new: Vec<String> = chain
                    .filter(|p| !order.iter().any(|o| o == p))
                    .map(str::to_owned)
                    .collect();
                order.extend(new);
            }
            None if built_in.contains(&module_name(name)) || !must => {}
            None => bail!("the kernel has no {name}, neither as a module nor built in"),
        }
    }
    Ok(order)
}

/// `kernel/drivers/net/virtio_net.ko.xz` is the module `virtio_net`; `-` and `_` are the same letter to the kernel.
pub fn module_name(path: &str) -> String {
    let file = path.trim().rsplit('/').next().unwrap_or_default();
    file.split('.').next().unwrap_or_default().replace('-', "_")
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEP: &str = "kernel/a/virtio.ko:
kernel/a/virtio_ring.ko: kernel/a/virtio.ko
kernel/a/virtio_pci.ko.xz: kernel/a/virtio_ring.ko kernel/a/virtio.ko
kernel/b/virtio_net.ko: kernel/b/failover.ko kernel/a/virtio_ring.ko kernel/a/virtio.ko
kernel/b/failover.ko:
kernel/c/virtio-rng.ko: kernel/a/virtio.ko
";

    #[test]
    fn each_module_comes_after_what_it_needs_and_only_once() {
        let got = load_order(
            DEP,
            "kernel/fs/ext4/ext4.ko\n",
            &["virtio_pci", "virtio_net", "ext4"],
            &["virtio_rng"],
        );
        let want = [
            "kernel/a/virtio.ko",
            "kernel/a/virtio_ring.ko",
            "kernel/a/virtio_pci.ko.xz",
            "kernel/b/failover.ko",
            "kernel/b/virtio_net.ko",
            "kernel/c/virtio-rng.ko",
        ];
        assert_eq!(got.unwrap(), want);
    }

    #[test]
    fn a_needed_module_that_is_nowhere_is_an_error_and_a_useful_one_is_not() {
        assert!(load_order(DEP, "", &["ext4"], &[]).is_err());
        assert!(load_order(DEP, "", &[], &["evdev"]).unwrap().is_empty());
    }
}
