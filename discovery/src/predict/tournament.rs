//! The tournament: models of one signal, judged at each horizon by what came.

use super::{
    BETTER, DAY_BINS, DAY_GAIN, FORGET, HISTORY, HORIZONS, JUDGED_MIN, REFIT_EVERY, SHIFT_BLOCK, STEPS_AR, WAITING,
    WIDEN, WIDTH, WIDTH_FAR, ar::Ar, shift::Shift,
};
use std::collections::VecDeque;
use std::fmt;

/// Windows of the sliding means, samples.
pub const WINDOWS: [usize; 6] = [2, 4, 8, 16, 32, 300];
/// Gains of exponential smoothing.
pub const GAINS: [f64; 5] = [0.02, 0.05, 0.1, 0.25, 0.5];
/// Models in all: LAST, MEAN, windows, gains, AR, its blend with LAST and MEAN, day.
pub const MODELS: usize = 5 + WINDOWS.len() + GAINS.len();
const FIRST_GAIN: usize = 2 + WINDOWS.len();
const AR: usize = FIRST_GAIN + GAINS.len();
const BLEND: usize = AR + 1;
const DAY: usize = AR + 2;
const Z95: f64 = 1.96;

/// Who made a forecast.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Model(u8);

impl Model {
    /// The latest sample.
    pub const LAST: Self = Self(0);
    /// The mean since the change-point, at most over [`HISTORY`].
    pub const MEAN: Self = Self(1);
    /// The autoregressive model.
    pub const AR: Self = Self(AR as u8);

    /// Every model.
    pub fn all() -> impl Iterator<Item = Self> {
        (0..MODELS).map(|i| Self(i as u8))
    }
}

impl fmt::Display for Model {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match usize::from(self.0) {
            0 => f.write_str("LAST"),
            1 => f.write_str("MEAN"),
            i if i < FIRST_GAIN => write!(f, "BM({})", WINDOWS[i - 2]),
            i if i < AR => write!(f, "SES({})", GAINS[i - FIRST_GAIN]),
            AR => f.write_str("AR(16)"),
            BLEND => f.write_str("BLEND"),
            _ => f.write_str("DAY"),
        }
    }
}

/// What is expected, and how wrong that may be.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Forecast {
    /// Expected value, in the signal's unit.
    pub value: f64,
    /// Standard deviation of the error, widened by observed coverage: 1.96 of it each way hold 95 %.
    pub error: f64,
    /// Who says so.
    pub model: Model,
    /// Enough forecasts came true or not for `error` to mean something.
    pub judged: bool,
}

/// One horizon's judges.
#[derive(Clone, Debug)]
struct Court {
    horizon: usize,
    /// Samples between two judged forecasts.
    stride: usize,
    /// Made, not yet come true; oldest first: when due, what each model said, the winner, half width.
    waiting: VecDeque<Said>,
    /// Discounted mean squared error, and how often judged.
    errors: [(f64, u32); MODELS],
    factor: f64,
    judged: u64,
    covered: u64,
}

#[derive(Clone, Debug)]
struct Said {
    due: u64,
    values: [f64; MODELS],
    forecast: Option<Forecast>,
}

impl Court {
    fn new(horizon: usize) -> Self {
        Self {
            horizon,
            stride: horizon.div_ceil(WAITING),
            waiting: VecDeque::new(),
            errors: [(0.0, 0); MODELS],
            factor: if horizon > STEPS_AR { WIDTH_FAR } else { 1.0 },
            judged: 0,
            covered: 0,
        }
    }

    fn judge(&mut self, now: u64, x: f64) {
        while self.waiting.front().is_some_and(|s| s.due <= now) {
            let Some(said) = self.waiting.pop_front() else { return };
            let gain = FORGET * self.stride as f64;
            for ((mse, n), value) in self.errors.iter_mut().zip(&said.values) {
                if value.is_nan() {
                    continue;
                }
                *n = n.saturating_add(1);
                let e = (value - x) * (value - x);
                // A plain mean at first, so that the first error does not weigh for minutes.
                *mse += (e - *mse) * gain.max(1.0 / f64::from(*n));
            }
            if let Some(f) = said.forecast {
                let hit = (f.value - x).abs() <= Z95 * f.error + 1e-9;
                self.judged += 1;
                self.covered += u64::from(hit);
                let step = if hit { -WIDEN * 0.05 } else { WIDEN * 0.95 };
                self.factor = (self.factor * step.exp()).clamp(WIDTH.0, WIDTH.1);
            }
        }
    }

    /// The winner: least error lately, and LAST unless that is beaten clearly.
    fn winner(&self, values: &[f64; MODELS]) -> usize {
        let (last, n) = self.errors[0];
        if n < JUDGED_MIN {
            return 0;
        }
        let judged = self.errors.iter().zip(values).enumerate();
        judged
            .filter(|(_, ((_, n), v))| *n >= JUDGED_MIN && !v.is_nan())
            .map(|(i, ((mse, _), _))| (i, *mse))
            .fold(
                (0, last * BETTER),
                |best, (i, mse)| if mse < best.1 { (i, mse) } else { best },
            )
            .0
    }

