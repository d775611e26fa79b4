//! The IPv6 sides of addresses, for DHCPv6: a station's IPv6 address is the network's prefix with its
//! IPv4 address in the low 32 bits, so that A and AAAA of a name always agree.
//!
//! A station without an IPv4 lease gets an address of the same pool, under the same bounds. It is told
//! by the MAC of its frames, and by its DUID beside it (several clients behind one MAC, boot loaders).
//! Proposals reserve nothing: who only asks leaves no trace.

use std::net::Ipv4Addr;
use std::time::Instant;

use super::record::{ClientKey, EndReason, Ipv6Client, Ipv6Hold, Lease, LeaseChange, LeaseState};
use super::{DECLINE_TIME, ENTRY_LIMIT, LeaseTable, Refusal};

impl LeaseTable {
    /// The address whose IPv6 side a client has, or would get.
    ///
    /// # Errors
    /// Why there is none.
    pub fn ipv6_address_for(
        &mut self,
        client: &Ipv6Client<'_>,
        now: Instant,
    ) -> Result<Ipv4Addr, Refusal> {
        self.expire(now);
        let reserved = self.reservation_of(client.mac).map(|r| r.address);
        let held = self.ipv6_held_by(client);
        // Where its IPv4 side went, the IPv6 side follows.
        let left_behind =
            held.filter(|address| self.state_of(*address) == Some(LeaseState::Ipv6Only));
        let indexes = [&self.bound_by_mac, &self.latest_by_mac];
        let [bound, latest] = indexes.map(|index| index.get(&client.mac).copied());
        let stays = held.filter(|_| left_behind.is_none());
        let chosen = [reserved, stays, bound, held, latest];
        let chosen = chosen.into_iter().flatten();
        let mut blocked = false;
        for address in chosen {
            match self.ipv6_may_hold(client, address) {
                Ok(()) => {
                    self.may_take(client.link, address)?;
                    return Ok(address);
                }
                // Not a reason to take another one: it would no longer agree with the IPv4 address.
                Err(Refusal::Taken) if self.ipv6_declined(address, client) => blocked = true,
                Err(_) => {}
            }
        }
        if blocked {
            return Err(Refusal::Taken);
        }
        let address = self.any_free(&self.ipv6_key(client), now)?;
        self.may_take(client.link, address)?;
        Ok(address)
    }

    /// The address whose IPv6 side a client holds.
    #[must_use]
    pub fn ipv6_held_by(&self, client: &Ipv6Client<'_>) -> Option<Ipv4Addr> {
        let holder = (client.mac, Box::from(client.duid));
        let address = self.by_duid.get(&holder).copied();
        address.filter(|address| self.holds_ipv6(*address))
    }

    /// Whether a client has the IPv6 side of an address.
    #[must_use]
    pub fn holds_ipv6(&self, address: Ipv4Addr) -> bool {
        let lease = self.leases.get(&address);
        let hold = lease.and_then(|lease| lease.ipv6.as_ref());
        hold.is_some_and(|hold| !hold.declined)
    }

    /// Gives or prolongs the IPv6 side of what [`LeaseTable::ipv6_address_for`] found.
    ///
    /// # Errors
    /// Why the client cannot have this address.
    pub fn ipv6_bind(
        &mut self,
        client: &Ipv6Client<'_>,
        address: Ipv4Addr,
        until: Instant,
        now: Instant,
    ) -> Result<(), Refusal> {
        self.expire(now);
        self.ipv6_may_hold(client, address)?;
        self.may_take(client.link, address)?;
        if !self.leases.contains_key(&address) && self.leases.len() >= ENTRY_LIMIT {
            self.make_room(now)?;
        }
        if let Some(old) = self.ipv6_held_by(client).filter(|old| *old != address) {
            self.end_ipv6(old, EndReason::Released);
        }
        let old = self
            .remove(address)
            .filter(|old| old.client.mac == client.mac);
        let hold = Ipv6Hold {
            duid: Box::from(client.duid),
            iaid: client.iaid,
            until,
            declined: false,
        };
        let renewed = old.as_ref().and_then(|old| old.ipv6.as_ref());
        let renewed = renewed.is_some_and(|old| old.duid == hold.duid && !old.declined);
        let lease = match old {
            Some(mut lease) => {
                if lease.state == LeaseState::Past {
                    lease.state = LeaseState::Ipv6Only;
                }
                lease.ipv6 = Some(hold);
                lease.link = Some(client.link);
                lease
            }
            None => Lease {
                client: self.ipv6_key(client),
                guest: self.reservation_of(client.mac).map(|r| r.guest.clone()),
                host_name: None,
                state: LeaseState::Ipv6Only,
                until: now,
                ipv6: Some(hold),
                link: Some(client.link),
                held: true,
            },
        };
        self.changes.push(LeaseChange::Ipv6Bound {
            address,
            lease: lease.clone(),
            renewed,
        });
        self.insert(address, lease);
        Ok(())
    }

