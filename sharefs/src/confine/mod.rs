//! What the daemon gives up, in stages. Each needs no right and no other stage:
//!
//! 1. *no new rights*: no program that it starts can gain any (`confine`, before the first guest).
//! 2. *capabilities*: a root daemon keeps those that act on files (`confine`).
//! 3. *calls*: a thread that serves a guest can make system calls on files, and hardly any other (`calls`).
//!
//! Not here: landlock would pin a share to the folder that was there when its VMM came, and a folder that is
//! replaced on the host is to be found again; a mount namespace of its own would not see what is mounted later
//! below a share. Names never lead outside in any case (tree/host). `sharectl doctor` reads from the kernel
//! which stages hold.

pub(crate) mod calls;

use rustix::io;
use rustix::thread::{
    CapabilitySet, CapabilitySets, capabilities, set_capabilities, set_no_new_privs,
};

/// What a daemon that runs as root keeps: acting on files, and acting as a guest's users. DAC_READ_SEARCH also
/// opens files by their handles (tree/host/node.rs), which is no more than DAC_OVERRIDE allows by name.
const KEPT: CapabilitySet = CapabilitySet::CHOWN
    .union(CapabilitySet::DAC_OVERRIDE)
    .union(CapabilitySet::DAC_READ_SEARCH)
    .union(CapabilitySet::FOWNER)
    .union(CapabilitySet::FSETID)
    .union(CapabilitySet::SETUID)
    .union(CapabilitySet::SETGID)
    .union(CapabilitySet::MKNOD)
    .union(CapabilitySet::SETFCAP);

/// No program started from here can gain rights, and rights that no share needs are gone.
///
/// To be called while the process has one thread: the later ones inherit it.
///
/// # Errors
/// When the kernel refuses, which it has no reason to.
pub fn confine() -> io::Result<()> {
    raise_descriptor_limit();
    set_no_new_privs(true)?;
    let held = capabilities(None)?;
    set_capabilities(
        None,
        CapabilitySets {
            effective: held.effective.intersection(KEPT),
            permitted: held.permitted.intersection(KEPT),
            inheritable: CapabilitySet::empty(),
        },
    )
}

/// Each file a guest has open is a descriptor, and each it uses: as many as may be. Only root may go beyond the hard limit;
/// who may not keeps it, and `Descriptors::of_process` works with what there is.
pub(crate) fn raise_descriptor_limit() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    if getrlimit(Resource::Nofile)
        .maximum
        .is_none_or(|limit| limit >= MOST_DESCRIPTORS)
    {
        return;
    }
    let most = Rlimit {
        current: Some(MOST_DESCRIPTORS),
        maximum: Some(MOST_DESCRIPTORS),
    };
    if let Err(error) = setrlimit(Resource::Nofile, most) {
        tracing::debug!(%error, "the limit of descriptors stays as it is");
    }
}

/// fs.nr_open where nobody has changed it.
const MOST_DESCRIPTORS: u64 = 1 << 20;
