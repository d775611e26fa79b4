//! Reads a QEMU command line far enough to add to it: which word is an option,
//! which its value, and the key=value lists inside (`qemu-options.hx`,
//! `util/keyval.c`). It does not judge options that do not concern us.

use std::ffi::OsString;

use super::LineError;

/// Options without a value; every other one takes the next word
/// (`qemu-options.hx` of QEMU 7.2 to 10, entries without `HAS_ARG`).
const FLAGS: &[&str] = &[
    "S",
    "alt-grab",
    "audio-help",
    "ctrl-grab",
    "curses",
    "daemonize",
    "enable-fips",
    "enable-kvm",
    "enable-sync-profile",
    "full-screen",
    "h",
    "help",
    "localtime",
    "mem-prealloc",
    "no-acpi",
    "no-fd-bootchk",
    "no-frame",
    "no-hpet",
    "no-kvm",
    "no-kvm-irqchip",
    "no-quit",
    "no-reboot",
    "no-shutdown",
    "no-user-config",
    "nodefaults",
    "nographic",
    "nouserconfig",
    "old-param",
    "only-migratable",
    "portrait",
    "preconfig",
    "s",
    "sdl",
    "semihosting",
    "show-cursor",
    "singlestep",
    "snapshot",
    "usb",
    "version",
    "win2k-hack",
    "xen-attach",
    "xen-domid-restrict",
];

/// One option of the line with its value taken apart.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Given {
    /// Without the leading hyphens.
    pub name: String,
    /// The list in the value; a first word without `=` has the key "".
    pub fields: Vec<(String, String)>,
}

impl Given {
    /// The last value of `key`: in QEMU a repeated key overrides.
    pub(super) fn field(&self, key: &str) -> Option<&str> {
        let found = self.fields.iter().rev().find(|(name, _)| name == key);
        found.map(|(_, value)| value.as_str())
    }

    /// The value of `key`, or of the first word that had no key.
    pub(super) fn field_or_first(&self, key: &str) -> Option<&str> {
        self.field(key).or_else(|| self.field(""))
    }
}

/// Every option of the line behind the program's name, in order.
pub(super) fn options(words: &[OsString]) -> Vec<Given> {
    let mut found = Vec::new();
    let mut words = words.iter().map(|word| word.to_string_lossy());
    while let Some(word) = words.next() {
        let Some(name) = word.strip_prefix("--").or_else(|| word.strip_prefix('-')) else {
            continue; // a disk image without an option in front
        };
        if name.is_empty() {
            continue;
        }
        let value = if FLAGS.contains(&name) {
            None
        } else {
            words.next()
        };
        found.push(Given {
            name: name.to_owned(),
            fields: value.map(|value| fields(&value)).unwrap_or_default(),
        });
    }
    found
}

/// `a,key=value` or the JSON form that `-object`, `-device` and `-netdev` take too.
fn fields(value: &str) -> Vec<(String, String)> {
    if value.starts_with('{')
        && let Ok(serde_json::Value::Object(members)) = serde_json::from_str(value)
    {
        let mut fields = Vec::new();
        flatten("", &members, &mut fields);
        return fields;
    }
    let mut fields = Vec::new();
    for part in split_commas(value) {
        match part.split_once('=') {
            Some((key, value)) => fields.push((key.to_owned(), value.to_owned())),
            None if fields.is_empty() => fields.push((String::new(), part)),
            // `server` is the old spelling of `server=on`.
            None => fields.push((part, "on".to_owned())),
        }
    }
    fields
}

fn flatten(
    prefix: &str,
    members: &serde_json::Map<String, serde_json::Value>,
    into: &mut Vec<(String, String)>,
) {
    for (key, value) in members {
        // The JSON form names what the other form has as its first word.
        let name = match key.as_str() {
            "qom-type" | "driver" | "type" if prefix.is_empty() => String::new(),
            _ => format!("{prefix}{key}"),
        };
        match value {
            serde_json::Value::Object(inner) => flatten(&format!("{name}."), inner, into),
            serde_json::Value::String(text) => into.push((name, text.clone())),
            serde_json::Value::Bool(on) => {
                into.push((name, if *on { "on" } else { "off" }.to_owned()))
            }
            serde_json::Value::Null
            | serde_json::Value::Number(_)
            | serde_json::Value::Array(_) => {
                into.push((name, value.to_string()));
            }
        }
    }
}

