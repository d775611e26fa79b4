//! Which names a guest knows an address by: what our own DNS answered it. Rules with names follow this
//! table, and listings of flows show from it.
//!
//! Each guest has its own, so that what one asks opens nothing for another and no guest's questions
//! push out another's. A name holds as long as the answer says, within bounds; after that it is only
//! remembered, for flows that began in time and are looked at again when rules change.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use control::names::GuestName;

/// Programs resolve first and connect later, and some ask once for many connections.
const SHORTEST: Duration = Duration::from_secs(60);
/// An address may be somebody else's tomorrow.
const LONGEST: Duration = Duration::from_secs(3_600);
/// Pairs of name and address of one guest; the one whose time ends first gives way, those that no rule
/// is about before the others.
const PAIRS: usize = 1_024;

type Pair = (IpAddr, Arc<str>);

#[derive(Clone, Copy, Debug)]
struct Held {
    until: Instant,
    number: u64,
    ruled: bool,
}

#[derive(Debug, Default)]
struct Names {
    pairs: BTreeMap<Pair, Held>,
    ends: BTreeMap<(bool, Instant, u64), Pair>,
}

/// The table of one network.
#[derive(Debug, Default)]
pub struct Learned {
    guests: HashMap<Option<GuestName>, Names>,
    learned: u64,
    evicted: u64,
}

impl Learned {
    /// An answer that a guest is about to get: a name (lower-case, no final dot) and its addresses with
    /// their times to live in seconds. `ruled`: a rule is about this name.
    pub fn learn(
        &mut self,
        guest: Option<&GuestName>,
        name: &str,
        addresses: &[(IpAddr, u32)],
        ruled: bool,
        now: Instant,
    ) {
        if addresses.is_empty() {
            return;
        }
        let names = self.guests.entry(guest.cloned()).or_default();
        let name: Arc<str> = name.into();
        for (address, ttl) in addresses {
            let time = Duration::from_secs((*ttl).into()).clamp(SHORTEST, LONGEST);
            let pair = (*address, Arc::clone(&name));
            self.learned += 1;
            let mut until = now + time;
            if let Some(old) = names.pairs.remove(&pair) {
                names.ends.remove(&(old.ruled, old.until, old.number));
                until = until.max(old.until);
            } else if names.pairs.len() >= PAIRS
                && let Some((_, first)) = names.ends.pop_first()
            {
                names.pairs.remove(&first);
                self.evicted += 1;
            }
            let held = Held {
                until,
                number: self.learned,
                ruled,
            };
            names
                .ends
                .insert((ruled, until, self.learned), pair.clone());
            names.pairs.insert(pair, held);
        }
    }

    fn pairs(
        &self,
        guest: Option<&GuestName>,
        address: IpAddr,
    ) -> impl Iterator<Item = (&str, Held)> {
        let empty: Arc<str> = "".into();
        // A guest that has a name is looked up by it; the key is small and this is once a flow.
        let names = self.guests.get(&guest.cloned());
        names
            .into_iter()
            .flat_map(move |names| names.pairs.range((address, Arc::clone(&empty))..))
            .take_while(move |((at, _), _)| *at == address)
            .map(|((_, name), held)| (&**name, *held))
    }

    /// The names that stand for an address now.
    pub fn names(
        &self,
        guest: Option<&GuestName>,
        address: IpAddr,
        now: Instant,
    ) -> impl Iterator<Item = &str> {
        self.pairs(guest, address)
            .filter(move |(_, held)| held.until > now)
            .map(|(name, _)| name)
    }

    /// Those and the ones that stood for it before, for flows that go on.
    pub fn remembered(
        &self,
        guest: Option<&GuestName>,
        address: IpAddr,
    ) -> impl Iterator<Item = &str> {
        self.pairs(guest, address).map(|(name, _)| name)
    }

    /// The name that the guest learned last for an address: for people.
    #[must_use]
    pub fn latest(&self, guest: Option<&GuestName>, address: IpAddr) -> Option<&str> {
        self.pairs(guest, address)
            .max_by_key(|(_, held)| held.number)
            .map(|(name, _)| name)
    }

