//! The way of a bridged network to the LAN: a packet socket on an interface of the host. Frames come and go
//! with the virtio-net header, so that what the kernel joined (GRO) or left unsummed stays so until somebody
//! needs it otherwise. See docs/decisions/0006-networks.md.

use std::io::{self, IoSlice};
use std::ops::Range;

use control::mac::MacAddress;
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::io::Errno;

use super::link::{FRAME_MAX, Sent};
use crate::engine::offload::{Offload, VNET_HEADER};
use crate::sys::packet::{self, Arrived, BATCH, Membership};

/// One frame, its header, and a little more so that slots start on cache lines.
const SLOT: usize = (VNET_HEADER + FRAME_MAX).next_multiple_of(64);
/// Both MAC addresses; a VLAN tag stands behind them.
const ADDRESSES: usize = 12;
const TAG: u16 = 4;
/// Addresses asked of the interface one by one; beyond, it is told to give us everything.
const MOST_ADDRESSES: usize = 128;
/// A burst of frames must survive one turn of the loop.
const SOCKET_BUFFER: usize = 4 << 20;

/// An open packet socket.
#[derive(Debug)]
pub struct Uplink {
    socket: OwnedFd,
    interface: u32,
    addresses: Vec<MacAddress>,
    everything: bool,
}

/// Room for one batch of frames; used again and again.
#[derive(Debug, Default)]
pub struct Batch {
    /// The slots.
    pub bytes: Vec<u8>,
    arrived: [Arrived; BATCH],
}

/// What a read gave.
#[derive(Debug, PartialEq, Eq)]
pub enum Taken {
    /// Nothing there.
    Empty,
    /// So many frames, and whether there may be more.
    Frames(usize, bool),
    /// The interface is gone, or down.
    Gone(String),
}

impl Uplink {
    /// Prepares a packet socket, whoever opened it, for an interface.
    ///
    /// # Errors
    /// When it is no packet socket (SOCK_RAW), or the interface is gone.
    pub fn new(socket: OwnedFd, interface: u32) -> io::Result<Self> {
        rustix::io::ioctl_fionbio(&socket, true)?;
        packet::prepare(socket.as_fd())?;
        rustix::net::sockopt::set_socket_recv_buffer_size(&socket, SOCKET_BUFFER).ok();
        packet::bind(socket.as_fd(), interface)?;
        // An error of its last interface says nothing about this one.
        rustix::net::sockopt::socket_error(&socket).ok();
        // Guests' groups are unknown (IPv6 neighbours, mDNS); the switch gives them to guests only.
        packet::join(socket.as_fd(), interface, Membership::AllGroups)?;
        Ok(Self {
            socket,
            interface,
            addresses: Vec::new(),
            everything: false,
        })
    }

    /// For epoll.
    pub fn descriptor(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    /// Asks the interface for frames to a guest's address: by its filter, which spares the host what promiscuous
    /// mode would cost it; the kernel turns that on by itself where the hardware has no room.
    pub fn admit(&mut self, mac: MacAddress) {
        if self.everything || self.addresses.contains(&mac) {
            return;
        }
        let one = Membership::Unicast(mac);
        if self.addresses.len() < MOST_ADDRESSES
            && packet::join(self.socket.as_fd(), self.interface, one).is_ok()
        {
            self.addresses.push(mac);
            return;
        }
        match packet::join(self.socket.as_fd(), self.interface, Membership::Everything) {
            Ok(()) => self.everything = true,
            Err(error) => tracing::warn!(%error, "cannot make the interface promiscuous"),
        }
    }

    /// Reads frames into `batch`.
    pub fn read(&self, batch: &mut Batch) -> Taken {
        batch.bytes.resize(SLOT * BATCH, 0);
        match packet::receive(
            self.socket.as_fd(),
            &mut batch.bytes,
            SLOT,
            &mut batch.arrived,
        ) {
            Ok(count) => Taken::Frames(count, count == BATCH),
            Err(error) => match Errno::from_io_error(&error) {
                Some(Errno::AGAIN | Errno::INTR) => Taken::Empty,
                Some(_) | None => Taken::Gone(error.to_string()),
            },
        }
    }

    /// Sends a frame. What the interface's queue has no room for is lost, as on any wire.
    pub fn write(&self, frame: &[u8], offload: &Offload) -> Sent {
        let header = offload.emit();
        let parts = [IoSlice::new(&header), IoSlice::new(frame)];
        match rustix::io::writev(&self.socket, &parts) {
            Ok(_all) => Sent::Taken,
            Err(Errno::AGAIN) => Sent::Full,
            // NETDOWN and the like: reading tells it too, with the time to do something about it.
            Err(_refused) => Sent::Dropped,
        }
    }
}

impl Batch {
    /// The frame in a slot and what is left to do on it; `None` if it is none of use. A VLAN tag that the
    /// kernel had taken out stands in it again.
    pub fn frame(&mut self, index: usize) -> Option<(Range<usize>, Offload)> {
        let arrived = *self.arrived.get(index)?;
        let slot = self.bytes.get_mut(index * SLOT..(index + 1) * SLOT)?;
        if arrived.cut || arrived.length < VNET_HEADER + ADDRESSES + 2 {
            return None;
        }
        let mut offload = slot.first_chunk().and_then(Offload::parse)?;
        let mut start = VNET_HEADER;
        if let Some((protocol, control)) = arrived.vlan {
            // The header has been read: its bytes are the room for the tag.
            start -= usize::from(TAG);
            slot.copy_within(VNET_HEADER..VNET_HEADER + ADDRESSES, start);
            slot[start + ADDRESSES..][..2].copy_from_slice(&protocol.to_be_bytes());
            slot[start + ADDRESSES + 2..][..2].copy_from_slice(&control.to_be_bytes());
            if offload.needs_checksum {
                offload.checksum_start = offload.checksum_start.checked_add(TAG)?;
            }
            offload.header_length = offload.header_length.saturating_add(TAG);
        }
        let base = index * SLOT;
        Some((base + start..base + arrived.length, offload))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_vlan_tag_is_put_back_and_the_checksum_moves_along() {
        let mut batch = Batch {
            bytes: vec![0; SLOT * BATCH],
            ..Batch::default()
        };
        let frame: Vec<u8> = (0..60).collect();
        let plain = Offload {
            needs_checksum: true,
            checksum_start: 34,
            checksum_offset: 16,
            ..Offload::default()
        };
        for slot in [0, 1] {
            batch.bytes[slot * SLOT..][..VNET_HEADER].copy_from_slice(&plain.emit());
            batch.bytes[slot * SLOT + VNET_HEADER..][..60].copy_from_slice(&frame);
            batch.arrived[slot].length = VNET_HEADER + 60;
        }
        batch.arrived[1].vlan = Some((0x8100, 0x2007));
        let (at, offload) = batch.frame(0).unwrap();
        assert_eq!((&batch.bytes[at], offload), (&frame[..], plain));
        let (at, offload) = batch.frame(1).unwrap();
        let tagged = [&frame[..12], &[0x81, 0, 0x20, 7], &frame[12..]].concat();
        assert_eq!(batch.bytes[at], tagged);
        assert_eq!(offload.checksum_start, 38);
        batch.arrived[2].length = VNET_HEADER + 13;
        assert!(batch.frame(2).is_none());
        batch.arrived[0].cut = true;
        assert!(batch.frame(0).is_none());
    }
}
