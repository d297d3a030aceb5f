//! Prediction of one signal, sample by sample: how high it will be in 1 to 600 seconds, and how wrong that may be.
//!
//! No model wins everywhere, so several run side by side ([`tournament`]): for each horizon the one whose forecasts came
//! truest lately speaks. A fit that outlives its epoch loses badly, so AR is refitted every minute and a level shift
//! ([`shift`]) ends what is remembered. Intervals are widened by how often the last ones missed. Memory is bounded, a
//! sample costs O(models x horizons), a refit O(n p). What the figures are worth is measured in docs/prediction.md.
//! Paper: §3.2.

pub mod advise;
pub mod ar;
pub mod shift;
pub mod tournament;

pub use tournament::{Forecast, Model, Predictor};

/// Seconds ahead for which forecasts are made.
pub const HORIZONS: [usize; 6] = [1, 5, 10, 30, 60, 600];
/// Coefficients of the autoregressive model: Dinda's choice for host load, where longer ones gain nothing.
pub const AR_ORDER: usize = 16;
/// Furthest that the autoregressive model speaks for, samples: beyond a minute it says its mean.
pub const STEPS_AR: usize = 60;
/// Samples that models are fitted to: ten minutes.
pub const HISTORY: usize = 600;
/// Samples between two fits.
pub const REFIT_EVERY: usize = 60;
/// Samples in one block of the change-point test: long enough that block means hardly depend on each other.
pub const SHIFT_BLOCK: usize = 20;
/// Blocks of an epoch before it can end: fewer say nothing about their own spread.
pub const SHIFT_BLOCKS_MIN: u32 = 5;
/// Standard deviations of block means that two blocks in a row must be off.
pub const SHIFT_SIGMA: f64 = 4.0;
/// Share of a model's squared error that a new one replaces: half is forgotten in 12 minutes. Chosen on recorded traces,
/// as [`BETTER`] is.
pub const FORGET: f64 = 0.001;
/// A model must have been judged so often before it may win.
pub const JUDGED_MIN: u32 = 30;
/// A model must beat LAST by this factor to replace it: a coin's toss must not.
pub const BETTER: f64 = 0.9;
/// Forecasts of the furthest horizon that wait for their outcome, at most; further apart where a horizon is longer.
pub const WAITING: usize = 60;
/// Periods of the day profile: ten minutes each.
pub const DAY_BINS: usize = 144;
/// Share that a new sample moves its bin's mean of the day profile: a bin is renewed within one visit, 600 samples.
pub const DAY_GAIN: f64 = 0.005;
/// How far an interval is moved at a miss; 19 hits undo it, which makes 95 %.
pub const WIDEN: f64 = 0.06;
/// Bounds of the factor on an interval's half width.
pub const WIDTH: (f64, f64) = (0.3, 12.0);
/// The factor at first, beyond [`STEPS_AR`]: few outcomes have taught it, so it errs on the wide side.
pub const WIDTH_FAR: f64 = 1.5;
