//! `sharectl guest mounts`: what to write in the guest so that each share is at its path.

use control::config::{Devices, SHARES_FOLDER, SHARES_TAG};
use control::names::GuestName;

use super::wiring;
use crate::context::Context;
use crate::error::Outcome;
use crate::mounts::{self, Form, Mount};

/// Print what mounts the guest's shares, to be put into the guest
///
/// Nothing is changed, on the host or in the guest. Containers find the shares
/// in place: docker.service starts behind them.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Example:\n  sharectl guest mounts dev | ssh root@dev.test 'cat >> /etc/fstab'\n  sharectl guest mounts dev --as shell | ssh root@dev.test sh"
)]
pub(crate) struct Args {
    /// As in `sharectl guest ls`
    #[arg(value_name = "NAME")]
    guest: GuestName,
    /// Lines of /etc/fstab, systemd's units, or commands that last until it reboots
    #[arg(long = "as", value_enum, default_value_t = Form::Fstab, value_name = "FORM")]
    form: Form,
    /// How shares reach it: one device for all, or one each; instead of what the configuration says
    #[arg(long, value_parser = wiring::devices_choice)]
    devices: Option<Devices>,
}

pub(crate) fn run(context: &Context, args: Args) -> Outcome {
    let config = context.config()?;
    let guest = context.guest(&config, &args.guest)?;
    let mut shares: Vec<_> = config.shares_of(&guest.name).collect();
    // One that is mounted inside another comes behind it.
    shares.sort_by(|one, other| one.at.cmp(&other.at));
    let shares = shares.into_iter();
    let list: Vec<Mount> = match args.devices.unwrap_or(guest.devices) {
        Devices::One => {
            let all = Mount::device(SHARES_TAG, SHARES_FOLDER.as_ref());
            let each = shares.map(|share| {
                let folder = format!("{SHARES_FOLDER}/{}", share.name);
                Mount::bind(folder, &share.at, SHARES_FOLDER)
            });
            std::iter::once(all).chain(each).collect()
        }
        Devices::Each => shares
            .map(|share| Mount::device(share.name.as_str(), &share.at))
            .collect(),
    };
    if context.out.is_json() {
        return context.out.json(&list);
    }
    context.out.text(&mounts::text(&list, args.form))
}
