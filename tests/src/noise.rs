//! Bytes that no well-meaning program sends, the same ones at every run.
//!
//! Not a fuzzer: the decoders have their own property tests. This is for the doors of a running
//! daemon, where what counts is that it lives and goes on serving.

/// xorshift64* (Vigna 2016): good enough to be ugly.
#[derive(Debug, Clone)]
pub struct Noise(u64);

impl Noise {
    /// Starts a sequence; the seed is part of the test.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self(seed.max(1))
    }

    /// The next number.
    pub fn next_number(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    /// A number below `limit`.
    pub fn below(&mut self, limit: usize) -> usize {
        usize::try_from(self.next_number() % limit.max(1) as u64).unwrap_or(0)
    }

    /// Up to `longest` bytes.
    pub fn bytes(&mut self, longest: usize) -> Vec<u8> {
        let length = self.below(longest + 1);
        (0..length)
            .map(|_| self.next_number().to_le_bytes()[3])
            .collect()
    }

    /// Something real with a few bytes changed, cut short or doubled.
    pub fn mangle(&mut self, real: &[u8]) -> Vec<u8> {
        let mut bytes = real.to_vec();
        for _ in 0..=self.below(4) {
            let at = self.below(bytes.len());
            let value = self.next_number().to_le_bytes()[5];
            if let Some(byte) = bytes.get_mut(at) {
                *byte = value;
            }
        }
        match self.below(4) {
            0 => bytes.truncate(self.below(real.len())),
            1 => bytes.extend_from_slice(real),
            _ => {}
        }
        bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_gives_the_same_bytes_again() {
        let bytes = |seed| Noise::new(seed).bytes(1000);
        assert_eq!(bytes(7), bytes(7));
        assert_ne!(bytes(7), bytes(8));
    }

    #[test]
    fn mangled_bytes_are_changed() {
        let mut noise = Noise::new(3);
        let real = [1; 64];
        assert!((0..20).any(|_| noise.mangle(&real) != real));
    }
}
