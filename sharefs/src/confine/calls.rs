//! Stage 3: which system calls a thread may make that serves a guest: those on files, on descriptors it has,
//! and what the allocator, locks and the clock need. No sockets, no programs, no new threads, no mounts, no
//! other processes. Anything else is answered with ENOSYS, so a mistake in the list is an error for one request.
//!
//! Only threads that touch a guest's bytes are bound so; opening doors, reloading and the control socket
//! need more, and hear no guest. Read first: seccomp(2), Documentation/userspace-api/seccomp_filter.rst.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use rustix::io::Errno;
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
    SeccompRule, apply_filter,
};

use crate::sys::GETXATTRAT;
use crate::tree::host::POINT;

/// Why a thread is not confined.
#[derive(Debug, Clone, thiserror::Error)]
#[error("system calls cannot be filtered: {0}")]
pub(crate) struct NotConfined(String);

/// The calling thread can make no other calls from now on.
///
/// # Errors
/// When the kernel has no seccomp filters, or this processor's numbers are not known.
pub(crate) fn confine_thread() -> Result<(), NotConfined> {
    static PROGRAM: LazyLock<Result<BpfProgram, NotConfined>> = LazyLock::new(|| program(&[]));
    let program = PROGRAM.as_ref().map_err(Clone::clone)?;
    apply_filter(program).map_err(|error| NotConfined(error.to_string()))
}

/// The same for a thread that moves the bytes of a stream socket so that their count outlives it (`sys/stream.rs`).
///
/// # Errors
/// As `confine_thread`.
pub(crate) fn confine_stream_thread() -> Result<(), NotConfined> {
    static PROGRAM: LazyLock<Result<BpfProgram, NotConfined>> = LazyLock::new(|| program(STREAM));
    let program = PROGRAM.as_ref().map_err(Clone::clone)?;
    apply_filter(program).map_err(|error| NotConfined(error.to_string()))
}

fn program(more: &[i64]) -> Result<BpfProgram, NotConfined> {
    let failed = |error: seccompiler::BackendError| NotConfined(error.to_string());
    let every_use = |call: &i64| (*call, Vec::new());
    let mut rules: BTreeMap<_, _> = ALLOWED.iter().chain(more).map(every_use).collect();
    let point = u64::from(POINT.bits());
    let is_point = SeccompCondition::new(2, SeccompCmpArgLen::Dword, SeccompCmpOp::Eq, point)
        .and_then(|flags| SeccompRule::new(vec![flags]))
        .map_err(failed)?;
    rules.insert(libc::SYS_open_tree, vec![is_point]);
    let refused = SeccompAction::Errno(Errno::NOSYS.raw_os_error().unsigned_abs());
    let here = std::env::consts::ARCH.try_into().map_err(failed)?;
    let filter = SeccompFilter::new(rules, refused, SeccompAction::Allow, here).map_err(failed)?;
    filter.try_into().map_err(failed)
}

/// On sockets that are there, as read and write are; none is made or led anywhere else.
const STREAM: &[i64] = &[libc::SYS_recvmmsg, libc::SYS_sendmmsg];

