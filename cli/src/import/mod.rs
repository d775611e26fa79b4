//! What another tool knows, as changes of our configuration. Pure: texts in, a plan out, the plan into a document.
//!
//! A plan wishes; [`Plan::apply`] grants what the configuration does not have yet and what does not contradict it. All
//! else, of the file and of the plan, is listed with its reason: nothing is lost without a word.

pub(crate) mod lima;
pub(crate) mod networking;
pub(crate) mod vmx;

#[cfg(test)]
mod tests;

use std::net::Ipv4Addr;

use control::config::{Config, DEFAULT_NETWORK, Guest};
use control::mac::MacAddress;
use control::names::{GuestName, NetworkName, ShareName};
use schemars::JsonSchema;
use serde::Serialize;
use toml_edit::{Array, DocumentMut, Value};

use crate::edit::document::{self, NotATable};

/// What a file cannot be read for.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub(crate) struct BadFile {
    /// From 1.
    pub line: usize,
    pub message: String,
}

/// Something that has no counterpart here.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub(crate) struct LeftOut {
    /// Where it stands, from 1.
    pub line: usize,
    pub what: String,
    pub why: String,
}

/// All that a file wishes for.
#[derive(Debug, Default)]
pub(crate) struct Plan {
    pub networks: Vec<NetworkWish>,
    pub guests: Vec<GuestWish>,
    pub shares: Vec<ShareWish>,
    pub ports: Vec<PortWish>,
    pub reservations: Vec<(usize, MacAddress, Ipv4Addr)>,
    pub left_out: Vec<LeftOut>,
}

#[derive(Debug)]
pub(crate) struct NetworkWish {
    pub name: NetworkName,
    pub fields: Vec<(&'static str, String)>,
}

#[derive(Debug)]
pub(crate) struct GuestWish {
    pub line: usize,
    pub name: GuestName,
    pub network: Option<NetworkName>,
    pub mac: Option<MacAddress>,
}

#[derive(Debug)]
pub(crate) struct ShareWish {
    pub line: usize,
    pub name: ShareName,
    pub path: String,
    pub at: Option<String>,
    pub read_only: bool,
    pub guest: GuestName,
}

#[derive(Debug)]
pub(crate) struct PortWish {
    pub line: usize,
    pub target: Target,
    pub spec: String,
}

/// Where a port leads.
#[derive(Debug)]
pub(crate) enum Target {
    Guest(GuestName),
    Address(Ipv4Addr),
}

impl Plan {
    pub(crate) fn leave_out(
        &mut self,
        line: usize,
        what: impl Into<String>,
        why: impl Into<String>,
    ) {
        self.left_out.push(LeftOut {
            line,
            what: what.into(),
            why: why.into(),
        });
    }

    /// Writes into the document what `config`, which it means now, does not have yet.
    pub(crate) fn apply(
        mut self,
        document: &mut DocumentMut,
        config: &Config,
    ) -> Result<Vec<LeftOut>, NotATable> {
        for wish in std::mem::take(&mut self.networks) {
            network(document, config, wish)?;
        }
        for wish in std::mem::take(&mut self.guests) {
            self.guest(document, config, wish)?;
        }
        for wish in std::mem::take(&mut self.shares) {
            self.share(document, config, wish)?;
        }
        for (line, mac, address) in std::mem::take(&mut self.reservations) {
            match config.guests.values().find(|guest| guest.mac == mac) {
                Some(guest) if guest.address.is_none() => {
                    set(document, &["guest", guest.name.as_str()], "address", &address.to_string())?;
                }
                Some(guest) if guest.address == Some(address) => {}
                Some(guest) => self.leave_out(line, format!("the address {address} of {mac}"), format!("guest \"{}\" has another one", guest.name)),
                None => self.leave_out(
                    line,
                    format!("the address {address} of {mac}"),
                    format!("no guest has that MAC: sharectl guest add NAME --mac {mac} --address {address}"),
                ),
            }
        }
        for wish in std::mem::take(&mut self.ports) {
            let guest = match &wish.target {
                Target::Guest(name) => Some(name.clone()),
                Target::Address(address) => {
                    let has_it = |guest: &&Guest| guest.address == Some(*address);
                    config
                        .guests
                        .values()
                        .find(has_it)
                        .map(|guest| guest.name.clone())
                }
            };
            match (guest, &wish.target) {
                (Some(guest), _) => push_once(document, &["guest", guest.as_str()], "publish", &wish.spec)?,
                (None, Target::Address(address)) => self.leave_out(
                    wish.line,
                    format!("the forwarded port {} of {address}", wish.spec),
                    format!("no guest has that address: sharectl guest add NAME --address {address}, or --guest NAME here"),
                ),
                (None, Target::Guest(_)) => {}
            }
        }
        self.left_out.sort_by_key(|left| left.line);
        Ok(self.left_out)
    }