    fn forecast(&self, values: &[f64; MODELS], ar: Option<&Ar>) -> Forecast {
        let i = self.winner(values);
        let empirical = self.errors[i].0;
        let variance = match ar {
            Some(ar) if i == AR => ar.variance(self.horizon),
            _ => empirical,
        };
        Forecast {
            value: values[i],
            error: variance.max(0.0).sqrt() * self.factor,
            model: Model(i as u8),
            judged: self.errors[0].1 >= JUDGED_MIN,
        }
    }
}

/// Predicts one signal that is sampled once a second and never below zero.
#[derive(Clone, Debug)]
pub struct Predictor {
    history: VecDeque<f64>,
    smooth: [f64; GAINS.len()],
    sums: [f64; WINDOWS.len()],
    total: f64,
    ar: Option<Ar>,
    since_fit: usize,
    shift: Shift,
    shifts: u32,
    day: Vec<(f64, u32)>,
    courts: Vec<Court>,
    now: u64,
    path: Vec<f64>,
    latest: Vec<([f64; MODELS], Forecast)>,
}

impl Default for Predictor {
    fn default() -> Self {
        Self {
            history: VecDeque::with_capacity(HISTORY + 1),
            smooth: [0.0; GAINS.len()],
            sums: [0.0; WINDOWS.len()],
            total: 0.0,
            ar: None,
            since_fit: 0,
            shift: Shift::default(),
            shifts: 0,
            day: vec![(0.0, 0); DAY_BINS],
            courts: HORIZONS.map(Court::new).into(),
            now: 0,
            path: Vec::with_capacity(STEPS_AR),
            latest: Vec::with_capacity(HORIZONS.len()),
        }
    }
}

impl Predictor {
    /// Takes the next sample, one second after the last; `second_of_day` (UTC, 0 to 86,399) feeds the day profile. A
    /// sample that is no finite number is ignored.
    pub fn push(&mut self, x: f64, second_of_day: u32) {
        if !x.is_finite() {
            return;
        }
        self.now += 1;
        for court in &mut self.courts {
            court.judge(self.now, x);
        }
        self.learn(x, second_of_day);
        let range = self.range();
        if let Some(ar) = &self.ar {
            ar.forecast(self.history.iter().copied(), STEPS_AR, &mut self.path);
        }
        self.latest.clear();
        for i in 0..self.courts.len() {
            let values = self.values(i, second_of_day, range);
            let (now, court) = (self.now, &mut self.courts[i]);
            let forecast = court.forecast(&values, self.ar.as_ref());
            if now.is_multiple_of(court.stride as u64) {
                court.waiting.push_back(Said {
                    due: now + court.horizon as u64,
                    values,
                    forecast: forecast.judged.then_some(forecast),
                });
            }
            self.latest.push((values, forecast));
        }
    }

    fn learn(&mut self, x: f64, second_of_day: u32) {
        if self.history.is_empty() {
            self.smooth = [x; GAINS.len()];
        }
        for (s, gain) in self.smooth.iter_mut().zip(GAINS) {
            *s += gain * (x - *s);
        }
        self.history.push_back(x);
        self.total += x;
        if self.history.len() > HISTORY {
            self.total -= self.history.pop_front().unwrap_or_default();
        }
        for (sum, w) in self.sums.iter_mut().zip(WINDOWS) {
            let n = self.history.len();
            *sum += x;
            if n > w {
                *sum -= self.history[n - 1 - w];
            }
        }
        let bin = second_of_day as usize * DAY_BINS / 86_400;
        if let Some((mean, n)) = self.day.get_mut(bin) {
            *n = n.saturating_add(1);
            *mean += (x - *mean) * DAY_GAIN.max(1.0 / f64::from(*n));
        }
        if self.shift.push(x) {
            self.forget();
        }
        self.since_fit += 1;
        if self.since_fit >= REFIT_EVERY || self.ar.is_none() && self.since_fit >= SHIFT_BLOCK {
            self.since_fit = 0;
            self.ar = Ar::fit(self.history.make_contiguous());
            self.resum();
        }
    }

    /// A level shift: only what came since speaks.
    fn forget(&mut self) {
        self.shifts += 1;
        let old = self.history.len().saturating_sub(2 * SHIFT_BLOCK);
        self.history.drain(..old);
        self.ar = None;
        self.since_fit = 0;
        self.resum();
    }

    /// Sums anew: rounding must not pile up.
    fn resum(&mut self) {
        self.total = self.history.iter().sum();
        for (sum, w) in self.sums.iter_mut().zip(WINDOWS) {
            *sum = self.history.iter().rev().take(w).sum();
        }
    }

    fn range(&self) -> (f64, f64) {
        let fold = |(lo, hi): (f64, f64), x: &f64| (lo.min(*x), hi.max(*x));
        self.history.iter().fold((f64::INFINITY, f64::NEG_INFINITY), fold)
    }

