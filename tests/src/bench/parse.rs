//! What iperf3, ping and the kernel's files say, read into numbers.

use anyhow::{Context, Result};
use serde_json::Value;
use std::collections::BTreeMap;

/// What one TCP test carried.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Tcp {
    /// Payload that arrived, bits a second.
    pub rate: f64,
    /// Payload that arrived, bytes.
    pub bytes: f64,
    /// Segments sent again.
    pub retransmits: f64,
}

/// What one UDP test carried.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Udp {
    /// Packets that arrived.
    pub arrived: f64,
    /// Share that did not, percent.
    pub loss: f64,
    /// Length of the test.
    pub seconds: f64,
}

/// Round trips in microseconds.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Rtt {
    /// Mean.
    pub avg: f64,
    /// Median.
    pub p50: f64,
    /// 99th percentile.
    pub p99: f64,
    /// How many came back.
    pub count: usize,
}

fn at(v: &Value, path: &str) -> Result<f64> {
    let found = v.pointer(path).and_then(Value::as_f64);
    found.with_context(|| format!("iperf3's answer has no {path}"))
}

fn iperf(text: &str) -> Result<Value> {
    let v: Value = serde_json::from_str(text).context("iperf3 printed no JSON document")?;
    match v.get("error").and_then(Value::as_str) {
        Some(e) => anyhow::bail!("iperf3: {e}"),
        None => Ok(v),
    }
}

/// `iperf3 -c … -J`.
pub fn tcp(text: &str) -> Result<Tcp> {
    let v = iperf(text)?;
    Ok(Tcp {
        rate: at(&v, "/end/sum_received/bits_per_second")?,
        bytes: at(&v, "/end/sum_received/bytes")?,
        retransmits: at(&v, "/end/sum_sent/retransmits").unwrap_or(0.0),
    })
}

/// `iperf3 -c … -u -J`.
pub fn udp(text: &str) -> Result<Udp> {
    let v = iperf(text)?;
    Ok(Udp {
        arrived: at(&v, "/end/sum/packets")? - at(&v, "/end/sum/lost_packets")?,
        loss: at(&v, "/end/sum/lost_percent")?,
        seconds: at(&v, "/end/sum/seconds")?,
    })
}

/// The lines `… time=0.045 ms` of ping(8); `None` if nothing came back.
pub fn ping(text: &str) -> Option<Rtt> {
    let times = text.split("time=").skip(1);
    let ms = times.filter_map(|t| t.split(' ').next()?.parse::<f64>().ok());
    let mut us: Vec<f64> = ms.map(|t| t * 1_000.0).collect();
    us.sort_by(f64::total_cmp);
    let p50 = *us.get(us.len() / 2)?;
    let p99 = *us.get((us.len() * 99 / 100).min(us.len().checked_sub(1)?))?;
    Some(Rtt {
        avg: us.iter().sum::<f64>() / us.len() as f64,
        p50,
        p99,
        count: us.len(),
    })
}

/// One process of `/proc/PID/stat`, proc(5); times in clock ticks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stat {
    /// Its parent.
    pub parent: u32,
    /// Its process group.
    pub group: u32,
    /// User and system time of all its threads, also of those that ended.
    pub own: u64,
    /// The same of its children that it has waited for.
    pub children: u64,
}

/// Reads `/proc/PID/stat`.
pub fn stat(text: &str) -> Option<Stat> {
    // The name in brackets may hold spaces and brackets: look behind the last one. Field 3, the state, comes first.
    let rest: Vec<&str> = text.rsplit_once(") ")?.1.split_whitespace().collect();
    let field = |n: usize| rest.get(n - 3)?.parse::<u64>().ok();
    Some(Stat {
        parent: u32::try_from(field(4)?).ok()?,
        group: u32::try_from(field(5)?).ok()?,
        own: field(14)? + field(15)?,
        children: field(16)? + field(17)?,
    })
}

