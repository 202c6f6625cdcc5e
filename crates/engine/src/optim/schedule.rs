//! Learning-rate schedules: a factor on `learning_rate` as a function of the step alone.
//!
//! Formulas of transformers' `optimization.py`. `step` is 0-based: the first update uses step 0,
//! so that with warm-up the first update has rate 0.

use std::f64::consts::PI;

/// A schedule over `total` steps with `warmup` of them warming up.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Schedule {
    /// Its shape.
    pub kind: Kind,
    /// Steps of linear warm-up.
    pub warmup: u64,
    /// All steps.
    pub total: u64,
}

/// Shape after warm-up.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Kind {
    /// Straight to 0.
    Linear,
    /// `cycles` half... cosines to 0 (0.5 = once down).
    Cosine {
        /// Periods.
        cycles: f64,
    },
    /// Cosine that starts again `cycles` times.
    CosineWithRestarts {
        /// Restarts.
        cycles: f64,
    },
    /// Polynomial from 1 to `end`, both as factors.
    Polynomial {
        /// Exponent.
        power: f64,
        /// Last factor.
        end: f64,
    },
    /// 1, without warm-up.
    Constant,
    /// 1 after warm-up.
    ConstantWithWarmup,
    /// 1 / sqrt, with this time scale.
    InverseSqrt {
        /// Steps; the warm-up, or 10,000 without one.
        timescale: f64,
    },
    /// Cosine down to `min` rather than 0.
    CosineWithMin {
        /// Last factor.
        min: f64,
    },
    /// As `CosineWithMin`, with a warm-up that counts from 1 and may start above 0.
    CosineWarmupWithMin {
        /// Last factor.
        min: f64,
        /// Factor at the first warm-up step; `None` = (step + 1) / warmup.
        from: Option<f64>,
    },
    /// Warm-up, stable, then decay over `decay` steps to `min`.
    WarmupStableDecay {
        /// Steps at 1.
        stable: u64,
        /// Steps of decay.
        decay: u64,
        /// Last factor.
        min: f64,
    },
}

impl Schedule {
    /// Factor at `step` (0-based).
    #[must_use]
    pub fn factor(&self, step: u64) -> f64 {
        let (s, w, n) = (step as f64, self.warmup as f64, self.total as f64);
        let after = (s - w) / (n - w).max(1.0);
        let warm = s / w.max(1.0);
        match self.kind {
            Kind::Constant => 1.0,
            Kind::CosineWarmupWithMin { min, from } => {
                if step < self.warmup {
                    return match from {
                        None => (s + 1.0) / w.max(1.0),
                        Some(from) => from + (1.0 - from) * s / (w - 1.0).max(1.0),
                    };
                }
                let p = (s - w + 1.0) / (n - w).max(1.0);
                (cosine(0.5, p) * (1.0 - min) + min).max(0.0)
            }
            _ if step < self.warmup => warm,
            Kind::Linear => ((n - s) / (n - w).max(1.0)).max(0.0),
            Kind::Cosine { cycles } => cosine(cycles, after).max(0.0),
            Kind::CosineWithRestarts { .. } if after >= 1.0 => 0.0,
            Kind::CosineWithRestarts { cycles } => {
                (0.5 * (1.0 + (PI * ((cycles * after) % 1.0)).cos())).max(0.0)
            }
            Kind::Polynomial { end, .. } if step > self.total => end,
            Kind::Polynomial { power, end } => {
                let left = 1.0 - (s - w) / (n - w).max(1.0);
                (1.0 - end) * left.powf(power) + end
            }
            Kind::ConstantWithWarmup => 1.0,
            Kind::InverseSqrt { timescale } => ((s + timescale - w) / timescale).sqrt().recip(),
            Kind::CosineWithMin { min } => (cosine(0.5, after) * (1.0 - min) + min).max(0.0),
            Kind::WarmupStableDecay { stable, decay, min } => {
                let (stable_end, decay_f) = (self.warmup + stable, decay as f64);
                if step < stable_end {
                    return 1.0;
                }
                if step >= stable_end + decay {
                    return min;
                }
                let p = (step - stable_end) as f64 / decay_f.max(1.0);
                cosine(0.5, p) * (1.0 - min) + min
            }
        }
    }
}

fn cosine(cycles: f64, progress: f64) -> f64 {
    0.5 * (1.0 + (PI * cycles * 2.0 * progress).cos())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(kind: Kind, warmup: u64, total: u64, expected: &[(u64, f64)]) {
        let schedule = Schedule { kind, warmup, total };
        for (step, factor) in expected {
            let got = schedule.factor(*step);
            assert!((got - factor).abs() < 1e-12, "{kind:?} at {step}: {got}, expected {factor}");
        }
    }

    #[test]
    fn factors_at_known_steps() {
        check(Kind::Linear, 0, 10, &[(0, 1.0), (5, 0.5), (10, 0.0), (12, 0.0)]);
        check(Kind::Linear, 4, 10, &[(0, 0.0), (2, 0.5), (4, 1.0), (7, 0.5)]);
        let cosine = Kind::Cosine { cycles: 0.5 };
        check(cosine, 0, 10, &[(0, 1.0), (1, 0.975_528_258_147_576_8), (5, 0.5), (10, 0.0)]);
        let restarts = Kind::CosineWithRestarts { cycles: 2.0 };
        check(restarts, 0, 8, &[(0, 1.0), (2, 0.5), (4, 1.0), (8, 0.0)]);
        check(Kind::Constant, 5, 10, &[(0, 1.0), (9, 1.0)]);
        check(Kind::ConstantWithWarmup, 4, 10, &[(1, 0.25), (4, 1.0), (9, 1.0)]);
        check(Kind::InverseSqrt { timescale: 4.0 }, 4, 10, &[(2, 0.5), (4, 1.0), (16, 0.5)]);
        check(Kind::CosineWithMin { min: 0.1 }, 0, 10, &[(0, 1.0), (5, 0.55), (10, 0.1)]);
        let poly = Kind::Polynomial { power: 1.0, end: 0.1 };
        check(poly, 0, 10, &[(0, 1.0), (5, 0.55), (10, 0.1), (11, 0.1)]);
        let wsd = Kind::WarmupStableDecay { stable: 3, decay: 4, min: 0.0 };
        check(wsd, 2, 9, &[(1, 0.5), (2, 1.0), (4, 1.0), (7, 0.5), (9, 0.0)]);
        let warm = Kind::CosineWarmupWithMin { min: 0.0, from: None };
        check(warm, 2, 6, &[(0, 0.5), (1, 1.0), (3, 0.5), (5, 0.0)]);
    }
}
