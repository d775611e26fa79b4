//! The view as people read it: a line a thing, and below it what does not work.

use std::net::IpAddr;

use control::api::GuestAnswer;
use control::port::PortSpec;

use super::join::{ContainerView, EngineView, GuestState, GuestView, PortView, ShareState, View};
use crate::output::{comma_list, or_dash, printable, table};

pub(super) fn whole(view: &View) -> String {
    let mut rows = Vec::new();
    for guest in &view.guests {
        add_guest(guest, &mut rows);
    }
    for engine in &view.engines {
        add_engine("-", engine, &mut rows);
    }
    let mut text = table(&["GUEST", "WHAT", "IN IT", "ON THIS HOST", "STATE"], &rows);
    if rows.is_empty() {
        text.push_str("\nno guests yet: sharectl guest add NAME\n");
    }
    if !view.troubles.is_empty() {
        text.push_str("\nnot working:\n");
    }
    for trouble in &view.troubles {
        let guest = trouble.guest.as_ref().map(|guest| format!("{guest}: "));
        let line = format!(
            "{}{}: {}",
            guest.unwrap_or_default(),
            trouble.about,
            trouble.why
        );
        text.push_str(&format!("  {}\n", printable(&line)));
        if let Some(fix) = &trouble.fix {
            text.push_str(&format!("    do: {}\n", printable(fix)));
        }
    }
    text
}

/// Guests, then containers, a line each.
pub(super) fn names(view: &View) -> String {
    let guests = view.guests.iter().filter_map(|guest| guest.name.as_ref());
    let own = view.guests.iter().filter_map(|guest| guest.engine.as_ref());
    let containers = own
        .chain(&view.engines)
        .flat_map(|engine| &engine.containers);
    guests
        .map(ToString::to_string)
        .chain(containers.map(|container| container.name.clone()))
        .map(|name| format!("{}\n", printable(&name)))
        .collect()
}

fn add_guest(guest: &GuestView, rows: &mut Vec<Vec<String>>) {
    let name = guest
        .name
        .as_ref()
        .map_or_else(|| "-".to_owned(), ToString::to_string);
    let mut add = |what: &str, inside: String, here: String, state: &str| {
        rows.push(vec![
            name.clone(),
            what.to_owned(),
            or_dash(inside),
            or_dash(here),
            or_dash(state.to_owned()),
        ]);
    };
    let own = guest.address.map(IpAddr::V4);
    let addresses = comma_list(own.into_iter().chain(guest.ipv6_address.map(IpAddr::V6)));
    let host = guest.host_address.map(|address| address.to_string());
    let state = match guest.state {
        GuestState::Running => "running",
        GuestState::NoAddress => "no address",
        GuestState::Off => "off",
    };
    add(
        "guest",
        format!("{} {addresses}", guest.network),
        host.unwrap_or_default(),
        state,
    );
    for one in &guest.names {
        let state = if one.written {
            "written"
        } else {
            "not written"
        };
        add("name", one.name.to_string(), one.address.to_string(), state);
    }
    // Of a range the ports that nobody serves are one line.
    let is_at_rest =
        |port: &&PortView| port.spec.is_several() && port.answers == GuestAnswer::Refuses;
    for port in guest.ports.iter().filter(|port| !is_at_rest(port)) {
        add(
            "port",
            format!("{}/{}", port.guest_port, port.protocol),
            port.reach.join(","),
            match port.answers {
                GuestAnswer::Serves => "serves",
                GuestAnswer::Refuses => "refuses",
                GuestAnswer::Silent => "silent",
                GuestAnswer::Absent => "absent",
                GuestAnswer::Unknown => "",
            },
        );
    }
    let resting = guest.ports.iter().filter(is_at_rest);
    let mut specs: Vec<&PortSpec> = resting.clone().map(|port| &port.spec).collect();
    specs.dedup();
    for spec in specs {
        let count = resting.clone().filter(|port| port.spec == *spec).count();
        add(
            "ports",
            format!("{}/{}", spec.guest, spec.protocol),
            String::new(),
            &format!("{count} of {} free", spec.guest.count()),
        );
    }
    for share in &guest.shares {
        let state = match share.state {
            ShareState::Mounted => "mounted",
            ShareState::Connected => "not mounted",
            ShareState::Offered => "offered",
            ShareState::NotServed => "not served",
        };
        let mode = if share.read_only { ", read-only" } else { "" };
        add(
            "share",
            share.at.display().to_string(),
            share.path.display().to_string(),
            &format!("{state}{mode}"),
        );
    }
    if let Some(engine) = &guest.engine {
        add_engine(&name, engine, rows);
    }
}

fn add_engine(guest: &str, engine: &EngineView, rows: &mut Vec<Vec<String>>) {
    let state = if engine.answers {
        "answers"
    } else {
        "no answer"
    };
    rows.push(vec![
        guest.to_owned(),
        "docker".to_owned(),
        or_dash(
            engine
                .source
                .as_ref()
                .map(ToString::to_string)
                .unwrap_or_default(),
        ),
        engine.place.to_string(),
        state.to_owned(),
    ]);
    for container in &engine.containers {
        rows.push(vec![
            guest.to_owned(),
            "container".to_owned(),
            match container.image.as_str() {
                "" => container.name.clone(),
                image => format!("{} ({image})", container.name),
            },
            or_dash(places(container)),
            or_dash(container.status.clone()),
        ]);
    }
}

/// Where its ports are, and its names.
fn places(container: &ContainerView) -> String {
    let ports = container.ports.iter().map(|port| {
        let inside = format!("{}/{}", port.container_port, port.protocol);
        if port.reach.is_empty() {
            return format!("({inside})");
        }
        format!("{}->{inside}", port.reach.join(","))
    });
    let names = container.names.iter().map(ToString::to_string);
    ports.chain(names).collect::<Vec<_>>().join(" ")
}
