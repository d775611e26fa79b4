//! `sharectl service status`: what the service manager says of the units.

use std::process::ExitCode;

use schemars::JsonSchema;
use serde::Serialize;

use crate::context::Context;
use crate::error::{CliError, Exit, Outcome};
use crate::output::or_dash;
use crate::service::manager::{self, Manager};
use crate::service::record::Record;
use crate::service::units::Scope;

/// Show the units, whether they run, and how often they were started again
///
/// Exit code 3 when one of them does not run.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  sharectl service status")]
pub(crate) struct Args {}

/// A unit, in systemd's words.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct Row {
    unit: String,
    active: String,
    enabled: String,
    pid: u32,
    restarts: u32,
    file: &'static str,
    drop_ins: String,
}

pub(crate) fn run(context: &Context, _: Args) -> Outcome<ExitCode> {
    let Some(record) = Record::load(&context.paths)? else {
        if context.out.is_json() {
            context.out.json(&Vec::<Row>::new())?;
        }
        return Err(CliError::not_running(
            "no service is installed",
            "sharectl service install",
        ));
    };
    let manager = Manager {
        scope: record.scope(),
    };
    manager.answers()?;
    let mut rows = Vec::new();
    for unit in &record.units {
        let state = manager.state(&unit.name)?;
        let active = if state.active == "failed" {
            format!("failed: {}", state.result)
        } else {
            state.active
        };
        rows.push(Row {
            unit: unit.name.clone(),
            active,
            enabled: state.enabled,
            pid: state.pid,
            restarts: state.restarts,
            file: unit.condition().word(),
            drop_ins: state.drop_ins,
        });
    }
    context.out.list(
        &[
            "UNIT", "ACTIVE", "AT LOGIN", "PID", "RESTARTS", "FILE", "DROP-INS",
        ],
        &rows,
        |row| {
            let pid = if row.pid == 0 {
                String::new()
            } else {
                row.pid.to_string()
            };
            vec![
                row.unit.clone(),
                row.active.clone(),
                or_dash(row.enabled.clone()),
                or_dash(pid),
                row.restarts.to_string(),
                row.file.to_owned(),
                or_dash(row.drop_ins.clone()),
            ]
        },
    )?;
    if record.scope() == Scope::User && !manager::lingers() {
        context.out.note(
            "they run while you are logged in; from boot on: sharectl service install --linger",
        );
    }
    if rows.iter().all(|row| row.active == "active") {
        return Ok(ExitCode::SUCCESS);
    }
    Ok(ExitCode::from(Exit::NotRunning as u8))
}