    /// What each model says; NaN: nothing.
    fn values(&self, court: usize, second_of_day: u32, (lo, hi): (f64, f64)) -> [f64; MODELS] {
        let mut out = [f64::NAN; MODELS];
        let n = self.history.len();
        let horizon = self.courts[court].horizon;
        out[0] = self.history.back().copied().unwrap_or_default();
        out[1] = self.total / n.max(1) as f64;
        for (i, (sum, w)) in self.sums.iter().zip(WINDOWS).enumerate() {
            out[2 + i] = sum / w.min(n).max(1) as f64;
        }
        out[FIRST_GAIN..AR].copy_from_slice(&self.smooth);
        if self.ar.is_some() && horizon <= STEPS_AR {
            // A fit to a short epoch can run away; what was never seen is not forecast.
            out[AR] = self.path.get(horizon - 1).copied().unwrap_or(f64::NAN).clamp(lo, hi);
        }
        out[BLEND] = self.blend(court, &out);
        let then = (second_of_day as usize + horizon) % 86_400 * DAY_BINS / 86_400;
        if let Some((mean, n)) = self.day.get(then)
            && *n >= HISTORY as u32
        {
            out[DAY] = *mean;
        }
        out
    }

    /// The mean of LAST, MEAN, smoothing and AR, weighted by how true each came: errors that differ cancel.
    fn blend(&self, court: usize, values: &[f64; MODELS]) -> f64 {
        let errors = &self.courts[court].errors;
        let (mut sum, mut weights) = (0.0, 0.0);
        for i in 0..=AR {
            let (mse, n) = errors[i];
            if values[i].is_nan() || n < JUDGED_MIN {
                continue;
            }
            let w = (mse + 1e-12).powi(-4);
            sum += w * values[i];
            weights += w;
        }
        if weights > 0.0 && weights.is_finite() {
            sum / weights
        } else {
            f64::NAN
        }
    }

    /// What is expected `horizon` seconds from the last sample: of the nearest of [`HORIZONS`] that is not nearer, or the
    /// furthest. `None` before the first sample.
    pub fn forecast(&self, horizon: usize) -> Option<Forecast> {
        let i = HORIZONS
            .iter()
            .position(|h| *h >= horizon)
            .unwrap_or(HORIZONS.len() - 1);
        self.latest.get(i).map(|l| l.1)
    }

    /// What `model` alone says at the horizon of that index.
    pub fn said(&self, horizon: usize, model: Model) -> Option<f64> {
        let (values, _) = self.latest.get(horizon)?;
        values.get(usize::from(model.0)).copied().filter(|v| !v.is_nan())
    }

    /// The latest sample.
    pub fn last(&self) -> Option<f64> {
        self.history.back().copied()
    }

    /// Level shifts seen.
    pub fn shifts(&self) -> u32 {
        self.shifts
    }

    /// Of the intervals at the horizon of that index: how many were judged, and how many held.
    pub fn coverage(&self, horizon: usize) -> (u64, u64) {
        self.courts.get(horizon).map_or((0, 0), |c| (c.judged, c.covered))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A slow wave with a little noise on it, and a step at `at`.
    fn signal(n: usize, at: usize) -> impl Iterator<Item = f64> {
        (0..n).map(move |i| {
            let noise = ((i * 7_919) % 101) as f64 / 101.0;
            10.0 + (i as f64 / 40.0).sin() * 3.0 + noise + if i < at { 0.0 } else { 40.0 }
        })
    }

    #[test]
    fn a_constant_is_forecast_exactly_and_by_last() {
        let mut p = Predictor::default();
        for s in 0..300 {
            p.push(2.0, s);
        }
        let f = p.forecast(30).unwrap();
        assert_eq!((f.value, f.error, f.model, f.judged), (2.0, 0.0, Model::LAST, true));
    }

    #[test]
    fn noise_is_not_forecast_by_last() {
        let mut p = Predictor::default();
        let xs = (0..2_000u64).map(|i| (i.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 40) as f64);
        xs.for_each(|x| p.push(x, 0));
        assert!(
            HORIZONS
                .iter()
                .take(5)
                .all(|h| p.forecast(*h).unwrap().model != Model::LAST)
        );
    }

    #[test]
    fn a_level_shift_ends_what_is_remembered() {
        let mut p = Predictor::default();
        signal(1_500, 1_200).for_each(|x| p.push(x, 0));
        assert!(p.shifts() >= 1);
        assert!(p.said(0, Model::MEAN).unwrap() > 40.0, "the mean is of the new epoch");
    }

    #[test]
    fn memory_is_bounded_and_bad_samples_are_ignored() {
        let mut p = Predictor::default();
        signal(3_000, 9_999).for_each(|x| p.push(x, 0));
        let before = p.last();
        p.push(f64::NAN, 0);
        p.push(f64::INFINITY, 0);
        assert_eq!(p.last(), before);
        assert_eq!(p.history.len(), HISTORY);
        assert!(
            p.courts.iter().all(|c| c.waiting.len() <= WAITING),
            "at most {WAITING} wait"
        );
        let names: Vec<String> = Model::all().map(|m| m.to_string()).collect();
        assert!(names.iter().all(|n| n.len() <= wire::advert::MAX_MODEL), "{names:?}");
    }
}