    fn guest(
        &mut self,
        document: &mut DocumentMut,
        config: &Config,
        wish: GuestWish,
    ) -> Result<(), NotATable> {
        let mac = wish.mac.map(|mac| mac.to_string());
        let network = wish.network.as_ref().map(NetworkName::as_str);
        let Some(there) = config.guests.get(&wish.name) else {
            let fields = [("network", network.map(str::to_owned)), ("mac", mac)];
            let fields = fields
                .into_iter()
                .filter_map(|(key, value)| Some((key, Value::from(value?))));
            return document::add_entry(document, "guest", wish.name.as_str(), fields.collect());
        };
        let path = ["guest", wish.name.as_str()];
        if let (Some(mac), true) = (&mac, wish.mac != Some(there.mac)) {
            set(document, &path, "mac", mac)?;
        }
        if let Some(network) = network.filter(|network| *network != there.network.as_str()) {
            if there.address.is_some() {
                self.leave_out(
                    wish.line,
                    format!("the network {network} of guest \"{}\"", wish.name),
                    format!("its address belongs to {}", there.network),
                );
                return Ok(());
            }
            set(document, &path, "network", network)?;
        }
        Ok(())
    }

    fn share(
        &mut self,
        document: &mut DocumentMut,
        config: &Config,
        wish: ShareWish,
    ) -> Result<(), NotATable> {
        let taken = |name: &ShareName| {
            document
                .get("share")
                .and_then(|shares| shares.get(name.as_str()))
                .is_some()
        };
        if taken(&wish.name) {
            let written = document
                .get("share")
                .and_then(|shares| shares.get(wish.name.as_str()));
            let path = written
                .and_then(|share| share.get("path"))
                .and_then(|path| path.as_str());
            let is_same = path == Some(&wish.path)
                || config
                    .shares
                    .get(&wish.name)
                    .is_some_and(|share| share.path.to_str() == Some(&wish.path));
            if !is_same {
                self.leave_out(
                    wish.line,
                    format!("the folder {}", wish.path),
                    format!(
                        "another share is called {0}: sharectl share add {1} --name NAME",
                        wish.name,
                        control::translation::quoted(&wish.path)
                    ),
                );
            }
            return Ok(());
        }
        let mut fields: Vec<(&str, Value)> = vec![("path", wish.path.into())];
        fields.extend(wish.at.map(|at| ("at", at.into())));
        if wish.read_only {
            fields.push(("read-only", true.into()));
        }
        let guests: Array = std::iter::once(wish.guest.as_str()).collect();
        fields.push(("guests", Value::Array(guests)));
        document::add_entry(document, "share", wish.name.as_str(), fields)
    }
}

fn network(
    document: &mut DocumentMut,
    config: &Config,
    wish: NetworkWish,
) -> Result<(), NotATable> {
    let name = wish.name.as_str();
    let written = |document: &DocumentMut, name: &str| {
        document
            .get("network")
            .and_then(|networks| networks.get(name))
            .is_some()
    };
    if written(document, name) {
        for (key, value) in wish.fields {
            set(document, &["network", name], key, &value)?;
        }
        return Ok(());
    }
    if wish.fields.is_empty() && config.networks.contains_key(&wish.name) {
        return Ok(());
    }
    // The network that is there where the file names none, is there no more beside another one.
    if document.get("network").is_none() && name != DEFAULT_NETWORK && !config.guests.is_empty() {
        document::add_entry(document, "network", DEFAULT_NETWORK, Vec::new())?;
    }
    let fields = wish
        .fields
        .into_iter()
        .map(|(key, value)| (key, Value::from(value)));
    document::add_entry(document, "network", name, fields.collect())
}

/// Sets a text that is another one.
fn set(document: &mut DocumentMut, path: &[&str], key: &str, value: &str) -> Result<(), NotATable> {
    let mut there = document.as_item();
    for step in path {
        match there.get(step) {
            Some(next) => there = next,
            None => return document::set_value(document, path, key, value),
        }
    }
    if there.get(key).and_then(|old| old.as_str()) == Some(value) {
        return Ok(());
    }
    document::set_value(document, path, key, value)
}

fn push_once(
    document: &mut DocumentMut,
    path: &[&str; 2],
    key: &str,
    value: &str,
) -> Result<(), NotATable> {
    let list = document
        .get(path[0])
        .and_then(|table| table.get(path[1]))
        .and_then(|entry| entry.get(key));
    let has_it = list
        .and_then(|list| list.as_array())
        .is_some_and(|list| list.iter().any(|text| text.as_str() == Some(value)));
    if has_it {
        return Ok(());
    }
    document::push(document, path, key, value)
}

/// A text in the letters that our names have; none where nothing is left of it.
pub(crate) fn plain_name(text: &str, limit: usize) -> Option<String> {
    let mut name = String::new();
    for letter in text.to_lowercase().chars() {
        if letter.is_ascii_alphanumeric() {
            name.push(letter);
        } else if !name.is_empty() && !name.ends_with('-') {
            name.push('-');
        }
    }
    let name: String = name.chars().take(limit).collect();
    let name = name.trim_end_matches('-');
    (!name.is_empty()).then(|| name.to_owned())
}

/// What a diff of the configuration shows.
pub(crate) fn difference(old: &str, new: &str, file: &str) -> String {
    let diff = similar::TextDiff::from_lines(old, new);
    diff.unified_diff()
        .context_radius(3)
        .header(file, file)
        .to_string()
}
