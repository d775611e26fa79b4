//! What a VMM says over a vhost-user socket (QEMU's docs/interop/vhost-user.rst), for the network card of one guest.
//!
//! A thread a VMM reads its messages, maps the guest's memory and checks descriptors, so that a VMM that dawdles or lies
//! makes nobody wait but itself. The packet thread, which serves the rings, gets finished [`Order`]s; the VMM is
//! answered when they are done. Frames never come here.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex};

use control::mac::MacAddress;
use rustix::net::RecvFlags;
use tokio::sync::oneshot;
use vhost::vhost_user::message::{
    VhostTransferStateDirection, VhostTransferStatePhase, VhostUserConfigFlags, VhostUserInflight,
    VhostUserLog, VhostUserMemoryRegion, VhostUserProtocolFeatures, VhostUserShMemConfig,
    VhostUserSharedMsg, VhostUserSingleMemoryRegion, VhostUserVringAddrFlags, VhostUserVringState,
};
use vhost::vhost_user::{
    BackendReqHandler, Error, GpuBackend, Result, VhostUserBackendReqHandlerMut,
};
use vm_memory::{GuestAddress, GuestMemoryMmap, GuestRegionMmap};

use crate::datapath::Command;
use crate::engine::services::LinkId;
use crate::io::vhost::{LONGEST_RING, MOST_PAIRS, Memory, Order, RingSetup, features};

/// Memory regions of one guest; QEMU gives two to ten.
const MOST_REGIONS: u64 = 64;
/// Rings of one guest.
const RINGS: usize = 2 * MOST_PAIRS;
/// File systems whose pages some process hands out when it likes: reading them could take for ever.
const FUSE: u64 = 0x6573_5546;

/// What the device tells of itself (virtio 1.2 §5.1.4).
#[derive(Clone, Copy, Debug)]
pub struct Card {
    /// Its address.
    pub mac: MacAddress,
    /// Its largest packet.
    pub mtu: u16,
}

impl Card {
    fn config(self) -> Vec<u8> {
        const LINK_UP: u16 = 1;
        let pairs = u16::try_from(MOST_PAIRS).unwrap_or(1);
        let mut bytes = self.mac.0.to_vec();
        for field in [LINK_UP, pairs, self.mtu] {
            bytes.extend(field.to_le_bytes());
        }
        bytes
    }
}

/// Hands orders to the packet thread.
pub type Give = Box<dyn Fn(Command) -> bool + Send>;

/// Serves one VMM until it goes; says why if it did not just leave. Blocks.
pub fn serve(socket: UnixStream, link: LinkId, card: Card, give: Give) -> Option<String> {
    let device = Device {
        link,
        card,
        give,
        features: 0,
        regions: Vec::new(),
        memory: GuestMemoryMmap::new(),
        rings: (0..RINGS).map(|_| Ring::default()).collect(),
    };
    let device = Arc::new(Mutex::new(device));
    let again = match socket.try_clone() {
        Ok(again) => again,
        Err(error) => return Some(error.to_string()),
    };
    let mut requests = BackendReqHandler::from_stream(socket, Arc::clone(&device));
    loop {
        match early_enable(&again, &device) {
            Ok(true) => continue,
            Ok(false) => {}
            Err(error) => return Some(error.to_string()),
        }
        match requests.handle_request() {
            Ok(()) | Err(Error::SocketRetry(_)) => {}
            Err(Error::Disconnected | Error::PartialMessage | Error::SocketBroken(_)) => {
                return None;
            }
            Err(error) => return Some(error.to_string()),
        }
    }
}