/// Splits at single commas; two in a row stand for one that is meant.
fn split_commas(value: &str) -> Vec<String> {
    let mut parts = vec![String::new()];
    let mut letters = value.chars().peekable();
    while let Some(letter) = letters.next() {
        let Some(part) = parts.last_mut() else { break };
        if letter != ',' {
            part.push(letter);
        } else if letters.next_if_eq(&',').is_some() {
            part.push(',');
        } else {
            parts.push(String::new());
        }
    }
    parts
}

/// QEMU's default without `-m`, in bytes (`hw/core/machine.c`).
const DEFAULT_MEMORY: u64 = 128 << 20;
/// QEMU rounds the size of `-m` up to this many bytes (`softmmu/vl.c`).
const MEMORY_ROUNDING: u64 = 8192;

/// How much memory the line gives the guest, in bytes.
pub(super) fn memory(options: &[Given]) -> Result<u64, LineError> {
    let given = options.iter().filter(|option| option.name == "m");
    let size = given
        .filter_map(|option| option.field_or_first("size"))
        .next_back();
    size.map_or(Ok(DEFAULT_MEMORY), parse_memory)
}

/// The processors that the guest has when it starts: `-smp`'s `cpus`, or what its topology makes (qemu-options.hx). One
/// for what QEMU will refuse.
pub(super) fn processors(options: &[Given]) -> u32 {
    const TOPOLOGY: [&str; 7] = [
        "drawers", "books", "sockets", "dies", "clusters", "cores", "threads",
    ];
    if let Some(cpus) = smp(options, "cpus").or_else(|| smp(options, "")) {
        return cpus.parse().unwrap_or(1);
    }
    let counts = TOPOLOGY.into_iter().filter_map(|key| smp(options, key));
    counts.fold(1, |product: u32, count| {
        product.saturating_mul(count.parse().unwrap_or(1))
    })
}

/// The processors that it may have at most: `-smp`'s `maxcpus`, or as many as it starts with.
pub(super) fn most_processors(options: &[Given]) -> u32 {
    let most = smp(options, "maxcpus").and_then(|most| most.parse().ok());
    most.unwrap_or_else(|| processors(options))
}

/// Of `-smp`. Said twice, the later one's keys override.
fn smp<'a>(options: &'a [Given], key: &str) -> Option<&'a str> {
    let said = options.iter().rev().filter(|option| option.name == "smp");
    said.filter_map(|option| option.field(key)).next()
}

/// A size as `-m` takes it: MiB without a suffix, else `K`, `M`, `G`, `T`, also with a fraction.
pub(crate) fn parse_memory(text: &str) -> Result<u64, LineError> {
    let bad = || LineError::MemorySize(text.escape_debug().to_string());
    let (digits, shift) = match text.char_indices().next_back().ok_or_else(bad)? {
        (at, 'b' | 'B') => (&text[..at], 0),
        (at, 'k' | 'K') => (&text[..at], 10),
        (at, 'm' | 'M') => (&text[..at], 20),
        (at, 'g' | 'G') => (&text[..at], 30),
        (at, 't' | 'T') => (&text[..at], 40),
        _ => (text, 20),
    };
    let unit = 1_u64 << shift;
    let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
    let number = |digits: &str| {
        let plain = !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit());
        if plain {
            digits.parse::<u64>().ok()
        } else {
            None
        }
    };
    let whole = number(whole)
        .and_then(|whole| whole.checked_mul(unit))
        .ok_or_else(bad)?;
    let part = if digits.contains('.') {
        // Nine digits are finer than a byte of a gibibyte, and cannot overflow.
        let fraction = fraction.get(..9).unwrap_or(fraction);
        let scale = 10_u64.pow(u32::try_from(fraction.len()).map_err(|_| bad())?);
        let part =
            u128::from(number(fraction).ok_or_else(bad)?) * u128::from(unit) / u128::from(scale);
        u64::try_from(part).map_err(|_| bad())?
    } else {
        0
    };
    let size = whole
        .checked_add(part)
        .and_then(|size| size.checked_next_multiple_of(MEMORY_ROUNDING));
    size.filter(|size| *size > 0).ok_or_else(bad)
}

