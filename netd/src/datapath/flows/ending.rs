//! How a TCP flow ends: in order, by a reset to either side, with its link, or to make room for another.

use std::time::Instant;

use control::egress::FlowProtocol;

use super::{End, Flows, send_alone};
use crate::datapath::context::Context;
use crate::datapath::limits::Throttle;
use crate::engine::ends::Key;
use crate::engine::services::LinkId;
use crate::engine::tcp::Phase;
use crate::io::host;

/// Flows looked at to find the one that gives way.
const EVICTION_SAMPLE: usize = 64;

impl Flows {
    /// A link is gone: its flows end, and the host's peers are told.
    pub(in crate::datapath) fn link_gone(&mut self, context: &mut Context, id: LinkId) {
        for slot in 0..u32::try_from(self.slots.len()).unwrap_or(0) {
            if self
                .flow(slot)
                .is_some_and(|flow| flow.place.is_some_and(|place| place.link == id))
            {
                self.close(context, slot, End::ResetHost);
            }
        }
    }

    /// A guest refuses by ICMP a connection that is about to begin (RFC 1122 section 4.2.3.9); one that stands
    /// is not ended so.
    pub(in crate::datapath) fn turned_away(&mut self, context: &mut Context, key: &Key) {
        let Some(&slot) = self.index.get(key) else {
            return;
        };
        let opening = self
            .flow(slot)
            .is_some_and(|flow| !flow.outbound && flow.machine.phase() == Phase::SynSent);
        if opening {
            context.turned_away.push(key.guest());
            self.close(context, slot, End::ResetHost);
        }
    }

    /// Rules have changed: flows of guests that would not begin any more end, and both sides are told.
    pub(in crate::datapath) fn apply_policy(&mut self, context: &mut Context) {
        for slot in 0..u32::try_from(self.slots.len()).unwrap_or(0) {
            let Some((key, link)) = self.flow(slot).and_then(|flow| {
                let place = flow.place.filter(|_| flow.outbound)?;
                Some((flow.key, place.link))
            }) else {
                continue;
            };
            let to = key.remote();
            if context.settings.is_gateway(to.ip()) {
                continue;
            }
            if let Err(reason) = context.egress_still(link, FlowProtocol::Tcp, to) {
                context.counters.ended_policy += 1;
                context.refused_by_policy(link, "tcp", to, &reason);
                self.close(context, slot, End::ResetBoth);
            }
        }
    }

    /// Flows whose guest has tokens again.
    pub(in crate::datapath) fn unthrottle(&mut self, context: &mut Context) {
        let now = context.now;
        for (slot, way) in context.shapers.ready(now) {
            if let Some(flow) = self.flow(slot) {
                flow.throttled[way as usize] = Throttle::No;
            }
            self.queue(slot);
        }
    }

    /// Limits have changed: whoever waited for the old ones looks anew.
    pub(in crate::datapath) fn look_anew(&mut self, slots: Vec<u32>) {
        for slot in slots {
            if let Some(flow) = self.flow(slot) {
                flow.throttled = [Throttle::No; 2];
            }
            self.queue(slot);
        }
    }

    /// Ends everything.
    pub(in crate::datapath) fn close_all(&mut self, context: &mut Context) {
        for slot in 0..u32::try_from(self.slots.len()).unwrap_or(0) {
            self.close(context, slot, End::ResetBoth);
        }
    }

    pub(super) fn close(&mut self, context: &mut Context, slot: u32, end: End) {
        let Some(place) = self.slots.get_mut(slot as usize) else {
            return;
        };
        let Some(mut flow) = place.flow.take() else {
            return;
        };
        place.generation = place.generation.wrapping_add(1);
        self.free.push(slot);
        self.index.remove(&flow.key);
        flow.holder.inspect(|link| self.holders.remove(*link));
        flow.release(&mut context.pool);
        if let Some(at) = flow.place
            && flow.outbound
            && flow.machine.phase() == Phase::Dialing
            && let Some(link) = context.link(at.link)
        {
            link.dials = link.dials.saturating_sub(1);
        }
        if matches!(end, End::ResetHost | End::ResetBoth) {
            host::reset_on_close(&flow.host);
        }
        if matches!(end, End::ResetGuest | End::ResetBoth)
            && let Some(at) = flow.place
        {
            send_alone(context, at, flow.key, flow.machine.reset());
        }
        if end == End::Orderly && flow.machine.finished() {
            self.linger
                .insert(flow.key, flow.machine.last_numbers(), context.now);
        }
        // Dropping the flow closes its socket, and with it epoll's interest.
    }

    /// True if one more flow may be made, if need be at the cost of another.
    pub(super) fn make_room(&mut self, context: &mut Context) -> bool {
        if self.index.len() < context.settings.limits.tcp_flows {
            return true;
        }
        let count = self.slots.len();
        // A guest that takes all it can get takes it from itself.
        let largest = self.holders.largest();
        let mut victim: Option<(bool, Instant, u32)> = None;
        let mut sample = 0;
        for _look in 0..count {
            self.cursor = (self.cursor + 1) % count.max(1);
            let Some(flow) = self
                .slots
                .get(self.cursor)
                .and_then(|slot| slot.flow.as_deref())
                .filter(|flow| flow.holder == largest)
            else {
                continue;
            };
            let open = flow.machine.phase() == Phase::Open;
            let rank = (
                open,
                if open {
                    flow.machine.last_heard()
                } else {
                    flow.since
                },
            );
            if victim.is_none_or(|best| rank < (best.0, best.1)) {
                victim = Some((rank.0, rank.1, u32::try_from(self.cursor).unwrap_or(0)));
            }
            sample += 1;
            if sample == EVICTION_SAMPLE {
                break;
            }
        }
        let Some((_, _, slot)) = victim else {
            return false;
        };
        context.counters.tcp_evicted += 1;
        self.close(context, slot, End::ResetBoth);
        true
    }
}
