//! What every vhost-user device needs that maps a guest's memory: a process that outlives the file behind
//! that memory being cut short. It knows nothing of queues, nor of what is in the memory.

mod sys;

pub use sys::{Guarded, guard, install, mended};
