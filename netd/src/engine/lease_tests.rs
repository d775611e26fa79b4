//! The lease table against random clients, and its rules one by one. The clock is a number.

use super::*;
use proptest::prelude::*;

fn base() -> Instant {
    // One fixed moment for the whole test program; only differences matter.
    static BASE: std::sync::OnceLock<Instant> = std::sync::OnceLock::new();
    #[expect(
        clippy::disallowed_methods,
        reason = "a virtual clock needs one real start"
    )]
    *BASE.get_or_init(Instant::now)
}

fn at(seconds: u64) -> Instant {
    base() + Duration::from_secs(seconds)
}

fn address(last: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 0, 0, last)
}

fn mac(last: u8) -> MacAddress {
    MacAddress([0x52, 0x54, 0, 0, 0, last])
}

fn reservation(name: &str, last_mac: u8, last: u8) -> Reservation {
    Reservation {
        guest: GuestName::parse(name).unwrap(),
        mac: mac(last_mac),
        address: address(last),
    }
}

/// Pool .128 to .131; "dev" has .2, "web" has .129 inside the pool.
fn settings() -> LeaseSettings {
    LeaseSettings {
        subnet: "10.0.0.0/24".parse().unwrap(),
        pool: address(128)..=address(131),
        kept: vec![address(1), address(254)],
        reservations: vec![reservation("dev", 1, 2), reservation("web", 2, 129)],
    }
}

fn client(last: u8) -> Client<'static> {
    Client {
        mac: mac(last),
        identifier: None,
        link_guest: None,
    }
}

/// Every index says what the table says, and no rule of the table is broken.
fn check(table: &LeaseTable) {
    for (address, lease) in &table.leases {
        let entry = (lease.until, *address);
        let state = lease.state;
        assert_eq!(table.deadlines.contains(&entry), state != LeaseState::Past);
        assert_eq!(table.past.contains(&entry), state == LeaseState::Past);
        assert_eq!(table.offers.contains(&entry), state == LeaseState::Offered);
        assert_eq!(
            table.declined.contains(&entry),
            state == LeaseState::Declined
        );
        assert!(table.is_for_clients(*address), "{address} was given away");
        if state == LeaseState::Bound {
            assert_eq!(table.owner_of(*address), Some(lease.client.mac));
        }
    }
    let pool = table
        .leases
        .keys()
        .filter(|a| table.counts_in_pool(**a))
        .count();
    assert_eq!(table.pool_entries, pool);
    assert!(table.pool_entries <= table.capacity);
    assert_eq!(table.deadlines.len() + table.past.len(), table.leases.len());
    for (key, address) in &table.by_client {
        assert_eq!(table.leases.get(address).map(|l| &l.client), Some(key));
    }
}

#[test]
fn reserved_guest_gets_its_address_and_nobody_else_does() {
    let mut table = LeaseTable::new(settings());
    assert_eq!(
        table.offer(&client(1), Some(address(130)), at(0)),
        Ok(address(2))
    );
    assert_eq!(
        table.bind(&client(9), address(2), None, at(60), at(1)),
        Err(Refusal::Taken)
    );
    assert_eq!(
        table.bind(&client(9), address(129), None, at(60), at(1)),
        Err(Refusal::Taken)
    );
    assert_eq!(
        table.bind(&client(1), address(130), None, at(60), at(1)),
        Err(Refusal::ReservedElsewhere)
    );
    assert_eq!(
        table.bind(&client(1), address(2), None, at(60), at(1)),
        Ok(())
    );
    check(&table);
}

#[test]
fn boot_loader_and_system_of_a_reserved_guest_are_one_client() {
    let mut table = LeaseTable::new(settings());
    let loader = Client {
        identifier: Some(b"pxe"),
        ..client(1)
    };
    let system = Client {
        identifier: Some(b"\xff\0\x01\x02"),
        ..client(1)
    };
    table
        .bind(&loader, address(2), None, at(60), at(0))
        .unwrap();
    assert_eq!(table.offer(&system, None, at(1)), Ok(address(2)));
    table
        .bind(&system, address(2), None, at(61), at(1))
        .unwrap();
    check(&table);
}