    /// The addresses that the guest was told for a name and whose time to live still runs.
    pub fn addresses<'t>(
        &'t self,
        guest: Option<&GuestName>,
        name: &'t str,
        now: Instant,
    ) -> impl Iterator<Item = IpAddr> + 't {
        let names = self.guests.get(&guest.cloned());
        names
            .into_iter()
            .flat_map(|names| &names.pairs)
            .filter(move |((_, own), held)| **own == *name && held.until > now)
            .map(|((address, _), _)| *address)
    }

    /// Pairs held now.
    #[must_use]
    pub fn len(&self) -> usize {
        self.guests.values().map(|names| names.pairs.len()).sum()
    }

    /// Whether nothing is held.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Pairs pushed out since the start.
    #[must_use]
    pub fn evicted(&self) -> u64 {
        self.evicted
    }
}

#[cfg(test)]
#[expect(
    clippy::disallowed_methods,
    reason = "any instant serves as the origin of a virtual clock"
)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    fn address(last: u32) -> IpAddr {
        Ipv4Addr::from(0xc000_0200 + last).into()
    }

    fn guest(name: &str) -> GuestName {
        GuestName::parse(name).unwrap()
    }

    #[test]
    fn a_name_holds_as_long_as_the_answer_says_within_bounds() {
        let now = Instant::now();
        let mut learned = Learned::default();
        let dev = guest("dev");
        for (name, ttl) in [
            ("short.example", 0),
            ("ten.example", 600),
            ("long.example", 1 << 30),
        ] {
            learned.learn(Some(&dev), name, &[(address(1), ttl)], true, now);
        }
        let names = |seconds| {
            let at = now + Duration::from_secs(seconds);
            learned
                .names(Some(&dev), address(1), at)
                .collect::<Vec<_>>()
        };
        assert_eq!(names(59), ["long.example", "short.example", "ten.example"]);
        assert_eq!(names(61), ["long.example", "ten.example"]);
        assert_eq!(names(601), ["long.example"]);
        assert!(names(3_601).is_empty());
        assert_eq!(learned.remembered(Some(&dev), address(1)).count(), 3);
        assert_eq!(learned.latest(Some(&dev), address(1)), Some("long.example"));
        let found: Vec<_> = learned.addresses(Some(&dev), "ten.example", now).collect();
        assert_eq!(found, [address(1)]);
        // Another guest has not asked; another address is another.
        assert_eq!(learned.names(Some(&guest("b")), address(1), now).count(), 0);
        assert_eq!(learned.names(Some(&dev), address(2), now).count(), 0);
    }

    #[test]
    fn asking_again_makes_it_longer_and_never_shorter() {
        let now = Instant::now();
        let mut learned = Learned::default();
        learned.learn(None, "a.example", &[(address(1), 600)], true, now);
        let later = now + Duration::from_secs(300);
        learned.learn(None, "a.example", &[(address(1), 0)], true, later);
        assert_eq!(learned.len(), 1);
        let at = now + Duration::from_secs(599);
        assert_eq!(learned.names(None, address(1), at).count(), 1);
    }

    #[test]
    fn a_guest_that_asks_for_everything_pushes_out_its_own_and_the_unruled_first() {
        let now = Instant::now();
        let mut learned = Learned::default();
        let (dev, other) = (guest("dev"), guest("other"));
        learned.learn(
            Some(&other),
            "kept.example",
            &[(address(0), 60)],
            false,
            now,
        );
        learned.learn(Some(&dev), "ruled.example", &[(address(0), 60)], true, now);
        for number in 0..5_000 {
            let name = format!("n{number}.example");
            learned.learn(Some(&dev), &name, &[(address(number), 3_600)], false, now);
        }
        assert_eq!(learned.len(), PAIRS + 1);
        assert_eq!(learned.evicted(), 5_001 - PAIRS as u64);
        assert_eq!(learned.names(Some(&other), address(0), now).count(), 1);
        assert!(
            learned
                .names(Some(&dev), address(0), now)
                .any(|name| name == "ruled.example")
        );
    }
}
