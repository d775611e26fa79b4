//! A guest's vsock device as VMMs in user space have it: a unix socket for all of it.
//!
//! Firecracker began it, cloud-hypervisor and vhost-device-vsock do the same. Who connects to the socket says
//! `CONNECT PORT` and a newline, hears `OK` and a number, and is connected to that port of the guest; what the guest
//! sends to a port of the host arrives at the socket's own path with `_PORT` behind it. Read first: Firecracker's
//! docs/vsock.md.

use std::io::{ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

/// For the VMM's answer; a guest that does not take the connection is the VMM's to see.
const PATIENCE: Duration = Duration::from_secs(5);
/// `OK 4294967295`.
const LONGEST_ANSWER: usize = 64;

/// Connected to a port of the guest; else a sentence.
pub(crate) fn connect(socket: &Path, port: u16) -> Result<UnixStream, String> {
    connect_within(socket, port, PATIENCE)
}

fn connect_within(socket: &Path, port: u16, patience: Duration) -> Result<UnixStream, String> {
    let shown = socket.display();
    let mut stream = UnixStream::connect(socket).map_err(|error| {
        let is_absent = [ErrorKind::NotFound, ErrorKind::ConnectionRefused].contains(&error.kind());
        if is_absent {
            format!("no VMM listens at {shown}")
        } else {
            format!("cannot connect to {shown}: {error}")
        }
    })?;
    let failed = |error: std::io::Error| {
        if [ErrorKind::WouldBlock, ErrorKind::TimedOut].contains(&error.kind()) {
            let limit = patience.as_secs();
            format!("the VMM at {shown} does not answer within {limit} s")
        } else {
            format!("the VMM at {shown}: {error}")
        }
    };
    stream.set_read_timeout(Some(patience)).map_err(failed)?;
    stream.set_write_timeout(Some(patience)).map_err(failed)?;
    stream
        .write_all(format!("CONNECT {port}\n").as_bytes())
        .map_err(failed)?;
    // A byte at a time: what comes behind the line is the server's.
    let mut answer = Vec::new();
    loop {
        let mut byte = [0];
        match stream.read(&mut byte).map_err(failed)? {
            0 => return Err(format!("nothing serves vsock port {port} in the guest")),
            _ if byte == *b"\n" => break,
            _ => answer.extend(byte),
        }
        if answer.len() > LONGEST_ANSWER {
            break;
        }
    }
    let number = answer.strip_prefix(b"OK ");
    if !number.is_some_and(|number| !number.is_empty() && number.iter().all(u8::is_ascii_digit)) {
        return Err(format!(
            "what listens at {shown} is no vsock of a VMM: it answers \"{}\"",
            answer.escape_ascii()
        ));
    }
    stream.set_read_timeout(None).map_err(failed)?;
    stream.set_write_timeout(None).map_err(failed)?;
    Ok(stream)
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;

    use super::*;

    #[test]
    fn a_vmm_connects_and_what_is_none_is_told() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("v.sock");
        let absent = connect(&path, 564).unwrap_err();
        assert!(absent.contains("no VMM listens"), "{absent}");
        let listener = UnixListener::bind(&path).unwrap();
        for (says, expected) in [
            (&b"OK 1073741824\n9p"[..], Ok(())),
            (b"", Err("nothing serves vsock port 564")),
            (b"OK \n", Err("no vsock of a VMM")),
            (b"HTTP/1.1 400 Bad Request\r\n", Err("no vsock of a VMM")),
            (&[b'x'; 1000], Err("no vsock of a VMM")),
        ] {
            let vmm = listener.try_clone().unwrap();
            let vmm = std::thread::spawn(move || {
                let (mut stream, _) = vmm.accept().unwrap();
                let mut line = [0; 12];
                stream.read_exact(&mut line).unwrap();
                assert_eq!(&line, b"CONNECT 564\n");
                stream.write_all(says).ok();
            });
            match (connect(&path, 564), expected) {
                (Ok(mut stream), Ok(())) => {
                    let mut rest = Vec::new();
                    stream.read_to_end(&mut rest).unwrap();
                    assert_eq!(rest, b"9p", "what is the server's is left to it");
                }
                (Err(said), Err(expected)) => assert!(said.contains(expected), "{said}"),
                (said, expected) => panic!("{said:?}, not {expected:?}"),
            }
            vmm.join().unwrap();
        }
        let silent = connect_within(&path, 564, Duration::from_millis(20)).unwrap_err();
        assert!(silent.contains("does not answer"), "{silent}");
    }
}
