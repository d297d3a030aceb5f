//! A guest on a lending host talks to the laptop at home: it is told that it would be better off there. Paper: §3.3

use super::{WAIT, scene::Scene, with_guests};
use anyhow::{Context, Result, ensure};
use serde_json::Value;
use tests::io::{lab::say, sh::eventually, small_guest::SmallGuest};

#[test]
fn a_guest_that_talks_to_the_home_is_told_to_move_there_with_the_numbers() -> Result<()> {
    with_guests("placement", |lab| {
        let small = SmallGuest::build(lab.dir())?;
        let mut s = Scene::build(lab, &small, "128M")?;
        let ip = s.lease()?.to_string();
        let ask = |s: &Scene| s.node.json(&["advise", "placement", "--lan", "home"]);
        let quiet = ask(&s)?;
        ensure!(quiet["moves"].as_array().is_some_and(Vec::is_empty), "{quiet}");
        ensure!(quiet["stays"][0]["name"] == "g", "{quiet}");

        // The home lends, too; then the laptop has something to say.
        s.node.ok(&["offer", "--cpus", "2", "--memory", "2G"])?;
        let chat = ["ping", "-c", "100", "-i", "0.05", "-s", "1000", "-W", "2", ip.as_str()];
        let (home, host) = (s.node.id()?, s.host.id()?);
        let told: Value = eventually(2 * WAIT, "the advice to move the guest", || {
            s.home.laptop.run("busybox", &chat)?;
            let told = ask(&s)?;
            Ok((told["moves"][0]["name"] == "g").then_some(told))
        })?;
        let m = &told["moves"][0];
        say(&format!("placement: {m}"));
        let figure = |key: &str| m[key].as_f64().with_context(|| format!("no {key}: {told}"));
        ensure!(m["from"] == *host && m["to"] == *home, "{m}");
        // Two links of 10 ms each way lie between; at home nothing does.
        ensure!(figure("before_ms")? >= 40.0 && figure("after_ms")? < 2.0, "{m}");
        ensure!(figure("gain_ms")? >= 38.0, "{m}");
        ensure!(
            figure("network_bytes_s")? > 1_250.0 && figure("network_bytes_s_after")? < figure("network_bytes_s")? / 2.0,
            "{m}"
        );
        ensure!((0.0..=1.0).contains(&figure("confidence")?), "{m}");
        ensure!(m["talks"][0]["node"] == *home, "{m}");
        let shown = s.node.ok(&["advise", "placement"])?;
        ensure!(shown.contains("one move at a time"), "{shown}");
        // Nobody hears of guests that are not its own.
        let stranger = s.host.json(&["advise", "placement"])?;
        ensure!(stranger["moves"].as_array().is_some_and(Vec::is_empty), "{stranger}");
        Ok(())
    })
}
