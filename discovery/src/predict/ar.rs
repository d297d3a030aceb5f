//! AR(16): each sample as a weighted sum of the sixteen before it. Fitted by Yule and Walker's equations, solved by
//! Levinson's and Durbin's recursion (Brockwell and Davis, Time Series, §8.2), O(n p) a fit.

use super::{AR_ORDER, STEPS_AR};

/// A fitted model.
#[derive(Clone, Debug, PartialEq)]
pub struct Ar {
    mean: f64,
    coefficients: [f64; AR_ORDER],
    /// Variance of one step's error.
    noise: f64,
    /// Error variance by horizon, 1 first: noise times the sum of the squared psi weights.
    variances: Vec<f64>,
}

impl Ar {
    /// Fits a model to samples, oldest first; `None` for fewer than four a coefficient, or ones that do not vary.
    pub fn fit(samples: &[f64]) -> Option<Self> {
        if samples.len() < 4 * AR_ORDER {
            return None;
        }
        let n = samples.len() as f64;
        let mean = samples.iter().sum::<f64>() / n;
        let centred: Vec<f64> = samples.iter().map(|x| x - mean).collect();
        let mut cov = [0.0; AR_ORDER + 1];
        for (lag, c) in cov.iter_mut().enumerate() {
            *c = centred
                .iter()
                .zip(centred.iter().skip(lag))
                .map(|(a, b)| a * b)
                .sum::<f64>()
                / n;
        }
        let (coefficients, noise) = levinson_durbin(&cov)?;
        Some(Self {
            mean,
            coefficients,
            noise,
            variances: variances(&coefficients, noise),
        })
    }

    /// Forecasts of the next `steps` samples into `out`, which it clears; `samples` are the latest, oldest first.
    pub fn forecast(&self, samples: impl DoubleEndedIterator<Item = f64>, steps: usize, out: &mut Vec<f64>) {
        let mut recent = [0.0; AR_ORDER];
        for (slot, x) in recent.iter_mut().zip(samples.rev()) {
            *slot = x - self.mean;
        }
        out.clear();
        for _ in 0..steps {
            let next: f64 = self.coefficients.iter().zip(&recent).map(|(a, x)| a * x).sum();
            recent.rotate_right(1);
            recent[0] = next;
            out.push(next + self.mean);
        }
    }

    /// Error variance of the forecast `horizon` samples ahead, 1 or more; beyond [`STEPS_AR`], of that.
    pub fn variance(&self, horizon: usize) -> f64 {
        let at = horizon.saturating_sub(1).min(self.variances.len().saturating_sub(1));
        self.variances.get(at).copied().unwrap_or(self.noise)
    }

    /// Weights of the latest sample and those before it.
    pub fn coefficients(&self) -> &[f64; AR_ORDER] {
        &self.coefficients
    }
}

/// Coefficients and error variance from autocovariances at lags 0 to [`AR_ORDER`]; `None` if lag 0 is not positive.
fn levinson_durbin(cov: &[f64; AR_ORDER + 1]) -> Option<([f64; AR_ORDER], f64)> {
    let mut error = cov[0];
    if !error.is_finite() || error <= f64::EPSILON {
        return None;
    }
    let floor = error * 1e-9;
    let mut a = [0.0; AR_ORDER];
    for k in 0..AR_ORDER {
        let past: f64 = (0..k).map(|j| a[j] * cov[k - j]).sum();
        let reflection = (cov[k + 1] - past) / error;
        let before = a;
        a[k] = reflection;
        for j in 0..k {
            a[j] = before[j] - reflection * before[k - 1 - j];
        }
        error *= 1.0 - reflection * reflection;
        // What is left is rounding: a longer model would fit that.
        if error <= floor {
            error = floor;
            break;
        }
    }
    a.iter().all(|x| x.is_finite()).then_some((a, error))
}

fn variances(a: &[f64; AR_ORDER], noise: f64) -> Vec<f64> {
    let mut psi = vec![1.0];
    let mut sum = 1.0;
    let mut out = vec![noise];
    for h in 1..STEPS_AR {
        let next: f64 = a.iter().zip(psi.iter().rev()).map(|(a, p)| a * p).sum();
        psi.push(next);
        sum += next * next;
        debug_assert_eq!(psi.len(), h + 1);
        out.push(noise * sum);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Uniform noise of variance 1, the same each time.
    pub(crate) fn noise(n: usize, mut seed: u64) -> Vec<f64> {
        let mut next = || {
            seed = seed
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            (seed >> 11) as f64 / (1u64 << 53) as f64
        };
        (0..n).map(|_| (next() - 0.5) * 12f64.sqrt()).collect()
    }

    #[test]
    fn it_finds_the_weights_that_made_the_samples() {
        let e = noise(20_000, 7);
        let mut x = vec![0.0, 0.0];
        for e in &e {
            let n = x.len();
            x.push(0.6 * x[n - 1] + 0.3 * x[n - 2] + e);
        }
        let ar = Ar::fit(&x).unwrap();
        assert!((ar.coefficients[0] - 0.6).abs() < 0.03, "{:?}", ar.coefficients);
        assert!((ar.coefficients[1] - 0.3).abs() < 0.03, "{:?}", ar.coefficients);
        assert!((ar.noise - 1.0).abs() < 0.05, "{}", ar.noise);
        // Two steps ahead: e2 + 0.6 e1.
        assert!((ar.variance(2) - 1.36).abs() < 0.1, "{}", ar.variance(2));
        let mut out = Vec::new();
        ar.forecast([0.0, 0.0, 1.0].into_iter().map(|v: f64| v + ar.mean), 2, &mut out);
        assert!((out[0] - ar.mean - ar.coefficients[0]).abs() < 0.1, "{out:?}");
    }

    #[test]
    fn too_few_or_constant_samples_have_no_model() {
        assert_eq!(Ar::fit(&vec![1.0; 600]), None);
        assert_eq!(Ar::fit(&noise(4 * AR_ORDER - 1, 1)), None);
        assert!(Ar::fit(&noise(4 * AR_ORDER, 1)).is_some());
    }

    proptest! {
        #[test]
        fn any_samples_give_finite_forecasts_and_growing_variances(xs in proptest::collection::vec(-1e6f64..1e6, 64..200)) {
            if let Some(ar) = Ar::fit(&xs) {
                let mut out = Vec::new();
                ar.forecast(xs.iter().copied(), STEPS_AR, &mut out);
                prop_assert_eq!(out.len(), STEPS_AR);
                prop_assert!(out.iter().all(|x| x.is_finite()));
                for h in 1..STEPS_AR {
                    prop_assert!(ar.variance(h + 1) >= ar.variance(h));
                }
            }
        }
    }
}
