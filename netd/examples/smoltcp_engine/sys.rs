//! The unsafe corner of the prototype: opening a tap, and rings of lazily mapped memory under
//! smoltcp's sockets. Read first: Documentation/networking/tuntap.rst of the kernel.
#![allow(
    unsafe_code,
    reason = "ioctl, mmap and madvise have no safe wrapper in rustix"
)]

use std::ffi::c_void;
use std::os::fd::OwnedFd;
use std::ptr::null_mut;

use anyhow::{Result, ensure};
use rustix::fs::{Mode, OFlags};
use rustix::ioctl::{IntegerSetter, Setter, ioctl};
use rustix::mm::{Advice, MapFlags, ProtFlags, madvise, mmap_anonymous, munmap};
use smoltcp::iface::{SocketHandle, SocketSet, SocketStorage};
use smoltcp::socket::tcp::{Socket, SocketBuffer};

const TUNSETIFF: u32 = 0x4004_54ca;
const TUNSETOFFLOAD: u32 = 0x4004_54d0;
const IFF_TAP: u16 = 0x0002;
const IFF_NO_PI: u16 = 0x1000;
const IFF_VNET_HDR: u16 = 0x4000;
/// TUN_F_CSUM and TUN_F_TSO4: the guest may leave checksums and cutting to us.
const OFFLOADS: usize = 0x01 | 0x02;

/// `struct ifreq` with its flags.
#[repr(C)]
struct InterfaceRequest {
    name: [u8; 16],
    flags: u16,
    rest: [u8; 22],
}

/// Opens a tap in the current network namespace; it goes when the descriptor is closed.
pub(crate) fn open_tap(name: &str) -> Result<OwnedFd> {
    ensure!(name.len() < 16, "the name {name:?} is too long");
    let flags = OFlags::RDWR | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let tap = rustix::fs::open("/dev/net/tun", flags, Mode::empty())?;
    let mut request = InterfaceRequest {
        name: [0; 16],
        flags: IFF_TAP | IFF_NO_PI | IFF_VNET_HDR,
        rest: [0; 22],
    };
    request.name[..name.len()].copy_from_slice(name.as_bytes());
    // SAFETY: TUNSETIFF reads a struct ifreq, which is 40 bytes, and keeps no pointer to it.
    unsafe { ioctl(&tap, Setter::<{ TUNSETIFF }, _>::new(request))? };
    // SAFETY: TUNSETOFFLOAD takes its argument by value.
    unsafe {
        ioctl(
            &tap,
            IntegerSetter::<{ TUNSETOFFLOAD }>::new_usize(OFFLOADS),
        )?
    };
    Ok(tap)
}

/// Bytes of one ring: below half of it a flow to a near peer waits for the other side.
const RING: usize = 512 << 10;
/// Rings kept for the next flow.
const KEPT: usize = 64;

/// Two rings that no socket uses.
#[derive(Debug)]
pub(crate) struct Rings {
    receive: *mut c_void,
    send: *mut c_void,
}

impl Drop for Rings {
    fn drop(&mut self) {
        for start in [self.receive, self.send] {
            // SAFETY: mapped by `RingPool::take` with this length; nobody borrows it any more.
            unsafe { munmap(start, RING) }.ok();
        }
    }
}

/// Rings of flows that are over, with their first pages still there.
#[derive(Debug, Default)]
pub(crate) struct RingPool(Vec<Rings>);

impl RingPool {
    pub(crate) fn take(&mut self) -> Result<Rings> {
        if let Some(rings) = self.0.pop() {
            return Ok(rings);
        }
        let map = || {
            let protection = ProtFlags::READ | ProtFlags::WRITE;
            // SAFETY: a fresh anonymous mapping at an address of the kernel's choice.
            unsafe { mmap_anonymous(null_mut(), RING, protection, MapFlags::PRIVATE) }
        };
        Ok(Rings {
            receive: map()?,
            send: map()?,
        })
    }

    pub(crate) fn give_back(&mut self, rings: Rings) {
        if self.0.len() < KEPT {
            self.0.push(rings);
        }
    }
}

/// A socket on two rings. The set never leaves this struct, and is emptied before the rings go.
pub(crate) struct RingSocket {
    sockets: SocketSet<'static>,
    handle: SocketHandle,
    rings: Rings,
}

impl RingSocket {
    pub(crate) fn new(rings: Rings) -> Self {
        let buffer = |start: *mut c_void| {
            // SAFETY: RING bytes, zeroed by the kernel or used as bytes before, and borrowed by nobody
            // else: `Rings` is owned here, and given away only after the socket is dropped.
            SocketBuffer::new(unsafe { std::slice::from_raw_parts_mut(start.cast::<u8>(), RING) })
        };
        let socket = Socket::new(buffer(rings.receive), buffer(rings.send));
        let mut sockets = SocketSet::new(vec![SocketStorage::EMPTY]);
        let handle = sockets.add(socket);
        Self {
            sockets,
            handle,
            rings,
        }
    }

    pub(crate) fn sockets(&mut self) -> &mut SocketSet<'static> {
        &mut self.sockets
    }

    pub(crate) fn tcp(&mut self) -> &mut Socket<'static> {
        self.sockets.get_mut(self.handle)
    }

    pub(crate) fn into_rings(self) -> Rings {
        let Self { sockets, rings, .. } = self;
        drop(sockets);
        rings
    }

    /// Gives the pages of both rings back to the kernel; what was in them is gone.
    pub(crate) fn give_back_pages(&mut self) {
        for start in [self.rings.receive, self.rings.send] {
            // SAFETY: our own mapping; plain bytes, for which zero is as good a value as any.
            unsafe { madvise(start, RING, Advice::LinuxDontNeed) }.ok();
        }
    }
}
