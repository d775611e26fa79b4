//! The rows of the table: what is measured, in which unit, and which way is better.
//!
//! Here are those of the network, and what they have in common with those of files; how each is measured
//! stands in `measure`.

/// Which values win.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Better {
    Higher,
    Lower,
    /// A text to be read.
    Words,
}

/// A row of some table. The order of its values is that of the table.
pub(super) trait Line: Copy + Ord + 'static {
    /// All rows, in the order of the table.
    fn all() -> impl Iterator<Item = Self>;
    /// Title, with the unit.
    fn title(self) -> &'static str;
    /// Which values win.
    fn better(self) -> Better;
    /// Digits after the point.
    fn decimals(self) -> usize;
}

macro_rules! rows {
    ($($(#[$doc:meta])* $row:ident: $title:literal, $better:ident, $decimals:literal;)*) => {
        /// One row of the table.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
        pub(super) enum Row { $($(#[$doc])* $row,)* }

        impl Row {
            /// All rows, in the order of the table.
            pub(super) const ALL: &[Self] = &[$(Self::$row,)*];
        }

        impl Line for Row {
            fn all() -> impl Iterator<Item = Self> {
                Self::ALL.iter().copied()
            }

            fn title(self) -> &'static str {
                match self { $(Self::$row => $title,)* }
            }

            fn better(self) -> Better {
                match self { $(Self::$row => Better::$better,)* }
            }

            fn decimals(self) -> usize {
                match self { $(Self::$row => $decimals,)* }
            }
        }
    };
}

rows! {
    Up: "TCP up, MTU 65520, Gbit/s", Higher, 1;
    Down: "TCP down, MTU 65520, Gbit/s", Higher, 1;
    Published: "TCP into a published port, MTU 65520, Gbit/s", Higher, 1;
    Loopback: "TCP into a published port over the host's loopback, MTU 65520, Gbit/s", Higher, 1;
    UpFour: "TCP up, 4 streams, MTU 65520, Gbit/s", Higher, 1;
    DownFour: "TCP down, 4 streams, MTU 65520, Gbit/s", Higher, 1;
    UpCost: "daemon CPU up, MTU 65520, s/GB", Lower, 2;
    DownCost: "daemon CPU down, MTU 65520, s/GB", Lower, 2;
    PublishedCost: "daemon CPU published, MTU 65520, s/GB", Lower, 2;
    SmallUp: "TCP up, MTU 1500, Gbit/s", Higher, 1;
    SmallDown: "TCP down, MTU 1500, Gbit/s", Higher, 1;
    SmallPublished: "TCP into a published port, MTU 1500, Gbit/s", Higher, 1;
    SmallUpFour: "TCP up, 4 streams, MTU 1500, Gbit/s", Higher, 1;
    SmallDownFour: "TCP down, 4 streams, MTU 1500, Gbit/s", Higher, 1;
    SmallUpCost: "daemon CPU up, MTU 1500, s/GB", Lower, 2;
    SmallDownCost: "daemon CPU down, MTU 1500, s/GB", Lower, 2;
    RateOut: "connections/s out", Higher, 0;
    RateIn: "connections/s in", Higher, 0;
    RoundOutMedian: "1-byte round trip out, p50, µs", Lower, 0;
    RoundOutTail: "1-byte round trip out, p99, µs", Lower, 0;
    RoundInMedian: "1-byte round trip in, p50, µs", Lower, 0;
    RoundInTail: "1-byte round trip in, p99, µs", Lower, 0;
    UdpLoss: "UDP 64 B at 195,000/s: lost, %", Lower, 1;
    UdpCost: "UDP 64 B: daemon CPU, µs/packet", Lower, 1;
    MemoryStart: "resident memory at start, MB", Lower, 0;
    WakeUps: "wake-ups a second with no traffic", Lower, 1;
    MemoryThousand: "resident memory, 1,000 idle connections, MB", Lower, 0;
    MemoryFiveThousand: "resident memory, 5,000 idle connections, MB", Lower, 0;
    IdleCost: "CPU with 5,000 idle connections, %", Lower, 0;
    Refused: "a refused port, as the guest sees it", Words, 0;
    Nobody: "a published port nobody serves, as the client sees it", Words, 0;
    Source: "the client's address, as the guest sees it", Words, 0;
}

/// The rows whose title contains a text, or all.
pub(super) fn matching(text: Option<&str>) -> Vec<Row> {
    let wanted = |row: &&Row| text.is_none_or(|text| row.title().contains(text));
    Row::ALL.iter().filter(wanted).copied().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_found_by_a_part_of_their_title_and_titles_differ() {
        assert_eq!(matching(Some("connections/s")), [Row::RateOut, Row::RateIn]);
        assert_eq!(matching(None).len(), Row::ALL.len());
        let mut titles: Vec<_> = Row::ALL.iter().map(|row| row.title()).collect();
        titles.sort_unstable();
        titles.dedup();
        assert_eq!(titles.len(), Row::ALL.len());
    }
}
