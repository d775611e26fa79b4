//! `sharectl port publish`: a port of the host leads to a guest.

use control::api::{PortRequest, PortStatus};
use control::failure::FailureKind;
use control::names::GuestName;
use control::paths::Daemon;
use control::port::PortSpec;

use crate::context::Context;
use crate::edit::{Draft, document};
use crate::error::{CliError, Outcome};
use crate::output::comma_list;
use crate::ready::{WaitArgs, Wish};
use schemars::JsonSchema;
use serde::Serialize;
use std::net::SocketAddr;

/// Have a port of the host lead to a guest, now and after a restart
///
/// Without an address the port is on the guest's own 127.x.y.z, so that two
/// guests may both have port 80, and on localhost (127.0.0.1 and ::1) where it is
/// free. The host takes connections while the guest's own port does.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Example:\n  sharectl port publish dev 8080:80\n  sharectl port publish dev 127.0.0.1:5353:53/udp --temporary\n  sharectl port publish dev 8080:80 --wait=1m && curl http://dev.test:8080/\n  sharectl port publish dev unix:/run/user/1000/docker.sock:2375"
)]
pub(crate) struct Args {
    /// As in `sharectl guest ls`
    #[arg(value_name = "NAME")]
    guest: GuestName,
    /// [ADDRESS:]HOST[:GUEST][/udp]; ranges such as 8000-8010 too; :GUEST for
    /// any free port; unix:/PATH:GUEST
    spec: PortSpec,
    /// Do not write it to the configuration: it ends with netd
    #[arg(long)]
    temporary: bool,
    #[command(flatten)]
    wait: WaitArgs,
}

/// A port that leads to a guest.
#[derive(Serialize, JsonSchema)]
#[serde(untagged)]
pub(crate) enum Published<'p> {
    Now(&'p PortStatus),
    /// netd does not run.
    Later {
        guest: &'p GuestName,
        spec: &'p PortSpec,
        /// Nowhere.
        listening: [SocketAddr; 0],
    },
}

pub(crate) fn run(context: &Context, args: Args) -> Outcome {
    let (name, spec) = (&args.guest, &args.spec);
    let mut draft = Draft::open(&context.paths.config)?;
    let config = draft.config()?;
    let guest = context.guest(&config, name)?;
    if guest.publish.contains(spec) {
        return Err(CliError::conflict(
            format!("guest \"{name}\" publishes {spec} already"),
            "see all: sharectl port ls",
        ));
    }
    document::push(
        &mut draft.document,
        &["guest", name.as_str()],
        "publish",
        &spec.to_string(),
    )?;
    // What the file's rules forbid is found out before netd is asked.
    draft.config()?;
    let request = PortRequest {
        guest: name.clone(),
        spec: spec.clone(),
    };
    let published: Option<PortStatus> = match context.post(Daemon::Netd, "/v1/ports", &request)? {
        Ok(status) => status,
        Err(failure) if failure.kind == FailureKind::NotRunning && !args.temporary => None,
        Err(failure) => return Err(failure.into()),
    };
    if args.temporary {
        drop(draft);
    } else {
        if let Err(error) = draft.commit(context) {
            // Nothing half-done stays.
            if published.is_some() {
                let undone: Result<Option<serde_json::Value>, _> =
                    context.delete(Daemon::Netd, "/v1/ports", &request)?;
                if let Err(failure) = undone {
                    context.out.warning(&format!(
                        "the port stays published until netd ends: {failure}"
                    ));
                }
            }
            return Err(error);
        }
        context.reload(&[Daemon::Netd])?;
    }
    args.wait
        .until(context, &[Wish::Spec(name.clone(), spec.clone())])?;
    match published {
        Some(status) => {
            for problem in &status.problems {
                context.out.warning(problem);
            }
            let sentence = format!(
                "{} -> {name}:{}/{}",
                comma_list(&status.listening),
                spec.guest,
                spec.protocol
            );
            context.out.done(&sentence, &Published::Now(&status))
        }
        None => context.out.done(
            &format!("{spec} -> {name}, once netd runs"),
            &Published::Later {
                guest: name,
                spec,
                listening: [],
            },
        ),
    }
}
