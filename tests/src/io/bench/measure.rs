//! The tests of one product, in their order.

use super::{
    load::{self, Load},
    others::{self, Passed},
    site::{Side, Site},
};
use crate::{
    bench::{
        metrics::{Metric, Sample},
        parse,
    },
    io::{lab::say, netns::Netns, sh},
};
use anyhow::{Context, Result, ensure};
use std::{fs, time::Duration};

/// How long each test takes.
#[derive(Debug, Clone, Copy)]
pub struct Pace {
    /// Seconds of a TCP test; UDP tests take half.
    pub seconds: f64,
    /// Pings of the idle tunnel, 2 ms apart.
    pub pings: u32,
    /// Longest time to wait, a product and repetition, for others to leave the machine alone.
    pub patience: Duration,
}

impl Pace {
    fn udp(&self) -> f64 {
        (self.seconds / 2.0).max(1.0)
    }
}

/// How long a product may take until the first ping passes.
const UP_LIMIT: Duration = Duration::from_secs(40);

/// Length of the small packets, bytes of UDP payload, and their rate when paced.
const SMALL: u32 = 200;
const PACED: u64 = 20_000;

/// A product that is up, being measured from the host.
pub struct Measure<'a> {
    site: &'a Site,
    load: Load<'a>,
    pace: Pace,
    patience: Duration,
    sample: Sample,
}

/// What a test cost the machine.
struct Cost {
    product: f64,
    passed: Passed,
}

impl<'a> Measure<'a> {
    /// Waits until a ping passes from the host to `server`, then `settle`, and starts iperf3's server in `at`.
    pub fn new(site: &'a Site, at: &Netns, server: &'a str, settle: Duration, pace: Pace) -> Result<Self> {
        let load = Load {
            client: site.ns(Side::Host),
            server,
        };
        let up = sh::until(UP_LIMIT, "a ping through the tunnel", || {
            site.all_live()?;
            Ok(load.answers()?.then_some(()))
        });
        up.with_context(|| site.logs())?;
        sh::pause(settle);
        site.spawn_helper(at, "iperf3", &["-s"])?;
        load::wait_for_server(at)?;
        Ok(Self {
            site,
            load,
            pace,
            patience: pace.patience,
            sample: Sample::new(),
        })
    }

