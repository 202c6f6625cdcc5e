//! The engine's own random numbers: a counter-based generator (Philox 4x32-10).
//!
//! A stream is keyed by (seed, purpose, step, layer) and its n-th number is a pure function of the
//! key and n. Nothing has to be saved: a resumed run, a recomputed block and another thread count
//! draw the same numbers. Where the reference fixes the draw (order of rows, validation split) its
//! own generators are used instead, see `data::order`.
//!
//! Source: Salmon, Moraes, Dror, Shaw, "Parallel random numbers: as easy as 1, 2, 3", SC 2011.

/// What a stream is drawn for; two purposes never share numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Purpose {
    /// Initial weights of a model trained from scratch.
    InitWeights = 1,
    /// Initial LoRA matrices.
    InitLora = 2,
    /// LoRA dropout masks.
    LoraDropout = 3,
    /// NEFTune noise.
    Neftune = 4,
    /// Sampling in generation.
    Sampling = 5,
    /// Start of the randomised singular value decomposition.
    Subspace = 7,
    /// Order in which BAdam visits blocks.
    BadamOrder = 6,
    /// Embedding rows of new tokens.
    NewTokens = 20,
}

/// One stream of random numbers.
#[derive(Clone, Debug)]
pub struct Stream {
    key: [u32; 2],
    step: u64,
    layer: u32,
}

impl Stream {
    /// The stream for `purpose` under `seed`, at an optimiser (or micro) `step`, for `layer` (any
    /// number that tells the users of one purpose apart).
    #[must_use]
    pub fn new(seed: u64, purpose: Purpose, step: u64, layer: u32) -> Self {
        let mixed = splitmix(seed ^ (u64::from(purpose as u32) << 56));
        Self { key: [mixed as u32, (mixed >> 32) as u32], step, layer }
    }

    /// The four 32-bit words of block `index`.
    #[must_use]
    pub fn block(&self, index: u32) -> [u32; 4] {
        philox([index, self.layer, self.step as u32, (self.step >> 32) as u32], self.key)
    }

    /// The n-th number, uniform in [0, 1) with 24 bits.
    #[must_use]
    pub fn uniform(&self, n: usize) -> f32 {
        to_unit(self.block((n / 4) as u32)[n % 4])
    }

    /// Fills `out` with numbers uniform in [low, high).
    pub fn fill_uniform(&self, out: &mut [f32], low: f32, high: f32) {
        for (i, four) in out.chunks_mut(4).enumerate() {
            for (x, word) in four.iter_mut().zip(self.block(i as u32)) {
                *x = low + (high - low) * to_unit(word);
            }
        }
    }

    /// Fills `out` with normal numbers of the given standard deviation (Box-Muller).
    pub fn fill_normal(&self, out: &mut [f32], std: f32) {
        for (i, four) in out.chunks_mut(4).enumerate() {
            let words = self.block(i as u32);
            let mut normal = [0f32; 4];
            for pair in 0..2 {
                // 1 - u lies in (0, 1], so the logarithm is finite.
                let radius = (-2.0 * (1.0 - to_unit(words[2 * pair])).ln()).sqrt();
                let (sin, cos) = (std::f32::consts::TAU * to_unit(words[2 * pair + 1])).sin_cos();
                normal[2 * pair] = radius * cos;
                normal[2 * pair + 1] = radius * sin;
            }
            for (x, n) in four.iter_mut().zip(normal) {
                *x = std * n;
            }
        }
    }
}

fn to_unit(word: u32) -> f32 {
    (word >> 8) as f32 * (1.0 / 16_777_216.0)
}

/// SplitMix64's finaliser: spreads a seed over the key bits.
fn splitmix(seed: u64) -> u64 {
    let mut z = seed.wrapping_add(0x9E37_79B9_7F4A_7C15);
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

fn philox(mut counter: [u32; 4], mut key: [u32; 2]) -> [u32; 4] {
    for _ in 0..10 {
        let a = u64::from(counter[0]) * 0xD251_1F53;
        let b = u64::from(counter[2]) * 0xCD9E_8D57;
        counter = [
            (b >> 32) as u32 ^ counter[1] ^ key[0],
            b as u32,
            (a >> 32) as u32 ^ counter[3] ^ key[1],
            a as u32,
        ];
        key = [key[0].wrapping_add(0x9E37_79B9), key[1].wrapping_add(0xBB67_AE85)];
    }
    counter
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Known answers of the Random123 distribution (kat_vectors, philox4x32 10).
    #[test]
    fn philox_known_answers() {
        assert_eq!(philox([0; 4], [0; 2]), [0x6627_e8d5, 0xe169_c58d, 0xbc57_ac4c, 0x9b00_dbd8]);
        assert_eq!(
            philox([u32::MAX; 4], [u32::MAX; 2]),
            [0x408f_276d, 0x41c8_3b0e, 0xa20b_c7c6, 0x6d54_51fd]
        );
        assert_eq!(
            philox(
                [0x243f_6a88, 0x85a3_08d3, 0x1319_8a2e, 0x0370_7344],
                [0xa409_3822, 0x299f_31d0]
            ),
            [0xd16c_fe09, 0x94fd_cceb, 0x5001_e420, 0x2412_6ea1]
        );
    }

    #[test]
    fn moments_are_right_and_streams_differ() {
        let mut x = vec![0f32; 100_000];
        Stream::new(42, Purpose::InitWeights, 0, 0).fill_normal(&mut x, 2.0);
        let mean = x.iter().map(|v| f64::from(*v)).sum::<f64>() / x.len() as f64;
        let var = x.iter().map(|v| f64::from(*v).powi(2)).sum::<f64>() / x.len() as f64;
        assert!(mean.abs() < 0.03, "{mean}");
        assert!((var - 4.0).abs() < 0.1, "{var}");
        let mut u = vec![0f32; 100_000];
        Stream::new(42, Purpose::InitLora, 0, 0).fill_uniform(&mut u, -1.0, 1.0);
        assert!(u.iter().all(|v| (-1.0..1.0).contains(v)));
        let mean = u.iter().map(|v| f64::from(*v)).sum::<f64>() / u.len() as f64;
        assert!(mean.abs() < 0.02, "{mean}");
        let one = Stream::new(1, Purpose::LoraDropout, 3, 4);
        assert_ne!(one.block(0), Stream::new(1, Purpose::LoraDropout, 3, 5).block(0));
        assert_ne!(one.block(0), Stream::new(1, Purpose::LoraDropout, 4, 4).block(0));
        assert_ne!(one.block(0), Stream::new(2, Purpose::LoraDropout, 3, 4).block(0));
        assert_eq!(one.uniform(5), to_unit(one.block(1)[1]));
    }
}
