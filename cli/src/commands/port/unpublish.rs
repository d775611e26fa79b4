//! `sharectl port unpublish`: a port of the host leads nowhere again.

use control::api::{PortRequest, PortStatus};
use control::failure::{Failure, FailureKind};
use control::names::GuestName;
use control::paths::Daemon;
use control::port::PortSpec;

use crate::context::Context;
use crate::edit::{Draft, document};
use crate::error::{CliError, Exit, Outcome};
use schemars::JsonSchema;
use serde::Serialize;

/// Take a published port back; connections that exist go on
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  sharectl port unpublish dev 8080:80")]
pub(crate) struct Args {
    /// As in `sharectl guest ls`
    #[arg(value_name = "NAME")]
    guest: GuestName,
    /// As in `sharectl port ls`
    spec: PortSpec,
}

/// Whether netd publishes it now, by the file or for a time.
fn is_published(context: &Context, request: &PortRequest) -> Outcome<bool> {
    let ports: Result<Vec<PortStatus>, CliError> = context.ask(Daemon::Netd, "/v1/ports");
    let same = |port: &PortStatus| port.guest == request.guest && port.spec == request.spec;
    match ports {
        Ok(ports) => Ok(ports.iter().any(same)),
        Err(error) if error.exit == Exit::NotRunning => Ok(false),
        Err(error) => Err(error),
    }
}

#[derive(Serialize, JsonSchema)]
pub(crate) struct Unpublished<'u> {
    guest: &'u GuestName,
    spec: &'u PortSpec,
}

pub(crate) fn run(context: &Context, args: Args) -> Outcome {
    let (name, spec) = (&args.guest, &args.spec);
    let mut draft = Draft::open(&context.paths.config)?;
    let config = draft.config()?;
    let guest = context.guest(&config, name)?;
    let same = |text: &str| text.parse::<PortSpec>().is_ok_and(|other| other == *spec);
    let in_file = document::remove_from_list(
        &mut draft.document,
        &["guest", name.as_str()],
        "publish",
        same,
    )? > 0;
    if in_file {
        draft.commit(context)?;
    } else {
        drop(draft);
    }
    let request = PortRequest {
        guest: name.clone(),
        spec: spec.clone(),
    };
    let answer: Result<Option<serde_json::Value>, _> = match context.is_rehearsal() && !in_file {
        true if !is_published(context, &request)? => {
            Err(Failure::not_found("netd does not publish it"))
        }
        true | false => context.delete(Daemon::Netd, "/v1/ports", &request)?,
    };
    match answer {
        Ok(_) => {}
        // It may be known only to the file, or have gone with the file's reload.
        Err(failure)
            if in_file
                && matches!(
                    failure.kind,
                    FailureKind::NotRunning | FailureKind::NotFound
                ) => {}
        Err(failure)
            if matches!(
                failure.kind,
                FailureKind::NotRunning | FailureKind::NotFound
            ) =>
        {
            let listed = guest
                .publish
                .iter()
                .map(ToString::to_string)
                .collect::<Vec<_>>()
                .join(", ");
            let hint = if listed.is_empty() {
                "it publishes nothing: sharectl port ls".to_owned()
            } else {
                format!("it publishes {listed}")
            };
            return Err(CliError::failure(
                format!("guest \"{name}\" does not publish {spec}"),
                hint,
            ));
        }
        Err(failure) => return Err(failure.into()),
    }
    if in_file {
        context.reload(&[Daemon::Netd])?;
    }
    context.out.done(
        &format!("{spec} of {name} unpublished"),
        &Unpublished { guest: name, spec },
    )
}
