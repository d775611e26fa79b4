//! What was done with each share, by guest and door, for whoever watches (`sharectl status --watch`).

use control::api::{ShareDoor, ShareTraffic};
use control::names::{GuestName, ShareName};

use super::Shares;
use crate::fuse::counters::Counters;
use crate::ninep::counters::Done;

impl Shares {
    /// One line a door that is there: of the guests that see the share, of those that attached it by 9P, of the host.
    pub(super) fn traffic(&self, share: &ShareName) -> Vec<ShareTraffic> {
        let devices = self.devices.iter().filter(|((_, of), _)| of == share);
        let devices = devices.map(|((guest, _), device)| {
            line(
                (Some(guest), ShareDoor::Virtiofs),
                by_fuse(&device.counters),
            )
        });
        let ninep = self.ninep.done(share);
        let ninep = ninep.map(|(guest, done)| line((Some(guest), ShareDoor::NineP), done));
        let mount = self.mounts.counters(share);
        let mount = mount.map(|counters| line((None, ShareDoor::Mount), by_fuse(counters)));
        devices.chain(ninep).chain(mount).collect()
    }
}

fn line((guest, door): (Option<&GuestName>, ShareDoor), done: Done) -> ShareTraffic {
    let Done {
        operations,
        bytes_read,
        bytes_written,
    } = done;
    ShareTraffic {
        guest: guest.cloned(),
        door,
        operations,
        bytes_read,
        bytes_written,
    }
}

fn by_fuse(counters: &Counters) -> Done {
    Done {
        operations: counters.requests().map(|(_, count)| count).sum(),
        bytes_read: counters.bytes_read.get(),
        bytes_written: counters.bytes_written.get(),
    }
}
