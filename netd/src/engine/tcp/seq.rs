//! Sequence numbers: 32 bits that wrap (RFC 9293 §3.4).

/// A position in one direction of a connection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Seq(pub u32);

impl Seq {
    /// `count` bytes further on.
    #[must_use]
    pub fn plus(self, count: u32) -> Self {
        Self(self.0.wrapping_add(count))
    }

    /// `count` bytes back.
    #[must_use]
    pub fn minus(self, count: u32) -> Self {
        Self(self.0.wrapping_sub(count))
    }

    /// Bytes from `earlier` to here; a number of 2^31 or more means that `earlier` is in truth later.
    pub fn since(self, earlier: Self) -> u32 {
        self.0.wrapping_sub(earlier.0)
    }

    /// Strictly before, in the half of the circle that lies behind `other`.
    pub fn before(self, other: Self) -> bool {
        other.since(self).wrapping_sub(1) < 0x7fff_ffff
    }

    /// Not before.
    pub fn at_or_after(self, other: Self) -> bool {
        !self.before(other)
    }

    /// The later of the two.
    #[must_use]
    pub fn later(self, other: Self) -> Self {
        if self.before(other) { other } else { self }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn order_survives_the_wrap() {
        let last = Seq(u32::MAX);
        assert!(last.before(last.plus(1)));
        assert!(!last.plus(1).before(last));
        assert!(!last.before(last));
        assert!(last.at_or_after(last));
        assert_eq!(last.plus(2).since(last), 2);
        assert_eq!(last.later(last.plus(5)), Seq(4));
    }
}
