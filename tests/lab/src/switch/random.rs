//! The switch's only source of chance: a small seeded generator, one per link and way.
//!
//! Each link draws from its own stream, named by (seed, port name, way). What one host sends therefore never
//! changes what happens to another host's frames, and a run with the same seed makes the same choices about the
//! n-th frame of a link however the frames of different links interleave.

/// xoshiro256** seeded through `SplitMix64` (Blackman and Vigna, 2018).
#[derive(Debug, Clone)]
pub struct Random {
    state: [u64; 4],
}

impl Random {
    /// A stream named by `seed` and `name`: equal arguments give equal streams.
    #[must_use]
    pub fn new(seed: u64, name: &str) -> Self {
        // FNV-1a is enough here: names are ours, and SplitMix64 spreads what it gives.
        let mut hash = 0xcbf2_9ce4_8422_2325_u64;
        for byte in name.bytes() {
            hash = (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
        }
        let mut split = seed ^ hash;
        Self {
            state: std::array::from_fn(|_| split_mix(&mut split)),
        }
    }

    /// The next 64 bits.
    pub fn next_u64(&mut self) -> u64 {
        let result = self.state[1].wrapping_mul(5).rotate_left(7).wrapping_mul(9);
        let shifted = self.state[1] << 17;
        self.state[2] ^= self.state[0];
        self.state[3] ^= self.state[1];
        self.state[1] ^= self.state[2];
        self.state[0] ^= self.state[3];
        self.state[2] ^= shifted;
        self.state[3] = self.state[3].rotate_left(45);
        result
    }

    /// True in `parts_per_million` of a million draws. Zero and a million are exact and draw nothing, so that
    /// turning an impairment off does not consume the stream.
    pub fn chance(&mut self, parts_per_million: u32) -> bool {
        match parts_per_million {
            0 => false,
            1_000_000.. => true,
            ppm => self.next_u64() % 1_000_000 < u64::from(ppm),
        }
    }

    /// A value in `0..=maximum`. The bias of the modulo is below 2^-24 for every range the switch uses (an hour
    /// in nanoseconds).
    pub fn up_to(&mut self, maximum: u64) -> u64 {
        match maximum.checked_add(1) {
            Some(1) => 0,
            Some(range) => self.next_u64() % range,
            None => self.next_u64(),
        }
    }
}

fn split_mix(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut z = *state;
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn same_name_and_seed_same_stream_and_otherwise_not() {
        let draw = |seed, name| {
            let mut random = Random::new(seed, name);
            (0..8).map(|_| random.next_u64()).collect::<Vec<_>>()
        };
        assert_eq!(draw(1, "a/tx"), draw(1, "a/tx"));
        assert_ne!(draw(1, "a/tx"), draw(2, "a/tx"));
        assert_ne!(draw(1, "a/tx"), draw(1, "a/rx"));
    }

    #[test]
    fn chance_is_about_right_and_exact_at_its_ends() {
        let mut random = Random::new(7, "x");
        let hits = (0..100_000).filter(|_| random.chance(100_000)).count();
        assert!((9_500..10_500).contains(&hits), "10 % gave {hits} of 100,000");
        assert!((0..1_000).all(|_| !random.chance(0)));
        assert!((0..1_000).all(|_| random.chance(1_000_000)));
    }

    #[test]
    fn up_to_stays_in_range_and_reaches_both_ends() {
        let mut random = Random::new(7, "x");
        let seen: std::collections::BTreeSet<_> = (0..1_000).map(|_| random.up_to(3)).collect();
        assert_eq!(seen.into_iter().collect::<Vec<_>>(), [0, 1, 2, 3]);
        assert_eq!(random.up_to(0), 0);
    }
}