/// Busy ticks of the first line of `/proc/stat`: all but idle, iowait and steal.
pub fn busy(text: &str) -> Option<u64> {
    let mut words = text.lines().next()?.split_whitespace().skip(1);
    let all: Vec<u64> = words.by_ref().take(8).filter_map(|w| w.parse().ok()).collect();
    let total: u64 = all.iter().sum();
    Some(total - all.get(3)? - all.get(4)? - all.get(7)?)
}

/// `VmHWM` of `/proc/PID/status`, bytes: the most memory it ever had resident.
pub fn peak_memory(text: &str) -> Option<u64> {
    let line = text.lines().find_map(|l| l.strip_prefix("VmHWM:"))?;
    Some(line.split_whitespace().next()?.parse::<u64>().ok()? * 1_024)
}

/// `/proc/net/snmp` and `/proc/net/netstat`: pairs of lines, names and values, each begun by the protocol's name. Keys
/// are as nstat(8) prints them, such as `TcpInCsumErrors`.
pub fn counters(text: &str) -> BTreeMap<String, u64> {
    let lines: Vec<&str> = text.lines().collect();
    let mut out = BTreeMap::new();
    for pair in lines.chunks_exact(2) {
        let (Some(names), Some(values)) = (pair[0].split_once(':'), pair[1].split_once(':')) else {
            continue;
        };
        let both = names.1.split_whitespace().zip(values.1.split_whitespace());
        // Some are -1 for "no limit"; those are no counters.
        out.extend(both.filter_map(|(n, v)| Some((format!("{}{n}", names.0), v.parse().ok()?))));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn iperf_documents_are_read_and_errors_are_errors() {
        let doc = r#"{"end":{"sum_received":{"bits_per_second":2e9,"bytes":1e9},"sum_sent":{"retransmits":3}}}"#;
        let want = Tcp {
            rate: 2e9,
            bytes: 1e9,
            retransmits: 3.0,
        };
        assert_eq!(tcp(doc).unwrap(), want);
        let doc = r#"{"end":{"sum":{"packets":100,"lost_packets":25,"lost_percent":25.0,"seconds":2}}}"#;
        assert_eq!(udp(doc).unwrap().arrived, 75.0);
        let e = tcp(r#"{"start":{},"error":"unable to connect"}"#).unwrap_err();
        assert!(format!("{e:#}").contains("unable to connect"));
        assert!(tcp("").is_err() && tcp("{}").is_err());
    }

    #[test]
    fn pings_are_counted_and_none_is_none() {
        let said = "64 bytes from 1: icmp_seq=1 ttl=64 time=0.040 ms\n64 bytes: icmp_seq=2 ttl=64 time=0.060 ms\n";
        let r = ping(said).unwrap();
        assert!(
            (r.avg - 50.0).abs() < 1e-9 && (r.p99 - 60.0).abs() < 1e-9 && (r.p50 - 60.0).abs() < 1e-9 && r.count == 2
        );
        assert_eq!(ping("100% packet loss"), None);
    }

    #[test]
    fn proc_files_are_read_also_with_odd_names() {
        let line = "7 (a) b (c)) S 1 5 5 0 -1 4194560 1 2 3 4 100 20 30 4 20 0 1 0 9 8";
        let want = Stat {
            parent: 1,
            group: 5,
            own: 120,
            children: 34,
        };
        assert_eq!(stat(line), Some(want));
        assert_eq!(stat("7 (x"), None);
        assert_eq!(busy("cpu  10 1 5 100 3 2 2 7 0 0\ncpu0 1"), Some(20));
        assert_eq!(peak_memory("Name:\tx\nVmHWM:\t   2048 kB\n"), Some(2_097_152));
        let c = counters("Tcp: MaxConn InCsumErrors\nTcp: -1 4\nUdp: InCsumErrors\nUdp: 0\n");
        assert_eq!(c.get("TcpInCsumErrors"), Some(&4));
        assert_eq!(c.get("UdpInCsumErrors"), Some(&0));
        assert_eq!(c.get("TcpMaxConn"), None);
    }
}
