//! The published ports that the packet thread serves: sockets handed over ready, and where they lead.

use std::net::{IpAddr, SocketAddr};

use control::port::Protocol;
use rustix::event::epoll::EventFlags;
use rustix::fd::OwnedFd;
use rustix::net::SocketFlags;

use super::context::{Context, Source};
use super::datagrams::Datagrams;
use super::flows::Flows;
use super::messages::{NewPublish, PublishId};

/// Connections accepted in one turn of one listener.
const TURN: usize = 64;

struct Socket {
    id: PublishId,
    protocol: Protocol,
    descriptor: OwnedFd,
    address: Option<IpAddr>,
    port: u16,
}

#[derive(Default)]
pub(super) struct Published {
    /// By the number in the event; numbers are not used again while their socket lives.
    sockets: Vec<Option<Socket>>,
    next: u32,
}

impl Published {
    pub(super) fn add(&mut self, context: &mut Context, publish: NewPublish) -> PublishId {
        self.next += 1;
        let id = PublishId(self.next);
        for (descriptor, _address) in publish.sockets.sockets {
            let index = self
                .sockets
                .iter()
                .position(Option::is_none)
                .unwrap_or_else(|| {
                    self.sockets.push(None);
                    self.sockets.len() - 1
                });
            let number = u32::try_from(index).unwrap_or(u32::MAX);
            if let Err(error) = context.watch(&descriptor, Source::Publish(number), EventFlags::IN)
            {
                context.host_limit("epoll", || format!("cannot watch a socket: {error}"), None);
                continue;
            }
            let NewPublish {
                protocol,
                address,
                port,
                ..
            } = publish;
            self.sockets[index] = Some(Socket {
                id,
                protocol,
                descriptor,
                address,
                port,
            });
        }
        id
    }

    pub(super) fn retarget(&mut self, id: PublishId, address: Option<IpAddr>) {
        for socket in self
            .sockets
            .iter_mut()
            .flatten()
            .filter(|socket| socket.id == id)
        {
            socket.address = address;
        }
    }

    pub(super) fn remove(&mut self, datagrams: &mut Datagrams, id: PublishId) {
        for (index, slot) in self.sockets.iter_mut().enumerate() {
            if slot.as_ref().is_some_and(|socket| socket.id == id) {
                *slot = None;
                datagrams.unpublished(u32::try_from(index).unwrap_or(u32::MAX));
            }
        }
    }

    /// A duplicate descriptor is not needed: the caller sends at once.
    pub(super) fn descriptor(&self, index: u32) -> Option<&OwnedFd> {
        self.sockets
            .get(index as usize)?
            .as_ref()
            .map(|socket| &socket.descriptor)
    }

    pub(super) fn event(
        &mut self,
        context: &mut Context,
        flows: &mut Flows,
        datagrams: &mut Datagrams,
        index: u32,
    ) {
        let Some(Some(socket)) = self.sockets.get(index as usize) else {
            return;
        };
        let guest = socket
            .address
            .map(|address| SocketAddr::new(address, socket.port));
        match socket.protocol {
            Protocol::Udp => datagrams.published(context, index, &socket.descriptor, guest),
            Protocol::Tcp => {
                for _turn in 0..TURN {
                    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
                    match rustix::net::acceptfrom_with(&socket.descriptor, flags) {
                        Ok((client, Some(peer))) => {
                            let Ok(peer) = SocketAddr::try_from(peer) else {
                                continue;
                            };
                            flows.open_inbound(context, client, peer, guest);
                        }
                        Ok((_, None))
                        | Err(rustix::io::Errno::CONNABORTED | rustix::io::Errno::INTR) => {}
                        Err(rustix::io::Errno::AGAIN) => break,
                        Err(error) => {
                            context.host_limit(
                                "accept",
                                || {
                                    format!(
                                        "cannot accept a connection to a published port: {error}"
                                    )
                                },
                                Some("raise the limit of open files (ulimit -n)"),
                            );
                            break;
                        }
                    }
                }
            }
        }
    }
}
