//! What is written into which file of a guest's group, for cgroup v2 and v1.
//!
//! All guests of others are below one group with the owner's ceiling and weight; each guest has a group of its own in it.
//! The whole process is in the group, not its virtual processors alone: what a guest makes QEMU do is the guest's use too.
//! Sources: Documentation/admin-guide/cgroup-v2.rst, cgroup-v1/{cpuacct,memory,freezer-subsystem}.rst of the kernel.

use crate::policy::{Millicores, Slice};
use std::{path::PathBuf, time::Duration};
use wire::units::ByteSize;

/// Least quota that CFS takes.
const LEAST_QUOTA_US: u64 = 1_000;
/// Longest period that CFS takes.
const MOST_PERIOD_US: u64 = 1_000_000;

/// Folders of the controllers of version 1; none: it is not mounted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct V1 {
    /// `cpu`.
    pub cpu: PathBuf,
    /// `memory`.
    pub memory: Option<PathBuf>,
    /// `freezer`.
    pub freezer: Option<PathBuf>,
}

/// A file and what is written into it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Write {
    /// Name of the file in the group's folder.
    pub file: &'static str,
    /// What.
    pub value: String,
}

/// Controller of version 1 that a write is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Controller {
    /// `cpu`.
    Cpu,
    /// `memory`.
    Memory,
    /// `freezer`.
    Freezer,
}

fn w(file: &'static str, value: impl ToString) -> Write {
    Write {
        file,
        value: value.to_string(),
    }
}

/// Quota and period, microseconds. The period grows where the quota would be less than CFS takes.
pub fn quota(cpu: Millicores, period: Duration) -> (u64, u64) {
    let share = u64::from(cpu.0).max(1);
    let period = u64::try_from(period.as_micros()).unwrap_or(MOST_PERIOD_US);
    let period = period.max((LEAST_QUOTA_US * 1_000).div_ceil(share)).min(MOST_PERIOD_US);
    ((period * share / 1_000).max(LEAST_QUOTA_US), period)
}

/// What QEMU itself may take beside the guest's memory.
fn memory(guest: ByteSize) -> u64 {
    guest.0 + guest.0 / 4 + (128 << 20)
}

/// Version 2: the group of all guests.
pub fn all_v2(cpu: Millicores, weight: u32, period: Duration) -> Vec<Write> {
    let (quota, period) = quota(cpu, period);
    vec![
        w("cpu.max", format!("{quota} {period}")),
        w("cpu.weight", weight.clamp(1, 10_000)),
    ]
}

/// Version 2: one guest's.
pub fn guest_v2(slice: &Slice, cpus: u16, guest_memory: ByteSize) -> Vec<Write> {
    let (quota, period) = quota(slice.most, slice.period);
    let mut out = vec![w("cgroup.freeze", u8::from(slice.held.is_some()))];
    if slice.held.is_none() {
        out.push(w("cpu.max", format!("{quota} {period}")));
        out.push(w("cpu.weight", u32::from(cpus) * 100));
    }
    out.push(w("memory.max", memory(guest_memory)));
    out
}

/// Version 1: the group of all guests. Shares of 1024 are version 2's weight of 100.
pub fn all_v1(cpu: Millicores, weight: u32, period: Duration) -> Vec<(Controller, Write)> {
    let (quota, period) = quota(cpu, period);
    vec![
        (Controller::Cpu, w("cpu.cfs_period_us", period)),
        (Controller::Cpu, w("cpu.cfs_quota_us", quota)),
        (Controller::Cpu, w("cpu.shares", shares(weight))),
    ]
}

fn shares(weight: u32) -> u64 {
    (u64::from(weight) * 1_024 / 100).clamp(2, 262_144)
}

/// Version 1: one guest's.
pub fn guest_v1(slice: &Slice, cpus: u16, guest_memory: ByteSize) -> Vec<(Controller, Write)> {
    let (quota, period) = quota(slice.most, slice.period);
    let state = if slice.held.is_some() { "FROZEN" } else { "THAWED" };
    let mut out = vec![(Controller::Freezer, w("freezer.state", state))];
    if slice.held.is_none() {
        out.push((Controller::Cpu, w("cpu.cfs_period_us", period)));
        out.push((Controller::Cpu, w("cpu.cfs_quota_us", quota)));
        out.push((Controller::Cpu, w("cpu.shares", shares(u32::from(cpus) * 100))));
    }
    out.push((Controller::Memory, w("memory.limit_in_bytes", memory(guest_memory))));
    out
}
