//! The form of JSON output: what is printed keeps to it, and it keeps its fields.

use std::collections::BTreeSet;

use control::paths::Daemon;
use serde_json::Value;

use crate::fake::{Fake, Script};
use crate::place::{CONFIG, Place};

/// Every field of every output, a line each: those of a `$ref` where it is used, but not below itself.
fn fields(root: &Value, schema: &Value, path: &str, depth: usize, into: &mut BTreeSet<String>) {
    if depth > 12 {
        return;
    }
    if let Some(place) = schema.get("$ref").and_then(Value::as_str) {
        let place = place.strip_prefix('#').unwrap();
        fields(root, root.pointer(place).unwrap(), path, depth + 1, into);
    }
    for word in ["anyOf", "oneOf", "allOf"] {
        for part in schema
            .get(word)
            .and_then(Value::as_array)
            .into_iter()
            .flatten()
        {
            fields(root, part, path, depth + 1, into);
        }
    }
    if let Some(items) = schema.get("items") {
        fields(root, items, &format!("{path}[]"), depth + 1, into);
    }
    let properties = schema.get("properties").and_then(Value::as_object);
    for (name, property) in properties.into_iter().flatten() {
        let path = format!("{path}.{name}");
        into.insert(path.clone());
        fields(root, property, &path, depth + 1, into);
    }
}

fn schema(place: &Place, command: &str) -> Value {
    place
        .run(&format!("schema {command} --format json"))
        .exits(0)
        .json()
}

fn commands(place: &Place) -> Vec<String> {
    let listed = place.run("-q schema").exits(0).stdout.clone();
    listed.lines().map(str::to_owned).collect()
}

/// Who reads our JSON relies on them: a line may be added here, and none be taken away.
#[test]
fn no_field_is_taken_away() {
    let place = Place::empty();
    let mut all = BTreeSet::new();
    for command in commands(&place) {
        let schema = schema(&place, &command);
        assert_eq!(schema["title"], format!("sharectl {command}"));
        fields(&schema, &schema, &command, 0, &mut all);
    }
    let lines: String = all.iter().map(|line| format!("{line}\n")).collect();
    expect_test::expect_file!["schema.txt"].assert_eq(&lines);
}

#[test]
fn what_is_printed_keeps_to_it() {
    let place = Place::with(&format!("{CONFIG}[share.src]\npath = \"/tmp\"\n"));
    let commands: BTreeSet<String> = commands(&place).into_iter().collect();
    let up = Script {
        plugged: true,
        ..Script::default()
    };
    let check = |down: bool| {
        for (line, command) in [
            ("config path", "config path"),
            ("describe dev", "describe"),
            ("describe src", "describe"),
            ("describe vmnet8", "describe"),
            ("describe local.test", "describe"),
            ("doctor config programs daemon share", "doctor"),
            ("guest args dev", "guest args"),
            ("guest ls", "guest ls"),
            ("guest mounts dev", "guest mounts"),
            ("host ls", "host ls"),
            ("network inspect vmnet8", "network inspect"),
            ("network ls", "network ls"),
            ("path to-guest /tmp/x /nowhere", "path to-guest"),
            ("path to-host --guest dev /tmp/x", "path to-host"),
            ("wait-ready --timeout 0s", "wait-ready"),
            ("exec --dry-run -- ls /tmp/x", "exec"),
            ("port explain 8080", "port explain"),
            ("port ls", "port ls"),
            ("ps", "ps"),
            ("share ls", "share ls"),
            ("status", "status"),
            // These ask a daemon.
            ("events", "events"),
            ("host diff", "host diff"),
            ("host sync", "host sync"),
            ("host sync --dry-run", "host sync"),
            ("network flows vmnet8", "network flows"),
            ("network policy dev good.example:443", "network policy"),
            ("network dns local.test", "network dns"),
        ] {
            assert!(commands.contains(command), "{command}");
            let outcome = place.run(&format!("--format json {line}"));
            let text = &outcome.stdout;
            if text.is_empty() {
                assert!(down, "{line} printed nothing: exit {:?}", outcome.code);
                continue;
            }
            let schema = schema(&place, command);
            let validator = jsonschema::validator_for(&schema).unwrap();
            let values = serde_json::Deserializer::from_str(text).into_iter::<Value>();
            for value in values {
                let value = value.unwrap();
                let errors: Vec<String> = validator
                    .iter_errors(&value)
                    .map(|error| format!("{}: {error}", error.instance_path))
                    .collect();
                assert!(errors.is_empty(), "{line}: {errors:?}\n{value:#}");
            }
        }
    };
    check(true);
    let _netd = Fake::start(&place, Daemon::Netd, up.clone());
    let _sharefs = Fake::start(&place, Daemon::Sharefs, up.clone());
    let _hostsync = Fake::start(&place, Daemon::Hostsync, up);
    check(false);
}

#[test]
fn a_schema_that_is_not_there_is_told_with_the_nearest() {
    let place = Place::empty();
    place
        .run("schema gest ls")
        .exits(1)
        .says("did you mean \"guest ls\"?");
    place.run("schema nothing").exits(1).says("sharectl schema");
}