/// Takes a SET_VRING_ENABLE that comes before SET_FEATURES, as QEMU's virtio-net sends it when the card is reset; the
/// library ends the session over it. False: the next message is another.
fn early_enable(mut socket: &UnixStream, device: &Mutex<Device>) -> io::Result<bool> {
    const SET_VRING_ENABLE: [u8; 4] = 18_u32.to_le_bytes();
    const HEADER: usize = 12;
    const BODY: usize = 8;
    const NEED_REPLY: u8 = 8;
    /// Version 1, and that it is a reply.
    const REPLY: u32 = 5;
    let Ok(mut device) = device.lock() else {
        return Ok(false);
    };
    if device.features & features::PROTOCOL != 0 {
        return Ok(false);
    }
    let mut message = [0; HEADER + BODY];
    let flags = RecvFlags::PEEK | RecvFlags::WAITALL;
    let (_, seen) = rustix::net::recv(socket, &mut message[..HEADER], flags)?;
    let size = u32::try_from(BODY).unwrap_or(0).to_le_bytes();
    if seen < HEADER || message[..4] != SET_VRING_ENABLE || message[8..HEADER] != size {
        return Ok(false);
    }
    socket.read_exact(&mut message)?;
    let word = |at: usize| {
        let bytes = message[at..].first_chunk().copied().unwrap_or_default();
        u32::from_le_bytes(bytes)
    };
    let done = device.set_vring_enable(word(HEADER), word(HEADER + 4) != 0);
    if message[4] & NEED_REPLY != 0 {
        let mut reply = SET_VRING_ENABLE.to_vec();
        reply.extend(REPLY.to_le_bytes());
        reply.extend(size);
        reply.extend(u64::from(done.is_err()).to_le_bytes());
        socket.write_all(&reply)?;
    }
    Ok(true)
}

/// What has been said of a ring.
#[derive(Default)]
struct Ring {
    size: u16,
    /// Descriptor table, available and used ring, as the guest's addresses.
    places: Option<(u64, u64, u64)>,
    base: u16,
    call: Option<File>,
    enabled: bool,
    started: bool,
}

/// A piece of the guest's memory: where the VMM has it, where the guest has it.
#[derive(PartialEq, Eq)]
struct Region {
    vmm: u64,
    guest: u64,
    size: u64,
}

struct Device {
    link: LinkId,
    card: Card,
    give: Give,
    features: u64,
    regions: Vec<Region>,
    memory: GuestMemoryMmap,
    rings: Vec<Ring>,
}

