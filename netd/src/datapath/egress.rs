//! Egress policy at work: which flows of a guest may begin, which names it may ask for, what it learned,
//! and what becomes of running flows when rules change. `engine::policy` decides, this file knows whom about.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use control::egress::{FlowProtocol, FlowQuestion, QuestionPlace, Verdict};
use control::names::GuestName;
use control::port::Protocol;

use super::context::Context;
use crate::engine::nat;
use crate::engine::policy::{Flow, Place};
use crate::engine::services::{DnsClient, DnsOutcome, LinkId};
use crate::wire::dns::{Query, ResponseCode};
use crate::wire::dns_addresses::{addresses, asked_name};

/// Addresses of a name that are told.
const ADDRESSES: usize = 64;

/// The answer to a question about a flow.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Checked {
    /// It would pass or not.
    pub verdict: Verdict,
    /// Why.
    pub reason: String,
    /// The addresses that the guest was told for the name in the question; empty where it named an address.
    pub addresses: Vec<IpAddr>,
}

impl Context {
    /// Whether a guest's flow may begin; else why not.
    pub(super) fn egress(
        &self,
        link: LinkId,
        protocol: FlowProtocol,
        to: SocketAddr,
    ) -> Result<(), Arc<str>> {
        if self.settings.egress.is_open() {
            return Ok(());
        }
        self.judge(self.guest_on(link), protocol, to, false)
    }

    /// Whether a flow that has begun may go on under new rules. A name that held when it began still does.
    pub(super) fn egress_still(
        &self,
        link: LinkId,
        protocol: FlowProtocol,
        to: SocketAddr,
    ) -> Result<(), Arc<str>> {
        self.judge(self.guest_on(link), protocol, to, true)
    }

    fn judge(
        &self,
        guest: Option<&GuestName>,
        protocol: FlowProtocol,
        to: SocketAddr,
        remembered: bool,
    ) -> Result<(), Arc<str>> {
        let flow = Flow {
            protocol,
            to: if self.settings.is_host_internal(to.ip()) {
                Place::Host
            } else {
                Place::Address(to.ip())
            },
            port: to.port(),
        };
        let policy = self.settings.egress.of(guest);
        let decision = policy.decide(&flow, |test| {
            if remembered {
                self.learned.remembered(guest, to.ip()).any(test)
            } else {
                self.learned.names(guest, to.ip(), self.now).any(test)
            }
        });
        if decision.allowed() {
            Ok(())
        } else {
            Err(Arc::clone(decision.reason))
        }
    }

    /// Counts and tells a refusal by policy.
    pub(super) fn refused_by_policy(
        &mut self,
        link: LinkId,
        protocol: &'static str,
        to: SocketAddr,
        reason: &str,
    ) {
        if let Some(link) = self.link(link) {
            link.counters.refused_policy += 1;
        }
        self.refused(link, protocol, to, reason.to_owned());
    }

    /// The answer to a query for a name that the guest may not resolve outside.
    pub(super) fn name_refused(
        &mut self,
        guest: Option<&GuestName>,
        query: &[u8],
    ) -> Option<Vec<u8>> {
        if self.settings.egress.is_open() {
            return None;
        }
        let decoded = Query::decode(query).ok()?;
        let name = asked_name(query)?;
        let decision = self.settings.egress.of(guest).decide_name(&name);
        if decision.allowed() {
            return None;
        }
        let reason = format!("the name {}: {}", name.escape_debug(), decision.reason);
        let links = &self.links;
        let link = links
            .iter()
            .position(|link| {
                link.as_deref()
                    .is_some_and(|link| link.guest.as_ref() == guest)
            })
            .and_then(|index| u32::try_from(index).ok())
            .map(LinkId);
        self.counters.dns_refused_policy += 1;
        if let Some(link) = link {
            let gateway = SocketAddr::new(self.settings.gateway.into(), 53);
            self.refused_by_policy(link, "udp", gateway, &reason);
        }
        Some(decoded.failure(ResponseCode::Refused))
    }

    /// As [`Context::name_refused`] for a query that did not come through the packet thread: what the
    /// gateway knows itself is never refused.
    pub(super) fn ask_name(&mut self, guest: Option<&GuestName>, query: &[u8]) -> Option<Vec<u8>> {
        let client = DnsClient {
            address: self.settings.gateway.into(),
            guest,
        };
        match self.services.dns(query, &client, self.now) {
            DnsOutcome::Forward | DnsOutcome::Kept(_) => self.name_refused(guest, query),
            DnsOutcome::Answer(_) | DnsOutcome::Drop => None,
        }
    }

