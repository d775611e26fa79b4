//! The packet path of one network: a thread of its own that owns links, flows and host sockets.
//! The rest of the daemon talks to it by [`Command`]s and hears [`Notice`]s; nothing is shared.
//! It knows nothing of configuration files, control sockets or tokio tasks.

mod bridged;
mod capture;
mod context;
mod datagrams;
mod echo;
mod egress;
mod errors;
mod flows;
mod gateway;
mod gather;
mod input;
mod input6;
mod intake;
mod limits;
mod messages;
mod probe;
mod published;
mod pump;
mod router;
mod worker;

use std::io;
use std::sync::mpsc::{SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use rustix::event::EventfdFlags;
use rustix::fd::OwnedFd;

pub use capture::{CaptureId, CaptureReader, Captured, NewCapture};
pub use egress::Checked;
pub use messages::{
    Command, DnsToken, FlowSnapshot, LinkEnd, LinkSnapshot, LinkTransport, NewLink, NewPublish,
    Notice, PublishId, ServicesCall, ServicesClosure, Snapshot, Traffic,
};

use crate::engine::services::GatewayServices;
use crate::engine::settings::NetworkSettings;

/// Commands that may wait for the packet thread.
const COMMAND_QUEUE: usize = 1_024;

/// Why a command could not be handed over.
#[derive(Debug, thiserror::Error)]
pub enum SendError {
    /// The thread is busy and its queue full.
    #[error("the packet thread's queue of {COMMAND_QUEUE} commands is full")]
    Full,
    /// The thread has ended.
    #[error("the packet thread has ended")]
    Ended,
}

/// A way to the packet thread; cheap to clone.
#[derive(Clone, Debug)]
pub struct DatapathHandle {
    commands: SyncSender<Command>,
    wake: Arc<OwnedFd>,
    thread: Arc<Mutex<Option<JoinHandle<()>>>>,
}

/// The packet path.
#[derive(Debug)]
pub struct Datapath;

impl Datapath {
    /// Starts the thread. Fails only if the kernel gives no epoll, eventfd or thread.
    /// Raises the process's limit of open files, for each flow is one.
    pub fn spawn(
        settings: NetworkSettings,
        services: Box<dyn GatewayServices + Send>,
        notices: tokio::sync::mpsc::Sender<Notice>,
    ) -> io::Result<DatapathHandle> {
        let limit = crate::io::host::raise_descriptor_limit();
        tracing::debug!(limit, "open files");
        let (commands, inbox) = sync_channel(COMMAND_QUEUE);
        let wake = Arc::new(rustix::event::eventfd(
            0,
            EventfdFlags::NONBLOCK | EventfdFlags::CLOEXEC,
        )?);
        let context = context::Context::new(settings, services, notices, worker::clock())?;
        let worker = worker::Worker::new(context, inbox, Arc::clone(&wake))?;
        let thread = std::thread::Builder::new()
            .name("netd-packets".to_owned())
            .spawn(|| worker.run())?;
        Ok(DatapathHandle {
            commands,
            wake,
            thread: Arc::new(Mutex::new(Some(thread))),
        })
    }
}

impl DatapathHandle {
    /// Hands a command over and wakes the thread; never blocks.
    pub fn send(&self, command: Command) -> Result<(), SendError> {
        self.commands
            .try_send(command)
            .map_err(|error| match error {
                TrySendError::Full(_) => SendError::Full,
                TrySendError::Disconnected(_) => SendError::Ended,
            })?;
        // The counter can only refuse when it is near 2^64: then the thread is awake anyway.
        rustix::io::write(&*self.wake, &1_u64.to_ne_bytes()).ok();
        Ok(())
    }

    /// Waits until the thread has ended (after [`Command::Shutdown`]); the first caller waits, others return at once.
    pub fn join(&self) {
        let thread = match self.thread.lock() {
            Ok(mut slot) => slot.take(),
            Err(poisoned) => poisoned.into_inner().take(),
        };
        if let Some(thread) = thread
            && thread.join().is_err()
        {
            tracing::error!("the packet thread ended by a panic");
        }
    }
}
