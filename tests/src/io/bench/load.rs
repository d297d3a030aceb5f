//! The loads: iperf3 and ping, each with a fixed end and a guard against hanging.

use super::site::find;
use crate::{
    bench::parse::{self, Rtt, Tcp, Udp},
    io::{
        netns::{Netns, RunAs},
        sh,
    },
};
use anyhow::{Context, Result, ensure};
use std::{
    process::{Child, Stdio},
    time::Duration,
};

/// How long iperf3's server may take to listen.
const LISTEN_LIMIT: Duration = Duration::from_secs(10);

/// A client that sends to `server`.
pub struct Load<'a> {
    /// Where the client runs.
    pub client: &'a Netns,
    /// Address of the server inside the tunnel.
    pub server: &'a str,
}

impl Load<'_> {
    fn iperf(&self, seconds: f64, args: &[&str]) -> Result<String> {
        let mut c = self.client.command(&find("iperf3")?, RunAs::Root)?;
        let time = format!("{seconds:.0}");
        c.args(["-c", self.server, "-J", "-t", &time, "--connect-timeout", "3000"]);
        c.args(args);
        let limit = Duration::from_secs_f64(seconds + 15.0);
        Ok(sh::run_within(c, limit)?.stdout)
    }

    /// One TCP test; the congestion control is cubic, whatever the machine's default is.
    pub fn tcp(&self, seconds: f64, args: &[&str]) -> Result<Tcp> {
        parse::tcp(&self.iperf(seconds, &[&["-C", "cubic"], args].concat())?)
    }

    /// One UDP test with packets of `len` bytes of payload; `rate` in bits a second, 0 for as fast as it goes.
    pub fn udp(&self, seconds: f64, len: u32, rate: u64) -> Result<Udp> {
        let (len, rate) = (len.to_string(), rate.to_string());
        parse::udp(&self.iperf(seconds, &["-u", "-l", &len, "-b", &rate])?)
    }

    /// A TCP stream to the server that goes on beside something else.
    pub fn stream(&self, seconds: f64) -> Result<Child> {
        let mut c = self.client.command(&find("iperf3")?, RunAs::Root)?;
        c.args(["-c", self.server, "-t", &format!("{seconds:.0}"), "-C", "cubic"]);
        Ok(c.stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()?)
    }

    /// `count` round trips `every` apart.
    pub fn ping(&self, count: u32, every: Duration) -> Result<Rtt> {
        let mut c = self.client.command(&find("ping")?, RunAs::Root)?;
        let (n, gap) = (count.to_string(), format!("{:.3}", every.as_secs_f64()));
        c.args(["-n", "-c", &n, "-i", &gap, "-W", "1", self.server]);
        let limit = every * count + Duration::from_secs(15);
        // It ends with 1 if one is lost: then the rest is what there is.
        parse::ping(&sh::run_within(c, limit)?.stdout).context("no ping came back")
    }

    /// True if one ping comes back.
    pub fn answers(&self) -> Result<bool> {
        let mut c = self.client.command(&find("ping")?, RunAs::Root)?;
        c.args(["-n", "-c", "1", "-W", "1", self.server]);
        Ok(sh::run_within(c, Duration::from_secs(5))?.code == 0)
    }
}

/// Waits until iperf3's server in `ns` listens.
pub fn wait_for_server(ns: &Netns) -> Result<()> {
    sh::until(LISTEN_LIMIT, "iperf3's server to listen", || {
        // 5201 in hexadecimal, state 0A: listening; proc(5), /proc/net/tcp6.
        let table = ns.run("cat", &["/proc/net/tcp", "/proc/net/tcp6"])?;
        let listens = table.lines().any(|l| l.contains(":1451 ") && l.contains(" 0A "));
        Ok(listens.then_some(()))
    })
}

/// Refuses an underlay that carried a packet larger than its MTU: sends a second of TCP and looks with tcpdump, if
/// there is one, for a frame of more than 1514 bytes on its way out at both ends.
pub fn check_wire(load: &Load<'_>, ends: &[&Netns]) -> Result<()> {
    let mut watches = Vec::new();
    for ns in ends {
        let mut c = ns.command(&find("tcpdump")?, RunAs::Root)?;
        c.args([
            "-Z", "root", "-n", "-p", "-Q", "out", "-c", "1", "-i", "u0", "greater", "1515",
        ]);
        let child = c
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()?;
        watches.push(child);
    }
    let sent = load.tcp(1.0, &[]);
    for mut w in watches {
        let saw_one = sh::wait_within(&mut w, Duration::ZERO)?.is_some_and(|s| s.success());
        sh::signal(w.id(), rustix::process::Signal::TERM)?;
        w.wait()?;
        ensure!(
            !saw_one,
            "a packet of more than 1500 bytes crossed the wire: the figures would flatter"
        );
    }
    sent.map(|_| ())
}
