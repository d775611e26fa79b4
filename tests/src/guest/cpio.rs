//! Writes a cpio archive as the kernel takes it for an initramfs ("newc").
//!
//! Read first: Documentation/driver-api/early-userspace/buffer-format.rst of the kernel. Every field
//! is eight hexadecimal digits, names and data are padded to four bytes, owner and time are zero.

/// Type bits of a folder, regular file, symbolic link and character device (stat(2)).
const FOLDER: u32 = 0o040_000;
const FILE: u32 = 0o100_000;
const LINK: u32 = 0o120_000;
const DEVICE: u32 = 0o020_000;

/// An archive in the making.
#[derive(Debug, Default)]
pub(super) struct Archive {
    bytes: Vec<u8>,
    next_inode: u32,
}

impl Archive {
    /// Adds a folder; its parent must be there already.
    pub(super) fn folder(&mut self, path: &str) {
        self.entry(path, FOLDER | 0o755, 2, (0, 0), &[]);
    }

    /// Adds a regular file with these permission bits.
    pub(super) fn file(&mut self, path: &str, mode: u32, content: &[u8]) {
        self.entry(path, FILE | mode, 1, (0, 0), content);
    }

    /// Adds a symbolic link.
    pub(super) fn link(&mut self, path: &str, target: &str) {
        self.entry(path, LINK | 0o777, 1, (0, 0), target.as_bytes());
    }

    /// Adds a character device.
    pub(super) fn device(&mut self, path: &str, major: u32, minor: u32) {
        self.entry(path, DEVICE | 0o600, 1, (major, minor), &[]);
    }

    /// The archive, with the end mark that the kernel looks for.
    pub(super) fn finish(mut self) -> Vec<u8> {
        self.next_inode = 0;
        self.entry("TRAILER!!!", 0, 1, (0, 0), &[]);
        self.bytes
    }

    fn entry(&mut self, path: &str, mode: u32, links: u32, device: (u32, u32), content: &[u8]) {
        let (inode, owner, group, time, on_major, on_minor, check) =
            (self.next_inode, 0, 0, 0, 0, 0, 0);
        self.next_inode += 1;
        let fields = [
            inode,
            mode,
            owner,
            group,
            links,
            time,
            length(content.len()),
            on_major,
            on_minor,
            device.0,
            device.1,
            length(path.len() + 1),
            check,
        ];
        self.bytes.extend_from_slice(b"070701");
        for field in fields {
            self.bytes
                .extend_from_slice(format!("{field:08x}").as_bytes());
        }
        self.bytes.extend_from_slice(path.as_bytes());
        self.bytes.push(0);
        self.pad();
        self.bytes.extend_from_slice(content);
        self.pad();
    }

    fn pad(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }
}

fn length(length: usize) -> u32 {
    u32::try_from(length).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use std::process::Command;
    use std::time::Duration;

    use super::*;

    #[test]
    fn busybox_reads_back_what_was_written() {
        let mut archive = Archive::default();
        archive.folder("bin");
        archive.file("bin/sh", 0o755, b"#!");
        archive.link("init", "bin/sh");
        let listed = crate::command::output_with_input(
            Command::new("busybox").args(["cpio", "-tv"]),
            &archive.finish(),
            Duration::from_secs(10),
        );
        let Ok(listed) = listed else {
            return; // a machine that has not run `cargo xtask test` yet
        };
        let listed = listed.success().unwrap();
        assert!(listed.contains("bin/sh"), "{listed}");
        assert!(listed.contains("init -> bin/sh"), "{listed}");
    }

    #[test]
    fn entries_are_aligned_and_end_with_the_trailer() {
        let mut archive = Archive::default();
        archive.file("a", 0o644, b"12345");
        let bytes = archive.finish();
        assert_eq!(bytes.len() % 4, 0);
        assert!(bytes.windows(10).any(|part| part == b"TRAILER!!!"));
        // 110 bytes of header, "a\0", padded to 112
        assert_eq!(&bytes[112..117], b"12345");
    }
}