fn refused(why: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Error {
    Error::ReqHandlerError(io::Error::other(why))
}

/// Only an eventfd is known never to make the packet thread wait.
fn eventfd(file: File) -> Result<OwnedFd> {
    let kind = std::fs::read_link(format!("/proc/self/fd/{}", file.as_raw_fd()));
    match kind {
        Ok(kind) if kind.to_str() == Some("anon_inode:[eventfd]") => Ok(file.into()),
        Ok(kind) => Err(refused(format!("{} is no eventfd", kind.display()))),
        Err(error) => Err(Error::ReqHandlerError(error)),
    }
}

fn region_of(region: &VhostUserMemoryRegion, file: File) -> Result<(Region, Arc<GuestRegionMmap>)> {
    if rustix::fs::fstatfs(&file).is_ok_and(|fs| u64::try_from(fs.f_type) == Ok(FUSE)) {
        return Err(refused("guest memory on a FUSE file system"));
    }
    let mapped = GuestRegionMmap::new(
        region.mmap_region(file)?,
        GuestAddress(region.guest_phys_addr),
    );
    let ends =
        [region.user_addr, region.guest_phys_addr].map(|at| at.checked_add(region.memory_size));
    let (Some(mapped), [Some(_), Some(_)]) = (mapped, ends) else {
        return Err(Error::InvalidParam);
    };
    let region = Region {
        vmm: region.user_addr,
        guest: region.guest_phys_addr,
        size: region.memory_size,
    };
    Ok((region, Arc::new(mapped)))
}

impl Device {
    fn order(&self, order: Order) -> Result<u16> {
        let (reply, answer) = oneshot::channel();
        let link = self.link;
        if !(self.give)(Command::Vhost { link, order, reply }) {
            return Err(refused("the packet thread is busy or has ended"));
        }
        match answer.blocking_recv() {
            Ok(done) => done.map_err(refused),
            Err(_ended) => Err(Error::Disconnected),
        }
    }

    fn ring(&mut self, index: u32) -> Result<&mut Ring> {
        let place = usize::try_from(index).map_err(|_| Error::InvalidParam)?;
        self.rings.get_mut(place).ok_or(Error::InvalidParam)
    }

    /// Where the guest has what the VMM has at `address`.
    fn guest_address(&self, address: u64) -> Result<u64> {
        let inside = |region: &&Region| {
            address
                .checked_sub(region.vmm)
                .is_some_and(|offset| offset < region.size)
        };
        let region = self
            .regions
            .iter()
            .find(inside)
            .ok_or(Error::InvalidParam)?;
        Ok(region.guest + (address - region.vmm))
    }

    fn use_memory(&mut self, memory: GuestMemoryMmap) -> Result<()> {
        let guarded =
            Memory::new(memory.clone()).ok_or_else(|| refused("too many memory regions"))?;
        self.order(Order::Memory(Arc::new(guarded)))?;
        self.memory = memory;
        Ok(())
    }

    /// Everything a VMM said of rings is void.
    fn stop_all(&mut self) -> Result<()> {
        for index in 0..self.rings.len() {
            if std::mem::take(&mut self.rings[index]).started {
                self.order(Order::Stop(index))?;
            }
        }
        Ok(())
    }
}

impl VhostUserBackendReqHandlerMut for Device {
    fn set_owner(&mut self) -> Result<()> {
        Ok(())
    }

    fn reset_owner(&mut self) -> Result<()> {
        self.features = 0;
        self.stop_all()
    }

    fn reset_device(&mut self) -> Result<()> {
        self.reset_owner()
    }

    fn get_features(&mut self) -> Result<u64> {
        Ok(features::OFFERED)
    }

    fn set_features(&mut self, taken: u64) -> Result<()> {
        if taken & !features::OFFERED != 0 {
            return Err(Error::InvalidParam);
        }
        self.features = taken;
        self.order(Order::Features(taken)).map(drop)
    }

    fn get_protocol_features(&mut self) -> Result<VhostUserProtocolFeatures> {
        Ok(VhostUserProtocolFeatures::MQ
            | VhostUserProtocolFeatures::REPLY_ACK
            | VhostUserProtocolFeatures::CONFIG
            | VhostUserProtocolFeatures::CONFIGURE_MEM_SLOTS
            | VhostUserProtocolFeatures::RESET_DEVICE)
    }

    fn set_protocol_features(&mut self, _taken: u64) -> Result<()> {
        Ok(())
    }

    /// Pairs for QEMU, rings for cloud-hypervisor: the smaller serves both.
    fn get_queue_num(&mut self) -> Result<u64> {
        Ok(MOST_PAIRS as u64)
    }

    fn set_mem_table(
        &mut self,
        regions: &[VhostUserMemoryRegion],
        files: Vec<File>,
        _postcopy: Option<bool>,
    ) -> Result<Option<Vec<u64>>> {
        if regions.len() != files.len() {
            return Err(Error::InvalidParam);
        }
        let mut known = Vec::new();
        let mut mapped = Vec::new();
        for (region, file) in regions.iter().zip(files) {
            let (region, memory) = region_of(region, file)?;
            known.push(region);
            mapped.push(memory);
        }
        let memory = GuestMemoryMmap::from_arc_regions(mapped).map_err(refused)?;
        self.use_memory(memory)?;
        self.regions = known;
        Ok(None)
    }

    fn get_max_mem_slots(&mut self) -> Result<u64> {
        Ok(MOST_REGIONS)
    }

    fn add_mem_region(
        &mut self,
        region: &VhostUserSingleMemoryRegion,
        file: File,
        _postcopy: Option<bool>,
    ) -> Result<Option<u64>> {
        if self.regions.len() as u64 >= MOST_REGIONS {
            return Err(refused("more memory regions than a guest has"));
        }
        let (region, mapped) = region_of(region, file)?;
        // QEMU 7.2 says it again for each pair of queues.
        if self.regions.contains(&region) {
            return Ok(None);
        }
        self.use_memory(self.memory.insert_region(mapped).map_err(refused)?)?;
        self.regions.push(region);
        Ok(None)
    }

    fn remove_mem_region(&mut self, region: &VhostUserSingleMemoryRegion) -> Result<()> {
        let start = region.guest_phys_addr;
        // Said again for another pair of queues.
        if !self.regions.iter().any(|region| region.guest == start) {
            return Ok(());
        }
        let (memory, _) = self
            .memory
            .remove_region(GuestAddress(start), region.memory_size)
            .map_err(refused)?;
        self.use_memory(memory)?;
        self.regions.retain(|region| region.guest != start);
        Ok(())
    }

    fn set_vring_num(&mut self, index: u32, size: u32) -> Result<()> {
        let size = u16::try_from(size).map_err(|_| Error::InvalidParam)?;
        if size == 0 || size > LONGEST_RING || !size.is_power_of_two() {
            return Err(Error::InvalidParam);
        }
        self.ring(index)?.size = size;
        Ok(())
    }

    fn set_vring_addr(
        &mut self,
        index: u32,
        _flags: VhostUserVringAddrFlags,
        descriptor: u64,
        used: u64,
        available: u64,
        _log: u64,
    ) -> Result<()> {
        let places = (
            self.guest_address(descriptor)?,
            self.guest_address(available)?,
            self.guest_address(used)?,
        );
        self.ring(index)?.places = Some(places);
        Ok(())
    }

    fn set_vring_base(&mut self, index: u32, base: u32) -> Result<()> {
        self.ring(index)?.base = u16::try_from(base).map_err(|_| Error::InvalidParam)?;
        Ok(())
    }

    fn get_vring_base(&mut self, index: u32) -> Result<VhostUserVringState> {
        let ring = self.ring(index)?;
        let mut next = ring.base;
        let started = ring.started;
        // Enabled stays what it was: it is another message's.
        *ring = Ring {
            enabled: ring.enabled,
            ..Ring::default()
        };
        if started {
            next = self.order(Order::Stop(index as usize))?;
        }
        Ok(VhostUserVringState::new(index, u32::from(next)))
    }

    fn set_vring_kick(&mut self, index: u8, kick: Option<File>) -> Result<()> {
        // Without a descriptor the VMM wants us to poll for ever.
        let kick = kick.ok_or_else(|| refused("a ring without a kick descriptor"))?;
        let always = self.features & features::PROTOCOL == 0;
        let ring = self.ring(index.into())?;
        let (descriptors, available, used) = ring.places.ok_or(Error::InvalidParam)?;
        let setup = RingSetup {
            size: ring.size,
            descriptors,
            available,
            used,
            base: ring.base,
            kick: eventfd(kick)?,
            call: ring.call.take().map(eventfd).transpose()?,
            enabled: ring.enabled || always,
        };
        ring.started = true;
        self.order(Order::Start(index.into(), setup)).map(drop)
    }

    fn set_vring_call(&mut self, index: u8, call: Option<File>) -> Result<()> {
        let ring = self.ring(index.into())?;
        if !ring.started {
            ring.call = call;
            return Ok(());
        }
        let call = call.map(eventfd).transpose()?;
        self.order(Order::Call(index.into(), call)).map(drop)
    }

    fn set_vring_err(&mut self, _index: u8, _error: Option<File>) -> Result<()> {
        Ok(())
    }

    fn set_vring_enable(&mut self, index: u32, enable: bool) -> Result<()> {
        let ring = self.ring(index)?;
        ring.enabled = enable;
        if ring.started {
            self.order(Order::Enable(index as usize, enable))?;
        }
        Ok(())
    }

    fn get_config(
        &mut self,
        offset: u32,
        size: u32,
        _flags: VhostUserConfigFlags,
    ) -> Result<Vec<u8>> {
        let mut config = self.card.config();
        // The fields behind ours belong to features that we do not offer.
        config.resize(256, 0);
        let (start, size) = (offset as usize, size as usize);
        let end = start.checked_add(size).ok_or(Error::InvalidParam)?;
        let part = config.get(start..end).ok_or(Error::InvalidParam)?;
        Ok(part.to_vec())
    }

    /// Nothing of it is the guest's to change.
    fn set_config(&mut self, _: u32, _: &[u8], _: VhostUserConfigFlags) -> Result<()> {
        Ok(())
    }

    fn set_gpu_socket(&mut self, _: GpuBackend) -> Result<()> {
        Err(Error::InvalidOperation("not a display"))
    }

    fn get_shared_object(&mut self, _: VhostUserSharedMsg) -> Result<File> {
        Err(Error::InvalidOperation("no shared objects"))
    }

    fn get_inflight_fd(&mut self, _: &VhostUserInflight) -> Result<(VhostUserInflight, File)> {
        Err(Error::InvalidOperation("frames in flight are not kept"))
    }

    fn set_inflight_fd(&mut self, _: &VhostUserInflight, _: File) -> Result<()> {
        Err(Error::InvalidOperation("frames in flight are not kept"))
    }

    fn set_device_state_fd(
        &mut self,
        _: VhostTransferStateDirection,
        _: VhostTransferStatePhase,
        _: File,
    ) -> Result<Option<File>> {
        Err(Error::InvalidOperation("no state to move"))
    }

    fn check_device_state(&mut self) -> Result<()> {
        Err(Error::InvalidOperation("no state to move"))
    }

    fn get_shmem_config(&mut self) -> Result<VhostUserShMemConfig> {
        Err(Error::InvalidOperation("no shared memory"))
    }

    fn set_log_base(&mut self, _: &VhostUserLog, _: File) -> Result<()> {
        Err(Error::InvalidOperation("pages are not logged"))
    }
}