/// The size as QEMU's `size=` reads it, in the largest unit that is exact.
pub(super) fn memory_text(bytes: u64) -> String {
    for (shift, unit) in [(30, 'G'), (20, 'M'), (10, 'K')] {
        if bytes.trailing_zeros() >= shift {
            return format!("{}{unit}", bytes >> shift);
        }
    }
    bytes.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn processors_are_counted_as_qemu_counts_them() {
        for (line, count) in [
            ("-m 1G", 1),
            ("-smp 4", 4),
            ("-smp 4,sockets=1,cores=8", 4),
            ("-smp cpus=2,maxcpus=8", 2),
            ("-smp sockets=2,cores=3,threads=2", 12),
            ("-smp 2 -smp 6", 6),
            ("-smp many", 1),
        ] {
            let words: Vec<OsString> = line.split(' ').map(Into::into).collect();
            let options = options(&words);
            assert_eq!(processors(&options), count, "{line}");
            let most = if line.contains("maxcpus=8") { 8 } else { count };
            assert_eq!(most_processors(&options), most, "{line}");
        }
    }

    #[test]
    fn sizes_are_read_as_qemu_reads_them() {
        for (text, bytes) in [
            ("2G", 2 << 30),
            ("2048", 2 << 30),
            ("2048M", 2 << 30),
            ("2g", 2 << 30),
            ("1.5G", 3 << 29),
            ("0.5g", 1 << 29),
            ("1048576k", 1 << 30),
            ("1T", 1 << 40),
            ("134217728b", 128 << 20),
            ("100001b", 106_496),
        ] {
            assert_eq!(parse_memory(text).unwrap(), bytes, "{text}");
        }
        for text in [
            "",
            "G",
            "2X",
            "-1",
            "+2G",
            "2 G",
            "0",
            "1.G",
            "99999999999T",
            "1.2.3G",
            "2GB",
            "é",
        ] {
            assert!(parse_memory(text).is_err(), "{text}");
        }
    }

    #[test]
    fn sizes_are_written_in_the_largest_exact_unit() {
        for (bytes, text) in [
            (2 << 30, "2G"),
            (3 << 29, "1536M"),
            (106_496, "104K"),
            (128 << 20, "128M"),
        ] {
            assert_eq!(memory_text(bytes), text);
        }
    }

    #[test]
    fn doubled_comma_is_part_of_the_value() {
        assert_eq!(
            fields("socket,id=a,path=/tmp/x,,y,server"),
            [
                ("", "socket"),
                ("id", "a"),
                ("path", "/tmp/x,y"),
                ("server", "on")
            ]
            .map(|(key, value)| (key.to_owned(), value.to_owned()))
        );
    }

    #[test]
    fn json_values_read_like_the_plain_form() {
        let plain = fields("stream,id=n,addr.type=unix,addr.path=/s,server=on");
        let json = fields(
            r#"{"type":"stream","id":"n","addr":{"type":"unix","path":"/s"},"server":true}"#,
        );
        let sorted = |mut fields: Vec<(String, String)>| {
            fields.sort();
            fields
        };
        assert_eq!(sorted(plain), sorted(json));
    }

    #[test]
    fn value_that_looks_like_an_option_is_not_one() {
        let words: Vec<OsString> = ["-append", "-m 4G", "-nographic", "-m", "1G", "disk.img"]
            .map(Into::into)
            .into();
        let names: Vec<_> = options(&words)
            .into_iter()
            .map(|option| option.name)
            .collect();
        assert_eq!(names, ["append", "nographic", "m"]);
    }
}