    /// An answer is about to leave: what it says holds from now on, before the guest can act on it.
    pub(super) fn learn(&mut self, guest: Option<&GuestName>, answer: &[u8]) {
        let Some(found) = addresses(answer) else {
            return;
        };
        let ruled = self.settings.egress.of(guest).is_about(&found.name);
        self.learned
            .learn(guest, &found.name, &found.addresses, ruled, self.now);
    }

    /// What would become of a flow. Nothing is sent and nothing counted.
    pub(super) fn check(&self, guest: &GuestName, question: &FlowQuestion) -> Checked {
        let denied = |reason: String| Checked {
            verdict: Verdict::Deny,
            reason,
            addresses: Vec::new(),
        };
        let policy = self.settings.egress.of(Some(guest));
        let (port, protocol) = (question.port, question.protocol);
        match &question.to {
            QuestionPlace::Host => {
                let host = IpAddr::from(self.settings.host_internal);
                self.check_address(guest, protocol, SocketAddr::new(host, port))
            }
            QuestionPlace::Address(address) => {
                self.check_address(guest, protocol, SocketAddr::new(*address, port))
            }
            QuestionPlace::Name(name) => {
                let name = name.as_str();
                let resolves = policy.decide_name(name);
                if !resolves.allowed() {
                    return denied(format!("the name does not resolve: {}", resolves.reason));
                }
                let known: Vec<IpAddr> = self
                    .learned
                    .addresses(Some(guest), name, self.now)
                    .take(ADDRESSES)
                    .collect();
                let answers = known.iter().map(|address| {
                    self.check_address(guest, protocol, SocketAddr::new(*address, port))
                });
                // A client tries them all: one that is denied is what it would run into.
                let answer = answers.reduce(|worst, next| {
                    if worst.verdict == Verdict::Deny {
                        worst
                    } else {
                        next
                    }
                });
                let answer = answer.unwrap_or_else(|| {
                    let nowhere = IpAddr::from(std::net::Ipv4Addr::UNSPECIFIED);
                    let flow = Flow {
                        protocol,
                        to: Place::Address(nowhere),
                        port,
                    };
                    let decision = policy.decide(&flow, |test| test(name));
                    Checked {
                        verdict: decision.verdict,
                        reason: decision.reason.to_string(),
                        addresses: Vec::new(),
                    }
                });
                Checked {
                    addresses: known,
                    ..answer
                }
            }
        }
    }

    fn check_address(&self, guest: &GuestName, protocol: FlowProtocol, to: SocketAddr) -> Checked {
        let answer = |verdict, reason: &str| Checked {
            verdict,
            reason: reason.to_owned(),
            addresses: Vec::new(),
        };
        let target = match protocol {
            FlowProtocol::Tcp => nat::outbound(&self.settings, Protocol::Tcp, to).map(Some),
            FlowProtocol::Udp => nat::outbound(&self.settings, Protocol::Udp, to).map(Some),
            FlowProtocol::Icmp if self.settings.is_ours(to.ip()) => {
                return answer(Verdict::Allow, "the gateway answers pings itself");
            }
            FlowProtocol::Icmp => nat::outside(&self.settings, to.ip()).map(|()| None),
        };
        match target {
            Err(nat::Refusal::OwnSubnet) => answer(
                Verdict::Allow,
                "guests of one network reach each other without the gateway",
            ),
            Err(refusal) => answer(Verdict::Deny, refusal.reason()),
            Ok(Some(nat::Target::Gateway(_))) => answer(Verdict::Allow, "a service of the gateway"),
            Ok(_) => {
                let flow = Flow {
                    protocol,
                    to: if self.settings.is_host_internal(to.ip()) {
                        Place::Host
                    } else {
                        Place::Address(to.ip())
                    },
                    port: to.port(),
                };
                let policy = self.settings.egress.of(Some(guest));
                let decision = policy.decide(&flow, |test| {
                    self.learned.names(Some(guest), to.ip(), self.now).any(test)
                });
                answer(decision.verdict, decision.reason)
            }
        }
    }
}
