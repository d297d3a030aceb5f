//! The node's feeling for its machine: once a second the sensors, and a forecast of the load for the host's advert.

use super::{Daemon, lock};
use crate::defaults::SENSE_EVERY;
use discovery::{
    io::sensors::Sensors,
    predict::Predictor,
    sense::{LOAD_KEEP, Sample, Signal},
};
use std::{collections::BTreeMap, sync::Arc, time::Instant};
use wire::{NodeId, advert::LoadForecast};

/// The load's history and what follows from it.
#[derive(Default)]
struct Load {
    smooth: Option<f64>,
    predictor: Predictor,
}

impl Load {
    /// Takes a second's readings; `None` while nothing can be said.
    fn push(&mut self, sample: &Sample, second_of_day: u32) -> Option<LoadForecast> {
        let queue = sample.get(Signal::RunQueue).ok()?;
        let load = self.smooth.map_or(queue, |s| s * LOAD_KEEP + queue * (1.0 - LOAD_KEEP));
        self.smooth = Some(load);
        self.predictor.push(load, second_of_day);
        let (p10, p60) = (self.predictor.forecast(10)?, self.predictor.forecast(60)?);
        // Before a minute was judged there is no error to tell of.
        p60.judged.then(|| LoadForecast {
            cpus: std::thread::available_parallelism().map_or(1, |n| u16::try_from(n.get()).unwrap_or(u16::MAX)),
            now_x100: hundredths(load),
            p10_x100: hundredths(p10.value),
            p60_x100: hundredths(p60.value),
            err60_x100: hundredths(p60.error),
            model: p60.model.to_string(),
        })
    }
}

/// Bytes over the links to each peer, both ways, and the rate since the reading before.
#[derive(Default)]
pub(super) struct Rates(BTreeMap<NodeId, (f64, u64, Option<u64>)>);

impl Rates {
    /// A second's readings; peers that are gone are forgotten.
    fn push(&mut self, at_s: f64, peers: impl Iterator<Item = (NodeId, u64)>) {
        let before = std::mem::take(&mut self.0);
        self.0 = peers
            .map(|(id, bytes)| {
                let rate = before.get(&id).and_then(|(then, old, _)| {
                    let long = at_s - then;
                    (long > 0.0).then(|| (bytes.saturating_sub(*old) as f64 * 8e-3 / long) as u64)
                });
                (id, (at_s, bytes, rate))
            })
            .collect();
    }

    /// kbit/s over the last second.
    pub(super) fn kbps(&self, peer: &NodeId) -> Option<u64> {
        self.0.get(peer)?.2
    }
}

fn hundredths(v: f64) -> u32 {
    (v * 100.0).round() as u32
}

impl Daemon {
    /// Feels the machine once a second until the node ends.
    pub(super) async fn sense_load(self: Arc<Self>) {
        let mut sensors = Sensors::new(&self.dir);
        let (mut load, began) = (Load::default(), Instant::now());
        let mut beat = tokio::time::interval(SENSE_EVERY);
        beat.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                _ = beat.tick() => {}
                () = self.stop.cancelled() => return,
            }
            // A file system that hangs must hold up nothing but this.
            let read = tokio::task::spawn_blocking(move || {
                let sample = sensors.sample();
                (sensors, sample)
            });
            let Ok((back, sample)) = read.await else {
                return tracing::error!("the sensors failed; this node no longer forecasts its load");
            };
            sensors = back;
            let second = (super::now().0 / 1_000 % 86_400) as u32;
            let forecast = load.push(&sample, second);
            tracing::trace!(row = sample.row(), ?forecast, "sensed");
            *lock(&self.load) = forecast;
            let peers = self.overlay.peers().await;
            let bytes = peers.iter().map(|p| (p.id, p.tx_bytes + p.rx_bytes));
            lock(&self.link_rates).push(began.elapsed().as_secs_f64(), bytes);
            if let Ok(bytes) = sample.get(Signal::Disk) {
                self.disk_free.store(bytes as u64, std::sync::atomic::Ordering::Relaxed);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use discovery::sense::{Meter, Raw};

    #[test]
    fn a_rate_is_what_passed_between_two_readings() {
        let (mut r, peer) = (Rates::default(), NodeId([1; 32]));
        r.push(1.0, [(peer, 1_000)].into_iter());
        assert_eq!(r.kbps(&peer), None);
        r.push(3.0, [(peer, 251_000)].into_iter());
        assert_eq!(r.kbps(&peer), Some(1_000));
        // A new connection counts from nothing.
        r.push(4.0, [(peer, 5)].into_iter());
        assert_eq!(r.kbps(&peer), Some(0));
        r.push(5.0, [].into_iter());
        assert_eq!(r.kbps(&peer), None);
    }

    fn sample(running: u32) -> Sample {
        Meter::default().sample(&Raw {
            stat: Some(format!("procs_running {running}\n")),
            ..Raw::default()
        })
    }

    #[test]
    fn a_steady_queue_is_forecast_once_it_was_judged_and_an_absent_one_never() {
        let mut load = Load::default();
        assert_eq!(load.push(&sample(4), 0), None);
        let said = (0..200).filter_map(|s| load.push(&sample(4), s)).last().unwrap();
        assert_eq!((said.now_x100, said.p60_x100, said.err60_x100), (300, 300, 0));
        assert_eq!(Load::default().push(&Meter::default().sample(&Raw::default()), 0), None);
    }
}
