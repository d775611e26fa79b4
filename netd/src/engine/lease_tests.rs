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
        link: LinkId(last.into()),
        link_guest: None,
    }
}

/// The address that is proposed.
fn offer(
    table: &mut LeaseTable,
    client: &Client<'_>,
    wish: Option<Ipv4Addr>,
    now: Instant,
) -> Result<Ipv4Addr, Refusal> {
    table.offer(client, wish, now).map(|offer| offer.address)
}

/// Every index says what the table says, and no rule of the table is broken.
fn check(table: &LeaseTable) {
    for (address, lease) in &table.leases {
        let entry = (lease.until, *address);
        let state = lease.state;
        let ends = matches!(
            state,
            LeaseState::Offered | LeaseState::Bound | LeaseState::Declined
        );
        assert_eq!(table.deadlines.contains(&entry), ends);
        if let Some(hold) = &lease.ipv6 {
            assert!(table.ipv6_deadlines.contains(&(hold.until, *address)));
        }
        assert!(state != LeaseState::Ipv6Only || lease.ipv6.is_some());
        assert!(state != LeaseState::Past || lease.ipv6.is_none());
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
    assert_eq!(table.pool.entries, pool);
    assert!(table.pool.entries <= table.pool.capacity);
    let in_state = |wanted| table.leases.values().filter(|l| l.state == wanted).count();
    assert_eq!(
        table.deadlines.len() + table.past.len() + in_state(LeaseState::Ipv6Only),
        table.leases.len()
    );
    let sides = table.leases.values().filter(|l| l.ipv6.is_some()).count();
    assert_eq!(table.ipv6_deadlines.len(), sides);
    let mut anew = Pool::default();
    for (address, lease) in &table.leases {
        if table.counts_in_pool(*address) {
            anew.add(lease);
        }
    }
    assert_eq!(table.pool.free(), table.pool.capacity - anew.taken());
    for ((mac, duid), address) in &table.by_duid {
        let lease = &table.leases[address];
        assert_eq!(lease.client.mac, *mac);
        assert_eq!(lease.ipv6.as_ref().map(|hold| &hold.duid), Some(duid));
    }
    for (guest, address) in &table.by_guest {
        assert_eq!(table.leases[address].guest.as_ref(), Some(guest));
    }
    for (key, address) in &table.by_client {
        assert_eq!(table.leases.get(address).map(|l| &l.client), Some(key));
    }
}

#[test]
fn reserved_guest_gets_its_address_and_nobody_else_does() {
    let mut table = LeaseTable::new(settings());
    assert_eq!(
        offer(&mut table, &client(1), Some(address(130)), at(0)),
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
    assert_eq!(offer(&mut table, &system, None, at(1)), Ok(address(2)));
    table
        .bind(&system, address(2), None, at(61), at(1))
        .unwrap();
    check(&table);
}

#[test]
fn offers_end_by_themselves_and_bound_leases_do_not_suffer() {
    let mut table = LeaseTable::new(settings());
    let mine = offer(&mut table, &client(50), None, at(0)).unwrap();
    table
        .bind(&client(50), mine, None, at(3600), at(0))
        .unwrap();
    // .128, .130, .131 less the bound one: two strangers fit, a third must wait.
    assert!(offer(&mut table, &client(51), None, at(1)).is_ok());
    assert!(offer(&mut table, &client(52), None, at(1)).is_ok());
    assert_eq!(
        offer(&mut table, &client(53), None, at(2)),
        Err(Refusal::Exhausted)
    );
    // An offer past its grace gives way, the bound lease never.
    assert!(offer(&mut table, &client(53), None, at(5)).is_ok());
    assert_eq!(table.owner_of(mine), Some(mac(50)));
    table.expire(at(100));
    assert_eq!(
        table.counts(),
        LeaseCounts {
            offered: 0,
            bound: 1,
            declined: 0,
            ipv6: 0,
            free: 2
        }
    );
    check(&table);
}

#[test]
fn client_gets_its_old_address_back_after_release_and_after_expiry() {
    let mut table = LeaseTable::new(settings());
    let mine = offer(&mut table, &client(50), None, at(0)).unwrap();
    table.bind(&client(50), mine, None, at(60), at(0)).unwrap();
    assert!(table.release(&client(50), mine, at(10)));
    assert_eq!(offer(&mut table, &client(50), None, at(20)), Ok(mine));
    table.bind(&client(50), mine, None, at(80), at(20)).unwrap();
    table.expire(at(80));
    assert_eq!(table.owner_of(mine), None);
    assert_eq!(offer(&mut table, &client(50), None, at(90)), Ok(mine));
    // Not taken: the memory stays.
    table.expire(at(200));
    assert_eq!(offer(&mut table, &client(50), None, at(300)), Ok(mine));
    check(&table);
}

#[test]
fn declined_address_is_set_aside_for_a_time() {
    let mut table = LeaseTable::new(settings());
    let bad = offer(&mut table, &client(50), None, at(0)).unwrap();
    table.bind(&client(50), bad, None, at(3600), at(0)).unwrap();
    assert!(
        !table.decline(&client(51), bad, at(1)),
        "a stranger declined it"
    );
    assert!(table.decline(&client(50), bad, at(1)));
    let other = offer(&mut table, &client(50), Some(bad), at(2)).unwrap();
    assert_ne!(other, bad);
    check(&table);
    table.expire(at(602));
    assert_eq!(offer(&mut table, &client(52), Some(bad), at(603)), Ok(bad));
    check(&table);
}

#[test]
fn another_mac_on_a_guests_link_stands_in_for_the_guest_but_never_has_its_address() {
    let mut table = LeaseTable::new(settings());
    let dev = GuestName::parse("dev").unwrap();
    let guest_at = |table: &LeaseTable, address| {
        let lease = table.leases().find(|(at, _)| *at == address);
        lease.unwrap().1.guest.clone()
    };
    let stranger = Client {
        link_guest: Some(&dev),
        ..client(77)
    };
    let refused = table.bind(&stranger, address(2), None, at(60), at(0));
    assert_eq!(refused, Err(Refusal::Taken));
    let pooled = offer(&mut table, &stranger, Some(address(2)), at(0)).unwrap();
    assert!(settings().pool.contains(&pooled));
    table.bind(&stranger, pooled, None, at(60), at(0)).unwrap();
    assert_eq!(guest_at(&table, pooled).as_ref(), Some(&dev));
    // A second station behind the same link is not the guest.
    let second = Client {
        mac: mac(78),
        ..stranger
    };
    let other = offer(&mut table, &second, None, at(1)).unwrap();
    table.bind(&second, other, None, at(60), at(1)).unwrap();
    assert_eq!(guest_at(&table, other), None);
    check(&table);
    // The configured MAC has its address whoever asked before, and is the guest from then on.
    assert_eq!(offer(&mut table, &client(1), None, at(2)), Ok(address(2)));
    table
        .bind(&client(1), address(2), None, at(60), at(2))
        .unwrap();
    assert_eq!(guest_at(&table, address(2)).as_ref(), Some(&dev));
    assert_eq!(guest_at(&table, pooled), None);
    table.bind(&stranger, pooled, None, at(90), at(3)).unwrap();
    assert_eq!(guest_at(&table, pooled), None);
    check(&table);
}

#[test]
fn one_link_leaves_addresses_for_every_other() {
    let mut settings = settings();
    settings.subnet = "10.0.0.0/16".parse().unwrap();
    settings.pool = Ipv4Addr::new(10, 0, 128, 0)..=Ipv4Addr::new(10, 0, 128, 99);
    let mut table = LeaseTable::new(settings);
    let station = |link: u32, number: u16| {
        let [high, low] = number.to_be_bytes();
        Client {
            mac: MacAddress([2, 0, 0, link.to_be_bytes()[3], high, low]),
            link: LinkId(link),
            ..client(0)
        }
    };

    let mut take = |link: u32, number: u16, seconds| {
        let asker = station(link, number);
        let offer = table.offer(&asker, None, at(seconds))?;
        table.bind(&asker, offer.address, None, at(3600), at(seconds))
    };
    let hoard = |take: &mut dyn FnMut(u32, u16, u64) -> Result<(), Refusal>, link| {
        (0..500)
            .filter(|number| take(link, *number, 1).is_ok())
            .count()
    };
    // Half, then a third of what is there, and so on: something is always left.
    assert_eq!(hoard(&mut take, 1), 50);
    assert_eq!(hoard(&mut take, 2), 25);
    assert_eq!(hoard(&mut take, 3), 13);
    assert_eq!(take(1, 600, 2), Err(Refusal::LinkFull));
    assert_eq!(take(4, 1, 2), Ok(()));
    // Renewing takes nothing.
    assert_eq!(take(1, 0, 2), Ok(()));
    let full: Vec<_> = table.full_links().into_iter().collect();
    assert_eq!(full, [(LinkId(1), 50), (LinkId(2), 25), (LinkId(3), 13)]);
    check(&table);
    table.expire(at(4000));
    assert!(table.full_links().is_empty());
}

#[test]
fn address_found_in_use_before_its_offer_is_set_aside() {
    let mut table = LeaseTable::new(settings());
    let first = table.offer(&client(50), None, at(0)).unwrap();
    assert!(first.is_new);
    assert!(!table.offer(&client(50), None, at(1)).unwrap().is_new);
    table.found_in_use(first.address, at(1));
    let second = table.offer(&client(50), None, at(2)).unwrap();
    assert!(second.is_new && second.address != first.address);
    let until = at(60);
    table
        .bind(&client(50), second.address, None, until, at(2))
        .unwrap();
    // A lease is not lost by what somebody else answers; a reservation needs no probe.
    table.found_in_use(second.address, at(3));
    assert_eq!(table.owner_of(second.address), Some(mac(50)));
    assert!(!table.offer(&client(1), None, at(3)).unwrap().is_new);
    check(&table);
}

fn ipv6(last: u8, duid: &'static [u8]) -> Ipv6Client<'static> {
    Ipv6Client {
        mac: mac(last),
        duid,
        iaid: 1,
        link: LinkId(last.into()),
    }
}

/// DHCPv6 from question to lease.
fn ipv6_obtain(
    table: &mut LeaseTable,
    client: &Ipv6Client<'_>,
    until: Instant,
    now: Instant,
) -> Result<Ipv4Addr, Refusal> {
    let address = table.ipv6_address_for(client, now)?;
    table.ipv6_bind(client, address, until, now)?;
    Ok(address)
}

#[test]
fn both_sides_of_an_address_are_one_stations_in_whatever_order_it_asks() {
    let mut table = LeaseTable::new(settings());
    let with_identifier = Client {
        identifier: Some(b"\xff\0\0\0\x01duid"),
        ..client(50)
    };
    // IPv6 first.
    let first = ipv6_obtain(&mut table, &ipv6(50, b"duid"), at(100), at(0));
    assert_eq!(offer(&mut table, &with_identifier, None, at(1)), first);
    let mine = first.unwrap();
    table
        .bind(&with_identifier, mine, None, at(60), at(1))
        .unwrap();
    // IPv4 first, and a reservation.
    let other = offer(&mut table, &client(51), None, at(1)).unwrap();
    assert_eq!(
        table.ipv6_address_for(&ipv6(51, b"x"), at(1)),
        Ok(other),
        "while it is only offered"
    );
    assert_eq!(
        ipv6_obtain(&mut table, &ipv6(1, b"dev"), at(100), at(1)),
        Ok(address(2))
    );
    check(&table);
    // The IPv4 side ends, the IPv6 side keeps the address from others.
    table.expire(at(60));
    assert_eq!(table.owner_of(mine), Some(client(50).mac));
    assert_eq!(
        table.bind(&client(52), mine, None, at(99), at(61)),
        Err(Refusal::Taken)
    );
    assert_eq!(offer(&mut table, &with_identifier, None, at(62)), Ok(mine));
    check(&table);
    table.expire(at(100));
    assert_eq!(table.counts().ipv6, 0);
    assert_eq!(table.owner_of(mine), None);
    assert!(
        table
            .bind(&client(52), mine, None, at(150), at(101))
            .is_ok()
    );
    check(&table);
}

#[test]
fn several_duids_behind_one_mac_have_an_address_each_within_the_links_share() {
    let mut table = LeaseTable::new(settings());
    let first = ipv6_obtain(&mut table, &ipv6(50, b"one"), at(100), at(0)).unwrap();
    let second = ipv6_obtain(&mut table, &ipv6(50, b"two"), at(100), at(0)).unwrap();
    assert_ne!(first, second);
    assert_eq!(
        ipv6_obtain(&mut table, &ipv6(50, b"three"), at(100), at(0)),
        Err(Refusal::LinkFull)
    );
    // A guest's boot loader and its system are one client.
    for duid in [b"loader".as_slice(), b"system"] {
        assert_eq!(
            ipv6_obtain(&mut table, &ipv6(1, duid), at(100), at(0)),
            Ok(address(2))
        );
    }
    check(&table);
    assert!(table.ipv6_release(&ipv6(50, b"one"), first, at(1)));
    assert!(!table.ipv6_release(&ipv6(50, b"one"), second, at(1)));
    assert!(ipv6_obtain(&mut table, &ipv6(50, b"three"), at(100), at(2)).is_ok());
    check(&table);
}

#[test]
fn declined_ipv6_side_is_set_aside_and_the_ipv4_side_stands() {
    let mut table = LeaseTable::new(settings());
    let mine = offer(&mut table, &client(50), None, at(0)).unwrap();
    table.bind(&client(50), mine, None, at(60), at(0)).unwrap();
    let asker = ipv6(50, b"duid");
    assert_eq!(ipv6_obtain(&mut table, &asker, at(60), at(0)), Ok(mine));
    assert!(table.ipv6_decline(&asker, mine, at(1)));
    assert_eq!(
        ipv6_obtain(&mut table, &asker, at(60), at(2)),
        Err(Refusal::Taken)
    );
    assert_eq!(table.owner_of(mine), Some(mac(50)));
    table.bind(&client(50), mine, None, at(900), at(2)).unwrap();
    check(&table);
    let later = at(2) + DECLINE_TIME;
    assert_eq!(ipv6_obtain(&mut table, &asker, at(900), later), Ok(mine));
    check(&table);
}

#[test]
fn reload_keeps_leases_and_ends_those_without_an_address() {
    let mut table = LeaseTable::new(settings());
    let pooled = offer(&mut table, &client(50), None, at(0)).unwrap();
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
        ipv6: None,
    };
    let both = [(address(128), saved(at(5))), (address(130), saved(at(900)))];
    table.restore(both, at(10));
    assert_eq!(table.owner_of(address(130)), Some(mac(50)));
    assert_eq!(
        offer(&mut table, &client(50), None, at(11)),
        Ok(address(130))
    );
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
    /// As DHCPv6 does it, from question to lease.
    Ipv6 {
        who: u8,
        seconds: u64,
    },
    Ipv6Release {
        who: u8,
        last: u8,
    },
    Ipv6Decline {
        who: u8,
        last: u8,
    },
    InUse {
        last: u8,
    },
    Wait(u64),
    Reload(bool),
}

fn step() -> impl Strategy<Value = Step> {
    let who = || 0_u8..12;
    let last = || prop_oneof![0_u8..4, 126_u8..134, 253_u8..=255];
    prop_oneof![
        (who(), proptest::option::of(last())).prop_map(|(who, wish)| Step::Offer { who, wish }),
        (who(), proptest::option::of(last()), 1_u64..400)
            .prop_map(|(who, last, seconds)| Step::Bind { who, last, seconds }),
        (who(), last()).prop_map(|(who, last)| Step::Release { who, last }),
        (who(), last()).prop_map(|(who, last)| Step::Decline { who, last }),
        who().prop_map(|who| Step::Forget { who }),
        (who(), 1_u64..400).prop_map(|(who, seconds)| Step::Ipv6 { who, seconds }),
        (who(), last()).prop_map(|(who, last)| Step::Ipv6Release { who, last }),
        (who(), last()).prop_map(|(who, last)| Step::Ipv6Decline { who, last }),
        last().prop_map(|last| Step::InUse { last }),
        (0_u64..300).prop_map(Step::Wait),
        any::<bool>().prop_map(Step::Reload),
    ]
}

proptest! {
    /// What clients were told is the truth: while a lease that was granted runs, on either side of an
    /// address, nobody else is granted that address, whatever everybody asks for. And a configured
    /// guest's address is its MAC's alone, at once, whoever else is behind its link.
    #[test]
    fn leases_never_overlap(steps in proptest::collection::vec(step(), 1..120)) {
        let identifiers: [Option<&[u8]>; 3] = [None, Some(b"one"), Some(b"two")];
        let dev = GuestName::parse("dev").unwrap();
        // Four MACs with three identifiers each; the fourth is behind dev's link.
        let client_of = |who: u8| Client {
            identifier: identifiers[usize::from(who / 4)],
            link: LinkId((who % 3).into()),
            link_guest: Some(&dev).filter(|_| matches!(who % 4, 0 | 3)),
            ..client(who % 4 + 1)
        };
        let ipv6_of = |who: u8| Ipv6Client {
            mac: client_of(who).mac,
            duid: identifiers[usize::from(who / 4)].unwrap_or(b"none"),
            iaid: 1,
            link: client_of(who).link,
        };
        let mut table = LeaseTable::new(settings());
        let mut now = 0;
        let mut granted: Granted = BTreeMap::new();
        let mut granted_ipv6: Granted = BTreeMap::new();
        let others = |granted: &Granted, address: Ipv4Addr, mac: MacAddress, now: u64| {
            granted
                .get(&address)
                .copied()
                .filter(|(holder, until)| *until > now && *holder != mac)
        };
        for step in steps {
            let reserved = |table: &LeaseTable, mac: MacAddress| {
                let mine = table.settings.reservations.iter().find(|r| r.mac == mac)?;
                let held = table.leases.get(&mine.address).is_some_and(|lease| {
                    lease.client.mac != mac || lease.state == LeaseState::Declined
                });
                (!held).then_some(mine.address)
            };
            match step {
                Step::Wait(seconds) => {
                    now += seconds;
                    table.expire(at(now));
                }
                Step::Offer { who, wish } => {
                    let mac = client_of(who).mac;
                    table.expire(at(now));
                    let must = reserved(&table, mac);
                    let offered = offer(&mut table, &client_of(who), wish.map(address), at(now));
                    if let Some(must) = must {
                        prop_assert_eq!(offered, Ok(must));
                    }
                    if let Ok(offered) = offered {
                        prop_assert_eq!(others(&granted, offered, mac, now), None);
                        prop_assert_eq!(others(&granted_ipv6, offered, mac, now), None);
                    }
                }
                Step::Bind { who, last, seconds } => {
                    let mac = client_of(who).mac;
                    let wanted = match last {
                        Some(last) => Ok(address(last)),
                        None => offer(&mut table, &client_of(who), None, at(now)),
                    };
                    if let Ok(wanted) = wanted
                        && table.bind(&client_of(who), wanted, None, at(now + seconds), at(now)).is_ok()
                    {
                        prop_assert_eq!(others(&granted, wanted, mac, now), None);
                        prop_assert_eq!(others(&granted_ipv6, wanted, mac, now), None);
                        let owner = table.reservation_at(wanted).map(|r| r.mac);
                        prop_assert!(owner.is_none_or(|owner| owner == mac));
                        granted.insert(wanted, (mac, now + seconds));
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
                Step::InUse { last } => table.found_in_use(address(last), at(now)),
                Step::Ipv6 { who, seconds } => {
                    let mac = client_of(who).mac;
                    let found = ipv6_obtain(&mut table, &ipv6_of(who), at(now + seconds), at(now));
                    if let Ok(found) = found {
                        prop_assert_eq!(others(&granted, found, mac, now), None);
                        prop_assert_eq!(others(&granted_ipv6, found, mac, now), None);
                        let owner = table.reservation_at(found).map(|r| r.mac);
                        prop_assert!(owner.is_none_or(|owner| owner == mac));
                        granted_ipv6.insert(found, (mac, now + seconds));
                    }
                }
                Step::Ipv6Release { who, last } => {
                    table.ipv6_release(&ipv6_of(who), address(last), at(now));
                }
                Step::Ipv6Decline { who, last } => {
                    table.ipv6_decline(&ipv6_of(who), address(last), at(now));
                }
                Step::Reload(reserved) => {
                    let mut new = settings();
                    if !reserved {
                        new.reservations.clear();
                    }
                    table.reconfigure(new);
                }
            }
            check(&table);
            let changes: Vec<_> = table.take_changes().collect();
            for change in changes {
                match change {
                    LeaseChange::Ended { address, .. } => {
                        // It may have been bound again since; the IPv6 side alone grants no IPv4 address.
                        let holder = granted.get(&address).map(|(mac, _)| *mac);
                        let lease = table.leases.get(&address);
                        let bound = lease.filter(|lease| lease.state == LeaseState::Bound);
                        if bound.map(|lease| lease.client.mac) != holder {
                            granted.remove(&address);
                        }
                    }
                    LeaseChange::Ipv6Ended { address, .. } => {
                        let hold = table.leases.get(&address).and_then(|l| l.ipv6.as_ref());
                        if hold.is_none_or(|hold| hold.declined) {
                            granted_ipv6.remove(&address);
                        }
                    }
                    LeaseChange::Bound { .. } | LeaseChange::Ipv6Bound { .. } => {}
                }
            }
        }
    }
}

/// Address to holder and end.
type Granted = BTreeMap<Ipv4Addr, (MacAddress, u64)>;
