//! The next token from logits: transformers' order of penalties and cuts, with our own draws.

/// How the next token is chosen.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sampling {
    /// Draw; else the most likely is taken.
    pub sample: bool,
    /// Logits are divided by this.
    pub temperature: f32,
    /// Only the most likely tokens that together have this probability are drawn from.
    pub top_p: f32,
    /// Only so many of the most likely are drawn from; 0 = all.
    pub top_k: usize,
    /// Logits of tokens that are there already are moved away by this factor; 1 = not.
    pub repetition_penalty: f32,
}

impl Sampling {
    /// The token that a number `draw` in [0, 1) chooses, after the tokens `seen`.
    #[must_use]
    pub fn choose(&self, logits: &mut [f32], seen: &[u32], draw: f32) -> u32 {
        if self.repetition_penalty != 1.0 {
            let once: std::collections::BTreeSet<u32> = seen.iter().copied().collect();
            for id in once {
                let Some(z) = logits.get_mut(id as usize) else { continue };
                let penalty = self.repetition_penalty;
                *z = if *z < 0.0 { *z * penalty } else { *z / penalty };
            }
        }
        if !self.sample {
            return argmax(logits);
        }
        let z = |id: &u32| logits[*id as usize] / self.temperature.max(1e-6);
        let mut order: Vec<u32> = (0..logits.len() as u32).collect();
        // Equal logits stay in the order of their ids.
        order.sort_by(|a, b| z(b).total_cmp(&z(a)));
        if self.top_k > 0 {
            order.truncate(self.top_k);
        }
        let peak = order.first().map_or(0.0, z);
        let mut weights: Vec<f64> = order.iter().map(|id| f64::from(z(id) - peak).exp()).collect();
        let whole: f64 = weights.iter().sum();
        let mut before = 0.0;
        let kept = weights.iter().take_while(|w| {
            let keep = before < f64::from(self.top_p) * whole;
            before += **w;
            keep
        });
        let kept = kept.count().max(1);
        weights.truncate(kept);
        let mut left = f64::from(draw) * weights.iter().sum::<f64>();
        for (id, weight) in order.iter().zip(&weights) {
            left -= weight;
            if left < 0.0 {
                return *id;
            }
        }
        order.get(kept - 1).copied().unwrap_or(0)
    }
}

/// Index of the largest value; the first of equals.
#[must_use]
pub fn argmax(x: &[f32]) -> u32 {
    let best = x
        .iter()
        .enumerate()
        .fold((0, f32::NEG_INFINITY), |best, (i, v)| if *v > best.1 { (i, *v) } else { best });
    best.0 as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn penalties_and_cuts_come_in_transformers_order() {
        let plain = Sampling {
            sample: true,
            temperature: 1.0,
            top_p: 1.0,
            top_k: 0,
            repetition_penalty: 1.0,
        };
        // Probabilities of ids 0..4: 0.1, 0.4, 0.2, 0.3.
        let logits = || [0.1f32, 0.4, 0.2, 0.3].map(f32::ln);
        let check = |how: Sampling, seen: &[u32], draws: &[(f32, u32)]| {
            for (draw, expected) in draws {
                assert_eq!(how.choose(&mut logits(), seen, *draw), *expected, "{how:?} {draw}");
            }
        };
        check(plain, &[], &[(0.0, 1), (0.39, 1), (0.41, 3), (0.71, 2), (0.91, 0), (0.999, 0)]);
        check(Sampling { top_k: 2, ..plain }, &[], &[(0.57, 1), (0.58, 3), (0.999, 3)]);
        check(Sampling { top_p: 0.5, ..plain }, &[], &[(0.57, 1), (0.58, 3), (0.999, 3)]);
        check(Sampling { top_p: 0.3, ..plain }, &[], &[(0.999, 1)]);
        check(Sampling { temperature: 1e-3, ..plain }, &[], &[(0.999, 1)]);
        check(Sampling { sample: false, ..plain }, &[], &[(0.999, 1)]);
        let wary = Sampling { sample: false, repetition_penalty: 2.0, ..plain };
        check(wary, &[1, 1], &[(0.0, 3)]);
    }
}