    /// The client gives the IPv6 side back; `false` if it did not hold it.
    pub fn ipv6_release(
        &mut self,
        client: &Ipv6Client<'_>,
        address: Ipv4Addr,
        now: Instant,
    ) -> bool {
        self.expire(now);
        let holds = self.ipv6_held_by(client) == Some(address);
        if holds {
            self.end_ipv6(address, EndReason::Released);
        }
        holds
    }

    /// The client found the IPv6 side in use; `false` if it did not hold it. The IPv4 side stands.
    pub fn ipv6_decline(
        &mut self,
        client: &Ipv6Client<'_>,
        address: Ipv4Addr,
        now: Instant,
    ) -> bool {
        self.expire(now);
        if self.ipv6_held_by(client) != Some(address) {
            return false;
        }
        let Some(mut lease) = self.remove(address) else {
            return false;
        };
        let mut told = lease.clone();
        told.ipv6 = None;
        if let Some(hold) = &mut lease.ipv6 {
            hold.until = now + DECLINE_TIME;
            hold.declined = true;
        }
        self.changes.push(LeaseChange::Ipv6Ended {
            address,
            lease: told,
            reason: EndReason::Declined,
        });
        self.insert(address, lease);
        true
    }

    /// Ends the IPv6 side, if there is one; what only that kept becomes a memory.
    pub(super) fn end_ipv6(&mut self, address: Ipv4Addr, reason: EndReason) {
        let has_side = |lease: &Lease| lease.ipv6.is_some();
        if !self.leases.get(&address).is_some_and(has_side) {
            return;
        }
        let Some(mut lease) = self.remove(address) else {
            return;
        };
        let hold = lease.ipv6.take();
        if lease.state == LeaseState::Ipv6Only {
            lease.state = LeaseState::Past;
            lease.until = hold.as_ref().map_or(lease.until, |hold| hold.until);
        }
        // That of a declined one was told when it was declined.
        if hold.is_some_and(|hold| !hold.declined) {
            self.changes.push(LeaseChange::Ipv6Ended {
                address,
                lease: lease.clone(),
                reason,
            });
        }
        self.insert(address, lease);
    }

    fn state_of(&self, address: Ipv4Addr) -> Option<LeaseState> {
        self.leases.get(&address).map(|lease| lease.state)
    }

    fn ipv6_declined(&self, address: Ipv4Addr, client: &Ipv6Client<'_>) -> bool {
        self.leases.get(&address).is_some_and(|lease| {
            lease.client.mac == client.mac && lease.ipv6.as_ref().is_some_and(|hold| hold.declined)
        })
    }

    /// One client behind a MAC is the MAC alone, so that the IPv4 client there, whatever its
    /// identifier, gets the same address; further ones have their DUID beside it.
    fn ipv6_key(&self, client: &Ipv6Client<'_>) -> ClientKey {
        let is_first = !self.latest_by_mac.contains_key(&client.mac)
            || self.reservation_of(client.mac).is_some();
        ClientKey {
            mac: client.mac,
            identifier: (!is_first).then(|| Box::from(client.duid)),
        }
    }

    fn ipv6_may_hold(&self, client: &Ipv6Client<'_>, address: Ipv4Addr) -> Result<(), Refusal> {
        if !self.is_for_clients(address) {
            return Err(Refusal::NotForClients);
        }
        let reservation = self.reservation_at(address);
        let is_mine = reservation.is_some_and(|r| r.mac == client.mac);
        if reservation.is_some() && !is_mine {
            return Err(Refusal::Taken);
        }
        if !is_mine && !self.settings.pool.contains(&address) {
            return Err(Refusal::NotForClients);
        }
        let Some(lease) = self.leases.get(&address) else {
            return Ok(());
        };
        let is_free = match lease.state {
            LeaseState::Declined => false,
            LeaseState::Past => true,
            LeaseState::Offered | LeaseState::Bound | LeaseState::Ipv6Only => {
                lease.client.mac == client.mac
            }
        };
        // The guest of a reservation is its MAC alone: its loader and its system are one client.
        let is_held = lease
            .ipv6
            .as_ref()
            .is_some_and(|hold| hold.declined || (!is_mine && *hold.duid != *client.duid));
        if is_free && !is_held {
            Ok(())
        } else {
            Err(Refusal::Taken)
        }
    }
}