    /// Runs `test` when others leave the machine alone, and notes what it cost and what others took meanwhile.
    fn timed<T>(&mut self, test: impl FnOnce(&Load<'_>) -> Result<T>) -> Result<(T, Cost)> {
        others::wait_for_quiet(&mut self.patience);
        let pids = self.site.pids();
        let (clock, cpu) = (others::look(), others::cpu(&pids));
        let got = test(&self.load).inspect_err(|_| say(&self.site.logs()))?;
        let cost = Cost {
            product: others::cpu(&pids) - cpu,
            passed: clock.passed(),
        };
        let worst = self.sample.entry(Metric::Others).or_insert(0.0);
        *worst = worst.max(cost.passed.others());
        Ok((got, cost))
    }

    /// All tests; gives the figures.
    pub fn all(mut self) -> Result<Sample> {
        load::check_wire(&self.load, &[self.site.ns(Side::Home), self.site.ns(Side::Host)])?;
        let before = [self.site.wire(Side::Home)?, self.site.wire(Side::Host)?];
        self.idle()?;
        self.tcp()?;
        self.small_packets()?;
        self.loaded()?;
        for (side, (bytes, packets)) in Side::BOTH.into_iter().zip(before) {
            let (b, p) = self.site.wire(side)?;
            let mean = (b - bytes) / (p - packets).max(1);
            ensure!(mean <= 1514, "packets of {mean} bytes in the mean crossed the wire");
        }
        self.memory();
        self.site.all_live()?;
        Ok(self.sample)
    }

    /// What the LAN port scenario asks: both directions and full UDP packets.
    pub fn port(mut self) -> Result<Sample> {
        let time = self.pace.seconds;
        let (up, _) = self.timed(|l| l.tcp(time, &[]))?;
        let (down, _) = self.timed(|l| l.tcp(time, &["-R"]))?;
        // The largest packet that a LAN of MTU 1500 carries, at a rate that every machine can do.
        let (full, _) = self.timed(|l| l.udp(time / 2.0, 1_472, 200_000_000))?;
        self.sample.insert(Metric::ToHome, up.rate / 1e9);
        self.sample.insert(Metric::ToHost, down.rate / 1e9);
        self.sample.insert(Metric::FullLoss, full.loss);
        Ok(self.sample)
    }

    fn idle(&mut self) -> Result<()> {
        let n = self.pace.pings;
        let (rtt, _) = self.timed(|l| l.ping(n, Duration::from_millis(2)))?;
        self.sample.insert(Metric::IdleAvg, rtt.avg);
        self.sample.insert(Metric::IdleP99, rtt.p99);
        Ok(())
    }

    fn tcp(&mut self) -> Result<()> {
        let time = self.pace.seconds;
        let (up, cost) = self.timed(|l| l.tcp(time, &[]))?;
        let gb = up.bytes / 1e9;
        ensure!(gb > 0.0, "the TCP stream carried nothing");
        self.sample.insert(Metric::ToHome, up.rate / 1e9);
        self.sample.insert(Metric::Retransmits, up.retransmits);
        self.product_cpu(Metric::CpuPerGb, cost.product / gb);
        self.sample.insert(Metric::BusyPerGb, cost.passed.busy / gb);
        let (down, _) = self.timed(|l| l.tcp(time, &["-R"]))?;
        self.sample.insert(Metric::ToHost, down.rate / 1e9);
        let (four, _) = self.timed(|l| l.tcp(time, &["-P", "4"]))?;
        self.sample.insert(Metric::Four, four.rate / 1e9);
        Ok(())
    }

    fn small_packets(&mut self) -> Result<()> {
        let time = self.pace.udp();
        let (flood, _) = self.timed(|l| l.udp(time, SMALL, 0))?;
        self.sample.insert(Metric::FloodPps, flood.arrived / flood.seconds);
        let rate = PACED * u64::from(SMALL) * 8;
        let (paced, cost) = self.timed(|l| l.udp(time, SMALL, rate))?;
        self.sample.insert(Metric::PacedLoss, paced.loss);
        if paced.arrived > 0.0 {
            self.product_cpu(Metric::PacedCpu, 1e6 * cost.product / paced.arrived);
        }
        Ok(())
    }

    /// What a tunnel of the kernel costs shows in no process: it has no such figure.
    fn product_cpu(&mut self, m: Metric, v: f64) {
        if !self.site.pids().is_empty() {
            self.sample.insert(m, v);
        }
    }

    /// Round trips beside a stream that began a second before and ends after them. Where the kernel itself fills all
    /// cores the pings take their time, so the stream is ended when they are done. This test is the last.
    fn loaded(&mut self) -> Result<()> {
        let pings = (self.pace.seconds.max(2.0) * 90.0) as u32;
        let (rtt, _) = self.timed(|l| {
            let mut beside = l.stream(60.0)?;
            sh::pause(Duration::from_secs(1));
            let rtt = l.ping(pings, Duration::from_millis(10));
            let went_on = beside.try_wait()?.is_none();
            beside.kill()?;
            beside.wait()?;
            ensure!(went_on, "the stream beside the pings ended before them");
            rtt
        })?;
        self.sample.insert(Metric::LoadedAvg, rtt.avg);
        self.sample.insert(Metric::LoadedP99, rtt.p99);
        Ok(())
    }

    fn memory(&mut self) {
        let of = |p: &u32| parse::peak_memory(&fs::read_to_string(format!("/proc/{p}/status")).ok()?);
        if let Some(most) = self.site.pids().iter().filter_map(of).max() {
            self.sample.insert(Metric::Rss, most as f64 / 1e6);
        }
    }
}