const ALLOWED: &[i64] = &[
    // The tree: names and attributes, always from a descriptor.
    libc::SYS_openat,
    libc::SYS_openat2,
    libc::SYS_statx,
    libc::SYS_fstat,
    libc::SYS_newfstatat,
    libc::SYS_fstatfs,
    libc::SYS_statfs,
    libc::SYS_faccessat,
    libc::SYS_faccessat2,
    libc::SYS_readlinkat,
    libc::SYS_getdents64,
    libc::SYS_mkdirat,
    libc::SYS_mknodat,
    libc::SYS_symlinkat,
    libc::SYS_linkat,
    libc::SYS_unlinkat,
    libc::SYS_renameat2,
    libc::SYS_fchmod,
    libc::SYS_fchmodat,
    libc::SYS_fchown,
    libc::SYS_fchownat,
    libc::SYS_utimensat,
    libc::SYS_name_to_handle_at,
    libc::SYS_open_by_handle_at,
    // Extended attributes, by descriptor or /proc/self/fd.
    libc::SYS_getxattr,
    GETXATTRAT,
    libc::SYS_lgetxattr,
    libc::SYS_fgetxattr,
    libc::SYS_setxattr,
    libc::SYS_lsetxattr,
    libc::SYS_fsetxattr,
    libc::SYS_listxattr,
    libc::SYS_llistxattr,
    libc::SYS_flistxattr,
    libc::SYS_removexattr,
    libc::SYS_lremovexattr,
    libc::SYS_fremovexattr,
    // Contents and locks of open files.
    libc::SYS_read,
    libc::SYS_write,
    libc::SYS_readv,
    libc::SYS_writev,
    libc::SYS_pread64,
    libc::SYS_pwrite64,
    libc::SYS_preadv,
    libc::SYS_preadv2,
    libc::SYS_pwritev,
    libc::SYS_pwritev2,
    libc::SYS_lseek,
    libc::SYS_ftruncate,
    libc::SYS_fallocate,
    libc::SYS_copy_file_range,
    libc::SYS_fsync,
    libc::SYS_fdatasync,
    libc::SYS_syncfs,
    libc::SYS_flock,
    libc::SYS_fcntl,
    libc::SYS_dup,
    libc::SYS_close,
    // What is kept of a new mount (keep/records.rs).
    libc::SYS_memfd_create,
    // A root daemon makes files as their owner (tree/host/credentials.rs).
    libc::SYS_setresuid,
    libc::SYS_setresgid,
    libc::SYS_geteuid,
    libc::SYS_getegid,
    libc::SYS_umask,
    // The queue's events and timers.
    #[cfg(target_arch = "x86_64")]
    libc::SYS_epoll_wait,
    libc::SYS_epoll_pwait,
    libc::SYS_epoll_ctl,
    libc::SYS_timerfd_settime,
    libc::SYS_ppoll,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_poll,
    // Memory, locks between threads, time, random seeds of tables.
    libc::SYS_mmap,
    libc::SYS_munmap,
    libc::SYS_mremap,
    libc::SYS_mprotect,
    libc::SYS_madvise,
    libc::SYS_brk,
    libc::SYS_futex,
    libc::SYS_sched_yield,
    libc::SYS_sched_getaffinity,
    libc::SYS_clock_gettime,
    libc::SYS_clock_nanosleep,
    libc::SYS_nanosleep,
    libc::SYS_getrandom,
    libc::SYS_membarrier,
    libc::SYS_rseq,
    // Signals (SIGBUS on guest memory that was cut short), and the thread's own end.
    libc::SYS_rt_sigaction,
    libc::SYS_rt_sigprocmask,
    libc::SYS_rt_sigreturn,
    libc::SYS_sigaltstack,
    libc::SYS_restart_syscall,
    libc::SYS_gettid,
    libc::SYS_getpid,
    libc::SYS_tgkill,
    libc::SYS_exit,
    libc::SYS_exit_group,
];

#[cfg(test)]
mod tests {
    use std::io::ErrorKind;
    use std::net::TcpListener;
    use std::process::Command;

    use rustix::mount::OpenTreeFlags;

    use super::*;

    #[test]
    fn a_confined_thread_has_files_and_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        let inside = std::thread::spawn(move || {
            confine_thread().unwrap();
            std::fs::write(&path, "written").unwrap();
            let read = std::fs::read_to_string(&path).unwrap();
            let here = std::fs::File::open(&path).unwrap();
            let refused = [
                TcpListener::bind("127.0.0.1:0").map(drop),
                Command::new("/bin/true").status().map(drop),
                std::thread::Builder::new().spawn(|| ()).map(drop),
                rustix::mount::unmount("/nowhere", rustix::mount::UnmountFlags::empty())
                    .map_err(std::io::Error::from),
                rustix::mount::open_tree(&here, c"", POINT | OpenTreeFlags::OPEN_TREE_CLONE)
                    .map(drop)
                    .map_err(std::io::Error::from),
            ];
            rustix::mount::open_tree(&here, c"", POINT).unwrap();
            (read, refused.map(|result| result.unwrap_err().kind()))
        });
        let (read, refused) = inside.join().unwrap();
        assert_eq!(read, "written");
        assert_eq!(refused, [ErrorKind::Unsupported; 5]);
        // The others are as free as before.
        TcpListener::bind("127.0.0.1:0").unwrap();
    }
}
