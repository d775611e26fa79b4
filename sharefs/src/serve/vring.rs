//! A queue as vhost-user-backend has it, whose events never make a thread wait.
//!
//! A VMM gives us the events of a queue as descriptors. QEMU's answer EAGAIN instead of waiting; a thread that
//! another VMM's made wait would keep the door from closing. So each is made so when it is set, once, and not
//! before each request that wakes a thread.

use std::fs::File;
use std::io;
use std::sync::MutexGuard;

use vhost_user_backend::{VringMutex, VringState, VringStateGuard, VringStateMutGuard, VringT};
use virtio_queue::Error;

use super::virtiofs::Memory;
use crate::sys;

/// See the module's head. Clones are the same queue.
#[derive(Clone)]
pub(super) struct Vring(VringMutex<Memory>);

impl<'a> VringStateGuard<'a, Memory> for Vring {
    type G = MutexGuard<'a, VringState<Memory>>;
}

impl<'a> VringStateMutGuard<'a, Memory> for Vring {
    type G = MutexGuard<'a, VringState<Memory>>;
}

impl VringT<Memory> for Vring {
    fn new(memory: Memory, longest: u16) -> Result<Self, Error> {
        VringMutex::new(memory, longest).map(Self)
    }

    fn get_ref(&self) -> MutexGuard<'_, VringState<Memory>> {
        self.0.get_ref()
    }

    fn get_mut(&self) -> MutexGuard<'_, VringState<Memory>> {
        self.0.get_mut()
    }

    fn add_used(&self, head: u16, length: u32) -> Result<(), Error> {
        self.0.add_used(head, length)
    }

    fn signal_used_queue(&self) -> io::Result<()> {
        self.0.signal_used_queue()
    }

    fn enable_notification(&self) -> Result<bool, Error> {
        self.0.enable_notification()
    }

    fn disable_notification(&self) -> Result<(), Error> {
        self.0.disable_notification()
    }

    fn needs_notification(&self) -> Result<bool, Error> {
        self.0.needs_notification()
    }

    fn set_enabled(&self, enabled: bool) {
        self.0.set_enabled(enabled);
    }

    fn set_queue_info(&self, table: u64, available: u64, used: u64) -> Result<(), Error> {
        self.0.set_queue_info(table, available, used)
    }

    fn queue_next_avail(&self) -> u16 {
        self.0.queue_next_avail()
    }

    fn set_queue_next_avail(&self, next: u16) {
        self.0.set_queue_next_avail(next);
    }

    fn set_queue_next_used(&self, next: u16) {
        self.0.set_queue_next_used(next);
    }

    fn queue_used_idx(&self) -> Result<u16, Error> {
        self.0.queue_used_idx()
    }

    fn set_queue_size(&self, size: u16) {
        self.0.set_queue_size(size);
    }

    fn set_queue_event_idx(&self, enabled: bool) {
        self.0.set_queue_event_idx(enabled);
    }

    fn set_queue_ready(&self, ready: bool) {
        self.0.set_queue_ready(ready);
    }

    fn set_kick(&self, file: Option<File>) {
        file.as_ref().inspect(|kick| sys::make_nonblocking(*kick));
        self.0.set_kick(file);
    }

    fn read_kick(&self) -> io::Result<bool> {
        self.0.read_kick()
    }

    fn set_call(&self, file: Option<File>) {
        file.as_ref().inspect(|call| sys::make_nonblocking(*call));
        self.0.set_call(file);
    }

    fn set_err(&self, file: Option<File>) {
        self.0.set_err(file);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::event::{EventfdFlags, eventfd};
    use rustix::fs::OFlags;
    use vm_memory::{GuestAddress, GuestMemoryMmap};

    #[test]
    fn events_do_not_make_a_thread_wait_once_they_are_set() {
        let memory = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), 0x1000)]).unwrap();
        let vring = Vring::new(Memory::new(memory), 8).unwrap();
        let given = [(); 2].map(|()| eventfd(0, EventfdFlags::CLOEXEC).unwrap());
        let [kick, call] = given
            .each_ref()
            .map(|event| Some(File::from(event.try_clone().unwrap())));
        vring.set_kick(kick);
        vring.set_call(call);
        for event in &given {
            let flags = rustix::fs::fcntl_getfl(event).unwrap();
            assert!(flags.contains(OFlags::NONBLOCK), "{flags:?}");
        }
        // Would wait for ever.
        assert!(vring.read_kick().is_err());
        vring.set_kick(None);
        vring.set_call(None);
    }
}
