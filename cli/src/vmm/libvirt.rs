//! What a domain of libvirt is given: QEMU's words in a `qemu:commandline`, for libvirt's own language has no card that
//! a socket leads to.
//!
//! Read first: "QEMU command-line passthrough" in libvirt's drvqemu.html, and `qemu_domain_address.c` for the slots that it
//! gives to devices of its own.

use std::ffi::OsString;

/// The first slot of our devices, `addr=` in hexadecimal: libvirt counts its own from 1 up, and has fixed ones at 1a, 1b
/// and from 1d on.
const FIRST_SLOT: usize = 0x10;
/// The slot behind the last of ours.
const END_OF_SLOTS: usize = 0x1a;

/// Why there is no description.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum DomainError {
    #[error("{0} devices are more than the PCI bus has slots for beside libvirt's own")]
    TooMany(usize),
    #[error("{0} is not UTF-8, which XML must be")]
    NotText(String),
}

impl DomainError {
    /// The next step.
    pub(crate) fn hint(&self) -> &'static str {
        match self {
            Self::TooMany(_) => "one device for all shares: --devices one",
            Self::NotText(_) => "put the runtime folder elsewhere: SHARECTL_RUNTIME_DIR",
        }
    }
}

/// The words with a slot for each PCI device: libvirt says where each of its own is, and does not know of ours.
///
/// # Errors
/// See [`DomainError`].
pub(crate) fn with_slots(words: Vec<OsString>) -> Result<Vec<OsString>, DomainError> {
    let mut taken = FIRST_SLOT;
    let mut placed: Vec<OsString> = Vec::with_capacity(words.len());
    for mut word in words {
        if placed.last().is_some_and(|option| option == "-device") {
            word.push(format!(",addr={taken:x}"));
            taken += 1;
        }
        placed.push(word);
    }
    if taken > END_OF_SLOTS {
        return Err(DomainError::TooMany(taken - FIRST_SLOT));
    }
    Ok(placed)
}

/// The element that has these words. It says its name space itself, so that it can stand in any description.
///
/// # Errors
/// See [`DomainError`].
pub(crate) fn fragment(words: &[OsString]) -> Result<String, DomainError> {
    let mut text = String::from(
        "  <qemu:commandline xmlns:qemu='http://libvirt.org/schemas/domain/qemu/1.0'>\n",
    );
    for word in words {
        let word = word
            .to_str()
            .ok_or_else(|| DomainError::NotText(word.to_string_lossy().into_owned()))?;
        text.push_str(&format!("    <qemu:arg value='{}'/>\n", escaped(word)));
    }
    text.push_str("  </qemu:commandline>\n");
    Ok(text)
}

/// As the value of an attribute (XML 1.0, 2.3).
fn escaped(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for letter in text.chars() {
        match letter {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '\'' => escaped.push_str("&apos;"),
            control if control.is_control() => {
                escaped.push_str(&format!("&#{};", u32::from(control)));
            }
            plain => escaped.push(plain),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use std::os::unix::ffi::OsStringExt;

    use expect_test::expect;

    use super::*;

    fn words(words: &[&str]) -> Vec<OsString> {
        words.iter().map(OsString::from).collect()
    }

    #[test]
    fn each_device_has_a_slot_and_each_word_its_element() {
        let placed = with_slots(words(&[
            "-netdev",
            "stream,path=/r/a&b'c<d",
            "-device",
            "virtio-net-pci,netdev=n",
            "-device",
            "vhost-user-fs-pci,tag=src",
        ]));
        // Between lines without indentation, which would be taken for the snapshot's own.
        let text = format!(
            "<domain>\n{}</domain>\n",
            fragment(&placed.unwrap()).unwrap()
        );
        expect![[r#"
            <domain>
              <qemu:commandline xmlns:qemu='http://libvirt.org/schemas/domain/qemu/1.0'>
                <qemu:arg value='-netdev'/>
                <qemu:arg value='stream,path=/r/a&amp;b&apos;c&lt;d'/>
                <qemu:arg value='-device'/>
                <qemu:arg value='virtio-net-pci,netdev=n,addr=10'/>
                <qemu:arg value='-device'/>
                <qemu:arg value='vhost-user-fs-pci,tag=src,addr=11'/>
              </qemu:commandline>
            </domain>
        "#]]
        .assert_eq(&text);
    }

    #[test]
    fn what_cannot_be_described_is_refused() {
        let many = vec!["-device"; 22];
        assert_eq!(with_slots(words(&many)), Err(DomainError::TooMany(11)));
        assert!(with_slots(words(&many[..20])).is_ok());
        let odd = OsString::from_vec(b"/r/\xff".to_vec());
        assert!(matches!(fragment(&[odd]), Err(DomainError::NotText(_))));
    }
}
