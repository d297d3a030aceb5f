//! docs/detours.md and its picture.

use super::{figures::Figures, net::Net};
use std::{fmt::Write as _, io};

const NAMES: [&str; 3] = ["direct path alone", "RON's rule", "lanline"];

/// Value below which such a share lies.
fn quantile(of: &[f64], share: f64) -> String {
    let i = ((of.len() as f64 * share).ceil() as usize).clamp(1, of.len().max(1)) - 1;
    of.get(i).map_or("-".into(), |v| format!("{v:.2}"))
}

pub fn write(net: &Net, all: &[Figures; 3]) -> io::Result<()> {
    let docs = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs");
    std::fs::write(format!("{docs}/detours.svg"), picture(all))?;
    let path = format!("{docs}/detours.md");
    let old = std::fs::read_to_string(&path)?;
    let (mark, end) = ("<!-- figures -->\n", "<!-- end of figures -->");
    let (head, rest) = old
        .split_once(mark)
        .ok_or_else(|| io::Error::other("no mark in docs/detours.md"))?;
    let (_, tail) = rest
        .split_once(end)
        .ok_or_else(|| io::Error::other("no end mark in docs/detours.md"))?;
    std::fs::write(path, format!("{head}{mark}{}{end}{tail}", tables(net, all)))
}

fn tables(net: &Net, all: &[Figures; 3]) -> String {
    let mut out = String::new();
    let [links, half, access, nodes, loss, slow] = net.faults;
    let _ = writeln!(
        out,
        "{} nodes, {} hours. Faults: {links} links down, {half} times one of a node's two providers, {access} access links, {nodes} nodes; {loss} times loss, {slow} times latency. {} avoidable outages, each direction of a pair counted.\n",
        net.n,
        net.seconds / 3_600.0,
        all[0].avoidable
    );
    let _ = writeln!(out, "| | {} |\n|---|---|---|---|", NAMES.join(" | "));
    let mut row = |name: &str, of: &dyn Fn(&Figures) -> String| {
        let _ = writeln!(
            out,
            "| {name} | {} |",
            all.iter().map(of).collect::<Vec<_>>().join(" | ")
        );
    };
    row("seconds with half of the frames lost or more", &|f| {
        f.bad_seconds.to_string()
    });
    row("of them needless: some way of one hop was good", &|f| {
        f.needless.to_string()
    });
    let base = all[0].needless as f64;
    row("avoidable seconds avoided", &|f| {
        format!("{:.1} %", 100.0 * (1.0 - f.needless as f64 / base))
    });
    row("half hours with more than 30 % lost", &|f| f.half_hours[0].to_string());
    row("half hours with more than 10 % lost", &|f| f.half_hours[1].to_string());
    row("avoidable outages gone around", &|f| f.failovers.len().to_string());
    row("over before, in less than 10 s", &|f| f.over.len().to_string());
    row("sat through", &|f| f.never.to_string());
    for (name, share) in [("median", 0.5), ("95 %", 0.95), ("worst", 1.0)] {
        row(&format!("failover, s: {name}"), &|f| quantile(&f.failovers, share));
    }
    row("mean round trip, ms (direct path in the same seconds)", &|f| {
        format!("{:.1} ({:.1})", f.rtt.1, f.rtt.0)
    });
    row("seconds more than a tenth shorter", &|f| {
        format!("{:.2} %", 100.0 * f.shorter)
    });
    row("changes of way", &|f| f.changes.to_string());
    row("probe bytes a node and day, MB", &|f| {
        format!("{:.1}", f.bytes as f64 / 1e6)
    });
    out
}

/// Share of failovers that took no longer than so many seconds, for both rules.
fn picture(all: &[Figures; 3]) -> String {
    let (left, top, width, height, most) = (60.0, 40.0, 560.0, 240.0, 40.0);
    let mut body = String::new();
    for i in 0..=4 {
        let (share, seconds) = (f64::from(i) / 4.0, f64::from(i) * most / 4.0);
        let (y, x) = (top + height * (1.0 - share), left + width * seconds / most);
        let _ = writeln!(
            body,
            "<line class=\"axis\" x1=\"{left}\" y1=\"{y}\" x2=\"{}\" y2=\"{y}\"/><text x=\"14\" y=\"{}\">{:.0} %</text><text x=\"{x}\" y=\"{}\">{seconds:.0} s</text>",
            left + width,
            y + 4.0,
            100.0 * share,
            top + height + 20.0
        );
    }
    for (class, name, f) in [("ron", NAMES[1], &all[1]), ("own", NAMES[2], &all[2])] {
        let n = f.avoidable.max(1) as f64;
        let mut d = format!("M{left} {}", top + height);
        for i in 0..=400 {
            let t = f64::from(i) * most / 400.0;
            let share = f.failovers.iter().take_while(|x| **x <= t).count() as f64 / n;
            let _ = write!(
                d,
                " L{:.1} {:.1}",
                left + width * t / most,
                top + height * (1.0 - share)
            );
        }
        let y = if class == "own" { 24 } else { 36 };
        let _ = writeln!(
            body,
            "<path class=\"{class}\" d=\"{d}\"/><text x=\"{}\" y=\"{y}\" class=\"n-{class}\">{name}</text>",
            left + width - 110.0
        );
    }
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 660 310\" role=\"img\" aria-label=\"Outages gone around within a time\">\n<style>\n.ground {{ fill: #ffffff }} text {{ fill: #1f2328; font: 12px system-ui, sans-serif }} .axis {{ stroke: #d1d9e0 }}\npath {{ fill: none; stroke-width: 2 }} .ron {{ stroke: #8c959f }} .own {{ stroke: #0969da }} .n-own {{ fill: #0969da }} .n-ron {{ fill: #59636e }}\n@media (prefers-color-scheme: dark) {{ .ground {{ fill: #0d1117 }} text {{ fill: #e6edf3 }} .axis {{ stroke: #3d444d }} .own {{ stroke: #4493f8 }} .n-own {{ fill: #4493f8 }} }}\n</style>\n<rect class=\"ground\" width=\"660\" height=\"310\"/>\n<text x=\"{left}\" y=\"24\">Share of avoidable outages gone around within so many seconds</text>\n{body}</svg>\n"
    )
}