#[test]
fn offers_end_by_themselves_and_bound_leases_do_not_suffer() {
    let mut table = LeaseTable::new(settings());
    let mine = table.offer(&client(50), None, at(0)).unwrap();
    table
        .bind(&client(50), mine, None, at(3600), at(0))
        .unwrap();
    // .128, .130, .131 less the bound one: two strangers fit, a third must wait.
    assert!(table.offer(&client(51), None, at(1)).is_ok());
    assert!(table.offer(&client(52), None, at(1)).is_ok());
    assert_eq!(
        table.offer(&client(53), None, at(2)),
        Err(Refusal::Exhausted)
    );
    // An offer past its grace gives way, the bound lease never.
    assert!(table.offer(&client(53), None, at(5)).is_ok());
    assert_eq!(table.owner_of(mine), Some(mac(50)));
    table.expire(at(100));
    assert_eq!(
        table.counts(),
        LeaseCounts {
            offered: 0,
            bound: 1,
            declined: 0,
            free: 2
        }
    );
    check(&table);
}

#[test]
fn client_gets_its_old_address_back_after_release_and_after_expiry() {
    let mut table = LeaseTable::new(settings());
    let mine = table.offer(&client(50), None, at(0)).unwrap();
    table.bind(&client(50), mine, None, at(60), at(0)).unwrap();
    assert!(table.release(&client(50), mine, at(10)));
    assert_eq!(table.offer(&client(50), None, at(20)), Ok(mine));
    table.bind(&client(50), mine, None, at(80), at(20)).unwrap();
    table.expire(at(80));
    assert_eq!(table.owner_of(mine), None);
    assert_eq!(table.offer(&client(50), None, at(90)), Ok(mine));
    // Not taken: the memory stays.
    table.expire(at(200));
    assert_eq!(table.offer(&client(50), None, at(300)), Ok(mine));
    check(&table);
}

#[test]
fn declined_address_is_set_aside_for_a_time() {
    let mut table = LeaseTable::new(settings());
    let bad = table.offer(&client(50), None, at(0)).unwrap();
    table.bind(&client(50), bad, None, at(3600), at(0)).unwrap();
    assert!(
        !table.decline(&client(51), bad, at(1)),
        "a stranger declined it"
    );
    assert!(table.decline(&client(50), bad, at(1)));
    let other = table.offer(&client(50), Some(bad), at(2)).unwrap();
    assert_ne!(other, bad);
    check(&table);
    table.expire(at(602));
    assert_eq!(table.offer(&client(52), Some(bad), at(603)), Ok(bad));
    check(&table);
}

#[test]
fn nic_with_another_mac_on_a_guests_own_link_is_that_guest() {
    let mut table = LeaseTable::new(settings());
    let dev = GuestName::parse("dev").unwrap();
    let stranger = Client {
        link_guest: Some(&dev),
        ..client(77)
    };
    assert_eq!(table.offer(&stranger, None, at(0)), Ok(address(2)));
    table
        .bind(&stranger, address(2), None, at(60), at(0))
        .unwrap();
    let guest = table.leases().next().and_then(|(_, l)| l.guest.clone());
    assert_eq!(guest.as_ref(), Some(&dev));
    // A second station behind the same link gets an address of the pool, and is not the guest.
    let second = Client {
        mac: mac(78),
        ..stranger
    };
    let other = table.offer(&second, None, at(1)).unwrap();
    assert!(settings().pool.contains(&other));
    table.bind(&second, other, None, at(60), at(1)).unwrap();
    let lease = table.leases().find(|(address, _)| *address == other);
    assert_eq!(lease.unwrap().1.guest, None);
    check(&table);
}

#[test]
fn reload_keeps_leases_and_ends_those_without_an_address() {
    let mut table = LeaseTable::new(settings());
    let pooled = table.offer(&client(50), None, at(0)).unwrap();
    table
        .bind(&client(50), pooled, None, at(3600), at(0))
        .unwrap();
    table
        .bind(&client(1), address(2), None, at(3600), at(0))
        .unwrap();
    assert_eq!(table.take_changes().count(), 2);
    // "new" is client 50, now known, with the address it has.
    let mut other = settings();
    other.reservations = vec![Reservation {
        guest: GuestName::parse("new").unwrap(),
        mac: mac(50),
        address: pooled,
    }];
    other.kept.push(address(2));
    table.reconfigure(other);
    check(&table);
    let changes: Vec<_> = table.take_changes().collect();
    assert!(
        matches!(
            &changes[..],
            [LeaseChange::Ended {
                reason: EndReason::Withdrawn,
                ..
            }]
        ),
        "{changes:?}"
    );
    let with_identifier = Client {
        identifier: Some(b"id"),
        ..client(50)
    };
    table
        .bind(&with_identifier, pooled, None, at(7200), at(1))
        .unwrap();
    let lease = table.leases().next().unwrap().1;
    assert_eq!(lease.guest.as_ref().map(GuestName::as_str), Some("new"));
    check(&table);
}

