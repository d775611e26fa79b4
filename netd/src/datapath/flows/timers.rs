//! The clock of the TCP flows: retransmission, silence, dials that take too long, acknowledgements that waited.

use std::time::{Duration, Instant};

use super::{End, Flows};
use crate::datapath::context::Context;
use crate::engine::icmp::Unreachable;
use crate::engine::tcp::{Expiry, Idle, Phase};
use crate::io::host::{self, DialError};

/// A flow that waits for the host is looked at this often, so that quick connects leave no late timers behind.
const DIAL_CHECK: Duration = Duration::from_secs(2);
/// A published port's guest that does not answer ARP for this many SYNs (1 + 2 s) is not there.
const UNKNOWN_ATTEMPTS: u8 = 2;

impl Flows {
    fn idle(context: &Context) -> Idle {
        let limits = &context.settings.limits;
        Idle {
            open: limits.tcp_idle,
            half_closed: limits.tcp_half_closed_idle,
        }
    }

    pub(super) fn arm(&mut self, context: &Context, slot: u32) {
        let idle = Self::idle(context);
        let Some(place) = self.slots.get_mut(slot as usize) else {
            return;
        };
        let Some(flow) = place.flow.as_deref_mut() else {
            return;
        };
        let deadline = if flow.machine.phase() == Phase::Dialing {
            (flow.since + context.settings.limits.dial_time).min(context.now + DIAL_CHECK)
        } else {
            flow.machine.deadline(&idle)
        };
        if flow.armed.is_none_or(|armed| deadline < armed) {
            flow.armed = Some(deadline);
            self.timers.push(deadline, (slot, place.generation));
        }
    }

    /// The next moment at which [`Flows::handle_timeout`] has work.
    pub(in crate::datapath) fn deadline(&self) -> Option<Instant> {
        self.timers
            .next()
            .into_iter()
            .chain(self.delayed_until)
            .min()
    }

    /// Time has come for some flows.
    pub(in crate::datapath) fn handle_timeout(&mut self, context: &mut Context) {
        if self.delayed_until.is_some_and(|until| until <= context.now) {
            self.send_delayed();
        }
        while let Some((slot, generation)) = self.timers.pop(context.now) {
            let current = self
                .slots
                .get(slot as usize)
                .is_some_and(|place| place.generation == generation);
            let Some(flow) = self.flow(slot).filter(|_| current) else {
                continue;
            };
            // Later entries of the same flow may exist; they only cost a look.
            flow.armed = None;
            if flow.machine.phase() == Phase::Dialing {
                if context.now >= flow.since + context.settings.limits.dial_time {
                    self.dial_failed(context, slot, DialError::Unreachable(Unreachable::Host));
                } else {
                    self.arm(context, slot);
                }
                continue;
            }
            let silent = context
                .now
                .saturating_duration_since(flow.machine.last_heard());
            if silent >= context.settings.limits.tcp_idle {
                host::keep_alive(&flow.host);
            }
            let idle = Self::idle(context);
            let unknown = flow.place.is_none() && flow.machine.attempts() + 1 >= UNKNOWN_ATTEMPTS;
            if flow.machine.handle_timeout(&idle, context.now) == Expiry::GiveUp || unknown {
                self.close(context, slot, End::ResetBoth);
            } else {
                self.queue(slot);
            }
        }
    }
}
