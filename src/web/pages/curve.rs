//! A curve as SVG, for the first paint and for browsers without scripts.

use std::fmt::Write as _;

/// Two polylines in a box of 600 x 200.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Curve {
    /// The values themselves.
    pub raw: String,
    /// Their running mean.
    pub smooth: String,
}

const WIDTH: f64 = 600.0;
const HEIGHT: f64 = 200.0;
/// Air above and below.
const PAD: f64 = 8.0;
/// Weight of the past in the running mean; the slider of the page starts here.
const WEIGHT: f64 = 0.6;

impl Curve {
    /// The curve of these points; `None` with fewer than two finite ones.
    #[must_use]
    pub fn new(steps: &[i64], values: &[Option<f64>]) -> Option<Self> {
        #[expect(clippy::cast_precision_loss, reason = "steps are far below 2^52")]
        let points: Vec<(f64, f64)> = steps
            .iter()
            .zip(values)
            .filter_map(|(step, value)| {
                value.filter(|value| value.is_finite()).map(|value| (*step as f64, value))
            })
            .collect();
        let (first, last) = (points.first()?.0, points.last()?.0);
        if points.len() < 2 || last <= first {
            return None;
        }
        let low = points.iter().map(|point| point.1).fold(f64::INFINITY, f64::min);
        let high = points.iter().map(|point| point.1).fold(f64::NEG_INFINITY, f64::max);
        let span = if high > low { high - low } else { 1.0 };
        let draw = |text: &mut String, step: f64, value: f64| {
            let x = (step - first) / (last - first) * WIDTH;
            let y = PAD + (high - value) / span * (HEIGHT - 2.0 * PAD);
            // writing to a String does not fail
            let _ = write!(text, "{}{x:.1},{y:.1}", if text.is_empty() { "" } else { " " });
        };
        let (mut raw, mut smooth) = (String::new(), String::new());
        let (mut mean, mut mass) = (0.0, 0.0);
        for (step, value) in points {
            mean = WEIGHT * mean + (1.0 - WEIGHT) * value;
            mass = WEIGHT * mass + (1.0 - WEIGHT);
            draw(&mut raw, step, value);
            draw(&mut smooth, step, mean / mass);
        }
        Some(Self { raw, smooth })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn curves() {
        let check = |steps: &[i64], values: &[Option<f64>], expected: Option<&str>| {
            assert_eq!(Curve::new(steps, values).map(|curve| curve.raw).as_deref(), expected);
        };
        check(&[], &[], None);
        check(&[1], &[Some(1.0)], None);
        check(&[1, 2], &[Some(1.0), None], None);
        check(&[0, 1, 2], &[Some(2.0), None, Some(0.0)], Some("0.0,8.0 600.0,192.0"));
        check(&[0, 1], &[Some(5.0), Some(5.0)], Some("0.0,8.0 600.0,8.0"));
        check(&[3, 3], &[Some(5.0), Some(5.0)], None);
    }
}
