//! What the writer gives up before it hears anybody: capabilities, new rights, and all system
//! calls but those on files, on its sockets, and what memory and the clock need.
//!
//! No sockets to the network, no programs, no threads, no mounts, no other processes. Anything else
//! is answered with ENOSYS. The unit (`units/sharectl-hosts.service`) says the same a second time,
//! and adds what a process cannot do to itself: that nothing but the hosts file can be written.
//!
//! Read first: seccomp(2), capabilities(7).

use std::collections::BTreeMap;

use rustix::io::Errno;
use rustix::thread::{CapabilitySet, CapabilitySets, set_capabilities, set_no_new_privs};
use seccompiler::{BpfProgram, SeccompAction, SeccompFilter, apply_filter};

/// Root's own files can be written by root without any capability.
const NONE: CapabilitySets = CapabilitySets {
    effective: CapabilitySet::empty(),
    permitted: CapabilitySet::empty(),
    inheritable: CapabilitySet::empty(),
};

/// Gives all of it up, for this process of one thread.
///
/// # Errors
/// What the kernel refuses, in words.
pub(super) fn confine() -> Result<(), String> {
    set_no_new_privs(true).map_err(|errno| format!("no_new_privs: {errno}"))?;
    set_capabilities(None, NONE).map_err(|errno| format!("capabilities: {errno}"))?;
    let program = program().map_err(|error| format!("system calls: {error}"))?;
    apply_filter(&program).map_err(|error| format!("system calls: {error}"))
}

fn program() -> Result<BpfProgram, seccompiler::BackendError> {
    let rules: BTreeMap<i64, _> = ALLOWED.iter().map(|call| (*call, Vec::new())).collect();
    let refused = SeccompAction::Errno(Errno::NOSYS.raw_os_error().unsigned_abs());
    let here = std::env::consts::ARCH.try_into()?;
    SeccompFilter::new(rules, refused, SeccompAction::Allow, here)?.try_into()
}

const ALLOWED: &[i64] = &[
    // Clients: taking them, knowing them, hearing and answering them.
    libc::SYS_accept4,
    libc::SYS_getsockopt,
    libc::SYS_recvfrom,
    libc::SYS_sendto,
    libc::SYS_recvmsg,
    libc::SYS_sendmsg,
    libc::SYS_shutdown,
    libc::SYS_ppoll,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_poll,
    // The hosts file, its folder, the journal.
    libc::SYS_openat,
    libc::SYS_statx,
    libc::SYS_fstat,
    libc::SYS_newfstatat,
    libc::SYS_faccessat,
    libc::SYS_faccessat2,
    libc::SYS_readlinkat,
    libc::SYS_getdents64,
    libc::SYS_getcwd,
    libc::SYS_mkdirat,
    libc::SYS_unlinkat,
    libc::SYS_renameat,
    libc::SYS_renameat2,
    libc::SYS_fchmod,
    libc::SYS_fchown,
    libc::SYS_fgetxattr,
    libc::SYS_flistxattr,
    libc::SYS_fsetxattr,
    libc::SYS_fremovexattr,
    libc::SYS_read,
    libc::SYS_write,
    libc::SYS_readv,
    libc::SYS_writev,
    libc::SYS_pread64,
    libc::SYS_pwrite64,
    libc::SYS_lseek,
    libc::SYS_ftruncate,
    libc::SYS_fallocate,
    libc::SYS_fsync,
    libc::SYS_fdatasync,
    libc::SYS_syncfs,
    libc::SYS_flock,
    libc::SYS_fcntl,
    libc::SYS_ioctl,
    libc::SYS_close,
    // The C library's older ways to the same.
    #[cfg(target_arch = "x86_64")]
    libc::SYS_open,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_stat,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_lstat,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_readlink,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_mkdir,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_unlink,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_rename,
    // Who we are: the machine's name, the user in a message.
    libc::SYS_uname,
    libc::SYS_geteuid,
    libc::SYS_getuid,
    libc::SYS_getpid,
    libc::SYS_gettid,
    // Memory, locks of the library, time, random seeds of tables.
    libc::SYS_mmap,
    libc::SYS_munmap,
    libc::SYS_mremap,
    libc::SYS_mprotect,
    libc::SYS_madvise,
    libc::SYS_brk,
    libc::SYS_futex,
    libc::SYS_clock_gettime,
    libc::SYS_clock_nanosleep,
    libc::SYS_nanosleep,
    libc::SYS_getrandom,
    libc::SYS_rseq,
    // Signals and the end.
    libc::SYS_rt_sigaction,
    libc::SYS_rt_sigprocmask,
    libc::SYS_rt_sigreturn,
    libc::SYS_sigaltstack,
    libc::SYS_restart_syscall,
    libc::SYS_tgkill,
    libc::SYS_exit,
    libc::SYS_exit_group,
];

#[cfg(test)]
mod tests {
    use std::io::ErrorKind;

    use super::*;

    /// A filter binds the thread that asks for it; the other tests of this process stay free.
    #[test]
    fn confined_it_has_files_and_no_way_out() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("hosts");
        let inside = std::thread::spawn(move || {
            confine().unwrap();
            let mut writer = crate::writer::Writer::new(path.with_extension("state"));
            let report = writer.update(&path, &mut |_| Ok(Some(b"new\n".to_vec())));
            assert!(report.is_ok(), "{report:?}");
            let second = path.with_extension("second");
            rustix::fs::linkat(
                rustix::fs::CWD,
                &path,
                rustix::fs::CWD,
                &second,
                rustix::fs::AtFlags::empty(),
            )
            .unwrap_err();
            [
                std::net::TcpListener::bind("127.0.0.1:0").map(drop),
                std::os::unix::net::UnixStream::pair().map(drop),
                std::process::Command::new("/bin/true").status().map(drop),
                std::thread::Builder::new().spawn(|| ()).map(drop),
            ]
            .map(|result| result.unwrap_err().kind())
        });
        assert_eq!(inside.join().unwrap(), [ErrorKind::Unsupported; 4]);
        std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    }
}
