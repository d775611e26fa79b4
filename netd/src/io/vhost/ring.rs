//! One split virtqueue (virtio 1.2 §2.7) whose other side is a guest that may say anything.
//! What the guest offers is read by virtio-queue (chains, indirect tables, loops, indices); giving back is done here:
//! a frame in several merged buffers has to become visible at once (§5.1.6.4), which virtio-queue 0.18 cannot say.

use std::num::Wrapping;
use std::sync::atomic::{Ordering, fence};

use rustix::fd::OwnedFd;
use virtio_queue::{DescriptorChain, Queue, QueueOwnedT, QueueT};
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};

/// Entries of a ring at most; QEMU's own limit for vhost-user.
pub const LONGEST_RING: u16 = 1_024;

const AVAIL_NO_INTERRUPT: u16 = 1;
/// flags and idx.
const RING_HEADER: u64 = 4;
const AVAIL_ELEMENT: u64 = 2;
const USED_ELEMENT: u64 = 8;

/// Where a ring lies and how its two sides wake each other.
#[derive(Debug)]
pub struct RingSetup {
    /// Entries: a power of two.
    pub size: u16,
    /// Guest address of the descriptor table.
    pub descriptors: u64,
    /// Guest address of the ring that the guest writes.
    pub available: u64,
    /// Guest address of the ring that we write.
    pub used: u64,
    /// The entry to begin with.
    pub base: u16,
    /// The guest writes here when it has put something in.
    pub kick: OwnedFd,
    /// We write here when we have given something back.
    pub call: Option<OwnedFd>,
    /// Frames may pass.
    pub enabled: bool,
}

/// A ring in use.
#[derive(Debug)]
pub(super) struct Ring {
    queue: Queue,
    /// Entries given back so far.
    used: Wrapping<u16>,
    /// As many of them the guest was asked about by `notify`.
    told: Wrapping<u16>,
    /// Written behind `used`, not visible yet.
    unpublished: u16,
    event_index: bool,
    /// The guest put something in that cannot be used; only a new start mends it.
    pub broken: bool,
    /// Buffers that must be there before another try is worth it.
    pub wanted: u16,
    /// Frames may pass.
    pub enabled: bool,
    /// See [`RingSetup`].
    pub kick: OwnedFd,
    /// See [`RingSetup`].
    pub call: Option<OwnedFd>,
}

impl Ring {
    /// `None` if the ring does not lie in the guest's memory, or is no ring.
    pub(super) fn start(
        setup: RingSetup,
        memory: &GuestMemoryMmap,
        event_index: bool,
    ) -> Option<Self> {
        let mut queue = Queue::new(LONGEST_RING).ok()?;
        queue.try_set_size(setup.size).ok()?;
        queue
            .try_set_desc_table_address(GuestAddress(setup.descriptors))
            .ok()?;
        queue
            .try_set_avail_ring_address(GuestAddress(setup.available))
            .ok()?;
        queue
            .try_set_used_ring_address(GuestAddress(setup.used))
            .ok()?;
        queue.set_event_idx(event_index);
        queue.set_next_avail(setup.base);
        queue.set_ready(true);
        if setup.available == 0 || !queue.is_valid(memory) {
            return None;
        }
        // What an earlier device gave back counts on from here.
        let used = queue.used_idx(memory, Ordering::Acquire).ok()?;
        if let Some(call) = &setup.call {
            never_wait(call);
        }
        Some(Self {
            queue,
            used,
            told: used,
            unpublished: 0,
            event_index,
            broken: false,
            wanted: 1,
            enabled: setup.enabled,
            kick: setup.kick,
            call: setup.call,
        })
    }

    /// The memory is another one now: whether the ring still lies in it.
    pub(super) fn fits(&self, memory: &GuestMemoryMmap) -> bool {
        self.queue.is_valid(memory)
    }

    /// EVENT_IDX was negotiated, or not.
    pub(super) fn set_event_index(&mut self, on: bool) {
        self.event_index = on;
        self.queue.set_event_idx(on);
    }

    /// Another descriptor to wake the guest by.
    pub(super) fn set_call(&mut self, call: Option<OwnedFd>) {
        if let Some(call) = &call {
            never_wait(call);
        }
        self.call = call;
    }

