//! `sharectl guest args`: what to add to a VMM's own command line.

use std::ffi::{OsStr, OsString};
use std::io::IsTerminal;
use std::os::unix::ffi::{OsStrExt, OsStringExt};

use control::config::{Devices, LinkChoice};
use control::names::GuestName;

use super::wiring::{self, Wishes};
use crate::commands::share::ninep_mount;
use crate::context::Context;
use crate::error::{CliError, Outcome};
use crate::vmm::{Nic, Vmm, Wiring, libvirt, others, qemu};

/// The size of memory that is assumed where none is said.
const ASSUMED_MEMORY: &str = "2G";

/// Print what to add to the command line of your own VM
///
/// One option a line, so that $(sharectl guest args NAME) works in a shell;
/// -0 ends each word with a zero byte, for paths with spaces. --vmm libvirt prints an element
/// for the description of a domain instead, to stand at its end.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Example:\n  qemu-system-x86_64 -m 2G disk.qcow2 $(sharectl guest args dev --memory 2G)\n  sharectl guest args dev -0 | xargs -0 qemu-system-x86_64 -m 2G disk.qcow2\n  sharectl guest args dev --vmm libvirt --memory 2G > part.xml"
)]
pub(crate) struct Args {
    /// As in `sharectl guest ls`
    #[arg(value_name = "NAME")]
    guest: GuestName,
    /// Whose command line it is for
    #[arg(long, value_enum, default_value_t = Vmm::Qemu)]
    vmm: Vmm,
    /// The network card the guest sees
    #[arg(long, value_enum, default_value_t = Nic::VirtioNetPci)]
    nic: Nic,
    /// How frames travel to netd: auto, stream, vhost-user, dgram; instead of what the configuration says
    #[arg(long, value_parser = wiring::link_choice)]
    link: Option<LinkChoice>,
    /// How shares reach it: one device for all, or one each; instead of what the configuration says
    #[arg(long, value_parser = wiring::devices_choice)]
    devices: Option<Devices>,
    /// The guest's memory as in your -m, for the memory that shares use
    #[arg(long, value_name = "SIZE", value_parser = memory_size)]
    memory: Option<u64>,
    /// End each word with a zero byte instead of spaces and line ends
    #[arg(short = '0', long, conflicts_with = "json")]
    null: bool,
    /// Print a JSON array of words; the same as --format json
    #[arg(long)]
    json: bool,
}

fn for_qemu(
    context: &Context,
    wiring: &Wiring,
    memory: Option<u64>,
) -> Result<Vec<OsString>, CliError> {
    let bad = |error: qemu::LineError| CliError::usage(error.to_string(), error.hint());
    let memory = match memory {
        Some(memory) => memory,
        None => {
            if !wiring.shares.is_empty() || wiring.link == LinkChoice::VhostUser {
                context.out.note(&format!(
                    "the shared memory is sized for -m {ASSUMED_MEMORY}; QEMU refuses another -m: say yours with --memory SIZE"
                ));
            }
            qemu::parse_memory(ASSUMED_MEMORY).map_err(bad)?
        }
    };
    qemu::parts(wiring, memory).map_err(bad)
}

fn no_domain(error: libvirt::DomainError) -> CliError {
    CliError::failure(error.to_string(), error.hint())
}

fn memory_size(text: &str) -> Result<u64, String> {
    qemu::parse_memory(text).map_err(|error| format!("{error}; {}", error.hint()))
}

pub(crate) fn run(context: &Context, args: Args) -> Outcome {
    let config = context.config()?;
    let guest = context.guest(&config, &args.guest)?;
    let wishes = Wishes {
        nic: args.nic,
        link: args.link,
        devices: args.devices,
    };
    let program = match args.vmm {
        Vmm::Qemu | Vmm::Libvirt => Some(OsStr::new(qemu::PROGRAM)),
        Vmm::CloudHypervisor | Vmm::Crosvm | Vmm::Vfkit | Vmm::Krunkit => None,
    };
    let wiring = wiring::of(context, &config, guest, &wishes, program);
    for share in config.shares.values() {
        if let Some(line) = ninep_mount(&config, guest, share) {
            context
                .out
                .note(&format!("in the guest, without a device: {line}"));
        }
    }
    let words = match args.vmm {
        Vmm::Qemu => for_qemu(context, &wiring, args.memory)?,
        Vmm::Libvirt => {
            let words = for_qemu(context, &wiring, args.memory)?;
            libvirt::with_slots(words).map_err(no_domain)?
        }
        Vmm::CloudHypervisor | Vmm::Crosvm | Vmm::Vfkit | Vmm::Krunkit => {
            let added = others::parts(args.vmm, &wiring, args.memory);
            for note in &added.notes {
                context.out.note(note);
            }
            added.words
        }
    };
    if args.json || context.out.is_json() {
        let words: Vec<_> = words.iter().map(|word| word.to_string_lossy()).collect();
        return context.out.json(&words);
    }
    if args.vmm == Vmm::Libvirt && !args.null {
        let text = libvirt::fragment(&words).map_err(no_domain)?;
        return context.out.text(&text);
    }
    if args.null {
        let bytes = words
            .iter()
            .flat_map(|word| [word.as_bytes(), b"\0"])
            .collect::<Vec<_>>()
            .concat();
        return context.out.bytes(&bytes);
    }
    if words
        .iter()
        .any(|word| word.as_bytes().iter().any(u8::is_ascii_whitespace))
    {
        context
            .out
            .warning("a path has a space in it: use -0 with xargs -0, or --json");
    }
    // On a terminal the lines are to be copied, else they are split at white space.
    let end: &[u8] = if std::io::stdout().is_terminal() {
        b" \\\n"
    } else {
        b"\n"
    };
    let mut lines: Vec<Vec<u8>> = words
        .chunks(2)
        .map(|pair| pair.join(&OsString::from(" ")).into_vec())
        .collect();
    lines.push(Vec::new());
    let mut text = lines.join(end);
    if text.ends_with(b" \\\n") {
        text.truncate(text.len() - 3);
        text.push(b'\n');
    }
    context.out.bytes(&text)
}
