//! numpy's `default_rng(seed)`: PCG64 (XSL-RR 128/64) seeded through a `SeedSequence`.

const MULTIPLIER: u128 = 0x2360_ed05_1fc6_5da4_4385_df64_9fcc_f645;

/// PCG64 with numpy's buffering of the second half of a 64-bit draw.
#[derive(Clone)]
pub struct Pcg64 {
    state: u128,
    increment: u128,
    half: Option<u32>,
}

impl Pcg64 {
    /// `numpy.random.default_rng(seed)`.
    pub fn new(seed: u64) -> Self {
        let [state_high, state_low, stream_high, stream_low] = seed_sequence(seed);
        let wide = |high: u64, low: u64| (u128::from(high) << 64) | u128::from(low);
        let mut rng =
            Self { state: 0, increment: (wide(stream_high, stream_low) << 1) | 1, half: None };
        rng.step();
        rng.state = rng.state.wrapping_add(wide(state_high, state_low));
        rng.step();
        rng
    }

    /// The next 64-bit number.
    pub fn next_u64(&mut self) -> u64 {
        self.step();
        let folded = ((self.state >> 64) as u64) ^ (self.state as u64);
        folded.rotate_right((self.state >> 122) as u32)
    }

    /// The next 32-bit number: the low half of a 64-bit draw, then its high half.
    pub fn next_u32(&mut self) -> u32 {
        if let Some(high) = self.half.take() {
            return high;
        }
        let wide = self.next_u64();
        self.half = Some((wide >> 32) as u32);
        wide as u32
    }

    /// A number in [0, 1) with 53 random bits.
    pub fn next_f64(&mut self) -> f64 {
        (self.next_u64() >> 11) as f64 / (1_u64 << 53) as f64
    }

    /// A number in `0..=max`: bits masked to the next power of two and drawn again while too large, as numpy's shuffle
    /// draws them.
    pub fn masked_below_or_equal(&mut self, max: u64) -> u64 {
        if max == 0 {
            return 0;
        }
        let mask = u64::MAX >> max.leading_zeros();
        loop {
            let bits = if max <= u64::from(u32::MAX) {
                u64::from(self.next_u32())
            } else {
                self.next_u64()
            };
            if bits & mask <= max {
                return bits & mask;
            }
        }
    }

    /// A number in `0..count`, by Lemire's multiplication, as numpy's `integers` draws it.
    pub fn lemire(&mut self, count: u32) -> u32 {
        if count < 2 {
            return 0;
        }
        loop {
            let wide = u64::from(self.next_u32()) * u64::from(count);
            // Few low parts are skewed, and they are drawn again.
            if wide as u32 >= count || wide as u32 >= count.wrapping_neg() % count {
                return (wide >> 32) as u32;
            }
        }
    }

    fn step(&mut self) {
        self.state = self.state.wrapping_mul(MULTIPLIER).wrapping_add(self.increment);
    }
}

/// numpy's `SeedSequence(seed).generate_state(4, uint64)`: a pool of four words stirred from the seed.
fn seed_sequence(seed: u64) -> [u64; 4] {
    const POOL: usize = 4;
    let entropy = [seed as u32, (seed >> 32) as u32, 0, 0];
    let mut hash = 0x43b0_d7e5_u32;
    let mut stir = |word: u32| {
        let mut value = word ^ hash;
        hash = hash.wrapping_mul(0x931e_8875);
        value = value.wrapping_mul(hash);
        value ^ (value >> 16)
    };
    let mut pool = entropy.map(&mut stir);
    for source in 0..POOL {
        for target in (0..POOL).filter(|target| *target != source) {
            let left = 0xca01_f9dd_u32.wrapping_mul(pool[target]);
            let mixed = left.wrapping_sub(0x4973_f715_u32.wrapping_mul(stir(pool[source])));
            pool[target] = mixed ^ (mixed >> 16);
        }
    }
    let mut hash = 0x8b51_f9dd_u32;
    let mut word = |i: usize| {
        let mut value = pool[i % POOL] ^ hash;
        hash = hash.wrapping_mul(0x58f3_8ded);
        value = value.wrapping_mul(hash);
        u64::from(value ^ (value >> 16))
    };
    let words: [u64; 8] = std::array::from_fn(&mut word);
    std::array::from_fn(|i| words[2 * i] | (words[2 * i + 1] << 32))
}