    /// Frames may pass.
    pub(super) fn usable(&self) -> bool {
        self.enabled && !self.broken
    }

    /// Entries there can be.
    pub(super) fn size(&self) -> u16 {
        self.queue.size()
    }

    /// The next entry to be taken.
    pub(super) fn next_available(&self) -> u16 {
        self.queue.next_avail()
    }

    /// Entries that wait to be taken; none if the guest's index is nonsense.
    pub(super) fn available(&self, memory: &GuestMemoryMmap) -> u16 {
        let Ok(end) = self.queue.avail_idx(memory, Ordering::Acquire) else {
            return 0;
        };
        let count = (end - Wrapping(self.queue.next_avail())).0;
        if count <= self.queue.size() { count } else { 0 }
    }

    /// Takes an entry.
    pub(super) fn pop<'m>(
        &mut self,
        memory: &'m GuestMemoryMmap,
    ) -> Option<DescriptorChain<&'m GuestMemoryMmap>> {
        self.queue.pop_descriptor_chain(memory)
    }

    /// Takes the last `count` entries as not taken, and what was given back of them as not given.
    pub(super) fn undo(&mut self, count: u16) {
        for _ in 0..count {
            self.queue.go_to_previous_position();
        }
        self.unpublished = self.unpublished.saturating_sub(count);
    }

    /// Gives an entry back; the guest sees it after `publish`.
    pub(super) fn give_back(&mut self, memory: &GuestMemoryMmap, head: u16, length: u32) {
        let place = (self.used + Wrapping(self.unpublished)).0 % self.queue.size();
        let address = self.queue.used_ring() + RING_HEADER + u64::from(place) * USED_ELEMENT;
        let [a, b, c, d] = u32::from(head).to_le_bytes();
        let [e, f, g, h] = length.to_le_bytes();
        // The ring was seen to lie in the memory, which does not shrink.
        let element = [a, b, c, d, e, f, g, h];
        memory.write_slice(&element, GuestAddress(address)).ok();
        self.unpublished += 1;
    }

    /// Entries given back that the guest cannot see yet.
    pub(super) fn unpublished(&self) -> u16 {
        self.unpublished
    }

    /// Makes everything given back visible, at once.
    pub(super) fn publish(&mut self, memory: &GuestMemoryMmap) {
        if self.unpublished == 0 {
            return;
        }
        self.used += Wrapping(self.unpublished);
        self.unpublished = 0;
        let index = GuestAddress(self.queue.used_ring() + 2);
        memory
            .store(self.used.0.to_le(), index, Ordering::Release)
            .ok();
    }

    /// Wakes the guest if it wants to know of what was published since the last call (§2.7.7.2).
    pub(super) fn notify(&mut self, memory: &GuestMemoryMmap) {
        if self.used == self.told {
            return;
        }
        // The index must be out before the guest's wish is read, or both sides might sleep.
        fence(Ordering::SeqCst);
        let load = |at: u64| {
            let value: Result<u16, _> = memory.load(GuestAddress(at), Ordering::Relaxed);
            value.map(u16::from_le)
        };
        let available = self.queue.avail_ring();
        let wanted = if self.event_index {
            let event = available + RING_HEADER + u64::from(self.queue.size()) * AVAIL_ELEMENT;
            load(event)
                .map(|event| self.used - Wrapping(event) - Wrapping(1) < self.used - self.told)
        } else {
            load(available).map(|flags| flags & AVAIL_NO_INTERRUPT == 0)
        };
        self.told = self.used;
        if wanted.unwrap_or(false)
            && let Some(call) = &self.call
        {
            // A counter that is full wakes, too.
            rustix::io::write(call, &1_u64.to_ne_bytes()).ok();
        }
    }

    /// From now on the guest need not tell us of new entries.
    pub(super) fn look_away(&mut self, memory: &GuestMemoryMmap) {
        self.queue.disable_notification(memory).ok();
    }

    /// From now on the guest tells us of new entries; true if some are there already.
    pub(super) fn watch(&mut self, memory: &GuestMemoryMmap) -> bool {
        self.queue.enable_notification(memory).unwrap_or(false)
    }
}

/// A VMM whose descriptor makes us wait would make every guest wait.
fn never_wait(call: &OwnedFd) {
    rustix::io::ioctl_fionbio(call, true).ok();
}
