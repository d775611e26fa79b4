//! What compose says about a project, and what of it is another path in the guest. Pure.

use std::ffi::OsStr;

use control::translation::words::{Map, Volume, bind_source};
use serde_json::{Map as Object, Value, json};

use super::Change;
use crate::error::{CliError, Outcome};

/// The file to add; none where nothing is different.
pub(super) fn overlay(
    said: &str,
    map: &Map<'_>,
    changes: &mut Vec<Change>,
) -> Outcome<Option<String>> {
    let said: Value = serde_saphyr::from_str(said).map_err(|error| {
        CliError::failure(
            format!("compose's own answer is no YAML: {error}"),
            "report this, with docker compose config",
        )
    })?;
    let mut overlay = Object::new();
    let mut build_secrets = Vec::new();
    let mut services = Object::new();
    for (name, service) in entries(&said, "services") {
        let mut volumes = Vec::new();
        for (index, volume) in list(service, "volumes").iter().enumerate() {
            let place = format!("services.{name}.volumes[{index}]");
            volumes.extend(changed_volume(volume, &place, map, changes)?);
        }
        if !volumes.is_empty() {
            services.insert(name.clone(), json!({ "volumes": volumes }));
        }
        let secrets = service
            .get("build")
            .map(|build| list(build, "secrets"))
            .unwrap_or_default();
        build_secrets.extend(secrets.iter().filter_map(|secret| {
            let name = secret.as_str().or_else(|| secret.get("source")?.as_str());
            name.map(str::to_owned)
        }));
    }
    insert(&mut overlay, "services", services);
    let mut volumes = Object::new();
    for (name, volume) in entries(&said, "volumes") {
        let options = volume.get("driver_opts").and_then(Value::as_object);
        let Some(options) = options.filter(|options| is_bind(options)) else {
            continue;
        };
        let place = format!("volumes.{name}.driver_opts.device");
        if let Some(device) = changed(options.get("device"), "bind", &place, map, changes)? {
            volumes.insert(name.clone(), json!({ "driver_opts": { "device": device } }));
        }
    }
    insert(&mut overlay, "volumes", volumes);
    for kind in ["secrets", "configs"] {
        let mut files = Object::new();
        // What a build reads, the client reads on this host.
        let read_by_engine = |name: &String| kind != "secrets" || !build_secrets.contains(name);
        for (name, entry) in entries(&said, kind).filter(|(name, _)| read_by_engine(name)) {
            let place = format!("{kind}.{name}.file");
            if let Some(file) = changed(entry.get("file"), "file", &place, map, changes)? {
                files.insert(name.clone(), json!({ "file": file }));
            }
        }
        insert(&mut overlay, kind, files);
    }
    if overlay.is_empty() {
        return Ok(None);
    }
    // The old compose wants the same version in all files, the new one none.
    if let Some(version) = said.get("version") {
        overlay.insert("version".to_owned(), version.clone());
    }
    let text = serde_json::to_string_pretty(&Value::Object(overlay))?;
    Ok(Some(format!("{text}\n")))
}

/// A volume of a service with another source; compose puts it in the place of the one with the same target.
fn changed_volume(
    volume: &Value,
    place: &str,
    map: &Map<'_>,
    changes: &mut Vec<Change>,
) -> Outcome<Option<Value>> {
    match volume {
        Value::String(text) => {
            let text = plain(text);
            let read = Volume::read(text.as_bytes()).map_err(|error| at(place, error.into()))?;
            let Volume::Bind(source, behind) = read else {
                return Ok(None);
            };
            let source = Value::from(String::from_utf8_lossy(source));
            let source = changed(Some(&source), "bind", place, map, changes)?;
            let behind = String::from_utf8_lossy(behind);
            let Some(source) = source else {
                return Ok(None);
            };
            let mut parts = behind.trim_start_matches(':').rsplitn(2, ':');
            let (last, first) = (parts.next().unwrap_or_default(), parts.next());
            let (target, options) = first.map_or((last, ""), |target| (target, last));
            Ok(Some(long(&source, target, options)))
        }
        Value::Object(fields) if fields.get("type").is_some_and(|kind| kind == "bind") => {
            let source = changed(fields.get("source"), "bind", place, map, changes)?;
            Ok(source.map(|source| {
                let mut fields = fields.clone();
                fields.insert("source".to_owned(), source.into());
                Value::Object(fields)
            }))
        }
        // A named volume, a tmpfs, a pipe: nothing of a folder.
        Value::Object(_) | Value::Null | Value::Bool(_) | Value::Number(_) | Value::Array(_) => {
            Ok(None)
        }
    }
}

/// The short form would take a `:` in the source for its end.
fn long(source: &str, target: &str, options: &str) -> Value {
    let mut fields = Object::new();
    fields.insert("type".to_owned(), "bind".into());
    fields.insert("source".to_owned(), source.into());
    fields.insert("target".to_owned(), target.into());
    let mut bind = Object::new();
    for option in options.split(',') {
        match option {
            "ro" => drop(fields.insert("read_only".to_owned(), true.into())),
            "z" | "Z" => drop(bind.insert("selinux".to_owned(), option.into())),
            "private" | "rprivate" | "shared" | "rshared" | "slave" | "rslave" => {
                drop(bind.insert("propagation".to_owned(), option.into()));
            }
            // `rw` is the default, and there is nothing else for a bind on Linux.
            _another => {}
        }
    }
    if !bind.is_empty() {
        fields.insert("bind".to_owned(), Value::Object(bind));
    }
    Value::Object(fields)
}

/// The path in the guest, as compose reads it, if it is another one.
fn changed(
    value: Option<&Value>,
    rule: &str,
    place: &str,
    map: &Map<'_>,
    changes: &mut Vec<Change>,
) -> Outcome<Option<String>> {
    let Some(path) = value.and_then(Value::as_str) else {
        return Ok(None);
    };
    let path = plain(path);
    let mapped = bind_source(path.as_bytes(), map).map_err(|error| at(place, error.into()))?;
    let Some(mapped) = mapped else {
        return Ok(None);
    };
    let mapped = String::from_utf8(mapped).map_err(|_| {
        CliError::failure(
            format!("{place}: the guest's path is not UTF-8"),
            "rename the folder",
        )
    })?;
    changes.push(Change::new(
        place.to_owned(),
        rule,
        OsStr::new(&path),
        OsStr::new(&mapped),
    ));
    Ok(Some(mapped.replace('$', "$$")))
}

/// Compose writes a `$` twice, as its files have it.
fn plain(text: &str) -> String {
    text.replace("$$", "$")
}

/// `o` of the local driver says `bind`.
fn is_bind(options: &Object<String, Value>) -> bool {
    let words = options.get("o").and_then(Value::as_str).unwrap_or_default();
    words
        .split(',')
        .any(|word| matches!(word, "bind" | "rbind"))
}

fn at(place: &str, error: CliError) -> CliError {
    CliError {
        message: format!("{place}: {}", error.message),
        ..error
    }
}

fn entries<'v>(value: &'v Value, key: &str) -> impl Iterator<Item = (&'v String, &'v Value)> {
    value
        .get(key)
        .and_then(Value::as_object)
        .into_iter()
        .flatten()
}

fn list<'v>(value: &'v Value, key: &str) -> &'v [Value] {
    value
        .get(key)
        .and_then(Value::as_array)
        .map(Vec::as_slice)
        .unwrap_or_default()
}

fn insert(overlay: &mut Object<String, Value>, key: &str, entries: Object<String, Value>) {
    if !entries.is_empty() {
        overlay.insert(key.to_owned(), Value::Object(entries));
    }
}