#[test]
fn client_that_moved_is_restored_where_it_is() {
    let mut table = LeaseTable::new(settings());
    let saved = |until| SavedLease {
        client: ClientKey {
            mac: mac(50),
            identifier: None,
        },
        guest: None,
        host_name: None,
        until,
    };
    let both = [(address(128), saved(at(5))), (address(130), saved(at(900)))];
    table.restore(both, at(10));
    assert_eq!(table.owner_of(address(130)), Some(mac(50)));
    assert_eq!(table.offer(&client(50), None, at(11)), Ok(address(130)));
    check(&table);
}

#[derive(Clone, Debug)]
enum Step {
    Offer {
        who: u8,
        wish: Option<u8>,
    },
    /// An address of its own choice, or what it is offered.
    Bind {
        who: u8,
        last: Option<u8>,
        seconds: u64,
    },
    Release {
        who: u8,
        last: u8,
    },
    Decline {
        who: u8,
        last: u8,
    },
    Forget {
        who: u8,
    },
    Wait(u64),
    Reload(bool),
}

fn step() -> impl Strategy<Value = Step> {
    let who = || 0_u8..9;
    let last = || prop_oneof![0_u8..4, 126_u8..134, 253_u8..=255];
    prop_oneof![
        (who(), proptest::option::of(last())).prop_map(|(who, wish)| Step::Offer { who, wish }),
        (who(), proptest::option::of(last()), 1_u64..400)
            .prop_map(|(who, last, seconds)| Step::Bind { who, last, seconds }),
        (who(), last()).prop_map(|(who, last)| Step::Release { who, last }),
        (who(), last()).prop_map(|(who, last)| Step::Decline { who, last }),
        who().prop_map(|who| Step::Forget { who }),
        (0_u64..300).prop_map(Step::Wait),
        any::<bool>().prop_map(Step::Reload),
    ]
}

proptest! {
    /// What clients were told is the truth: while a lease that was granted runs, nobody else is granted
    /// its address, whatever everybody asks for.
    #[test]
    fn leases_never_overlap(steps in proptest::collection::vec(step(), 1..120)) {
        let identifiers: [Option<&[u8]>; 3] = [None, Some(b"one"), Some(b"two")];
        // Three MACs with three identifiers each.
        let client_of = |who: u8| Client {
            identifier: identifiers[usize::from(who / 3)],
            ..client(who % 3 + 1)
        };
        let mut table = LeaseTable::new(settings());
        let mut now = 0;
        let mut granted: BTreeMap<Ipv4Addr, (MacAddress, u64)> = BTreeMap::new();
        for step in steps {
            match step {
                Step::Wait(seconds) => {
                    now += seconds;
                    table.expire(at(now));
                }
                Step::Offer { who, wish } => {
                    if let Ok(offered) = table.offer(&client_of(who), wish.map(address), at(now)) {
                        let holder = granted.get(&offered).filter(|(_, until)| *until > now);
                        prop_assert!(holder.is_none_or(|(mac, _)| *mac == client_of(who).mac));
                    }
                }
                Step::Bind { who, last, seconds } => {
                    let wanted = match last {
                        Some(last) => Ok(address(last)),
                        None => table.offer(&client_of(who), None, at(now)),
                    };
                    if let Ok(wanted) = wanted
                        && table.bind(&client_of(who), wanted, None, at(now + seconds), at(now)).is_ok()
                    {
                        let mac = client_of(who).mac;
                        let before = granted.insert(wanted, (mac, now + seconds));
                        let overlap = before.filter(|(other, until)| *until > now && *other != mac);
                        prop_assert_eq!(overlap, None);
                    }
                }
                Step::Release { who, last } => {
                    if table.release(&client_of(who), address(last), at(now)) {
                        granted.remove(&address(last));
                    }
                }
                Step::Decline { who, last } => {
                    if table.decline(&client_of(who), address(last), at(now)) {
                        granted.remove(&address(last));
                    }
                }
                Step::Forget { who } => table.forget_offer(&client_of(who)),
                Step::Reload(reserved) => {
                    let mut new = settings();
                    if !reserved {
                        new.reservations.clear();
                    }
                    table.reconfigure(new);
                }
            }
            check(&table);
            let ended: Vec<_> = table
                .take_changes()
                .filter_map(|change| match change {
                    LeaseChange::Ended { address, .. } => Some(address),
                    LeaseChange::Bound { .. } => None,
                })
                .collect();
            for address in ended {
                let holder = granted.get(&address).map(|(mac, _)| *mac);
                if table.owner_of(address) != holder {
                    granted.remove(&address);
                }
            }
        }
    }
}
