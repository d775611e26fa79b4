//! The form of JSON output: what is printed keeps to it, and it keeps its fields.

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;
use std::sync::{Arc, LazyLock, Mutex};

use serde_json::Value;

use crate::place::Place;

/// Every field of every output, a line each: those of a `$ref` where it is used, but not below itself. The keys of a
/// map are `*`; below `**` is whatever a daemon or a file says.
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
    let items = schema.get("items").into_iter();
    let members = schema.get("prefixItems").and_then(Value::as_array);
    for item in items.chain(members.into_iter().flatten()) {
        fields(root, item, &format!("{path}[]"), depth + 1, into);
    }
    let by_pattern = schema.get("patternProperties").and_then(Value::as_object);
    let keys = by_pattern
        .into_iter()
        .flat_map(|patterns| patterns.values());
    for member in keys.chain(schema.get("additionalProperties")) {
        if member.as_bool() != Some(false) {
            into.insert(format!("{path}.*"));
            fields(root, member, &format!("{path}.*"), depth + 1, into);
        }
    }
    // The form of some other thing, such as of a schema.
    let is_object = match schema.get("type") {
        Some(Value::Array(kinds)) => kinds.iter().any(|kind| kind == "object"),
        Some(kind) => kind == "object",
        None => false,
    };
    let says_nothing = schema.as_object().is_some_and(|words| {
        let notes = ["description", "title", "default", "$schema"];
        let inside = [
            "properties",
            "additionalProperties",
            "patternProperties",
            "oneOf",
            "anyOf",
            "allOf",
            "$ref",
        ];
        words.keys().all(|word| notes.contains(&word.as_str()))
            || (is_object && !inside.iter().any(|word| words.contains_key(*word)))
    });
    if schema.as_bool() == Some(true) || says_nothing {
        into.insert(format!("{path}**"));
    }
    let properties = schema.get("properties").and_then(Value::as_object);
    for (name, property) in properties.into_iter().flatten() {
        let path = format!("{path}.{name}");
        into.insert(path.clone());
        fields(root, property, &path, depth + 1, into);
    }
}

/// Schemas by their commands, each made once in this process.
fn schema(command: &str) -> Option<Arc<Value>> {
    type Known = Mutex<BTreeMap<String, Option<Arc<Value>>>>;
    static KNOWN: LazyLock<Known> = LazyLock::new(Mutex::default);
    let mut known = KNOWN.lock().unwrap();
    let make = || {
        let output = Command::new(env!("CARGO_BIN_EXE_sharectl"))
            .arg("schema")
            .args(command.split(' '))
            .output()
            .unwrap();
        let made = output.status.success();
        made.then(|| Arc::new(serde_json::from_slice(&output.stdout).unwrap()))
    };
    known.entry(command.to_owned()).or_insert_with(make).clone()
}

pub(crate) fn commands() -> Vec<String> {
    let place = Place::empty();
    let listed = place.run("-q schema").exits(0).stdout.clone();
    listed.lines().map(str::to_owned).collect()
}

/// The places in a value, as [`fields`] writes them.
fn places(value: &Value, path: &str, into: &mut BTreeSet<String>) {
    match value {
        Value::Array(items) => {
            for item in items {
                places(item, &format!("{path}[]"), into);
            }
        }
        Value::Object(members) => {
            for (name, member) in members {
                // A map's key may have dots in it.
                let path = format!("{path}.{}", name.replace('.', "_"));
                into.insert(path.clone());
                places(member, &path, into);
            }
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

/// Whether the schema tells of the place, or says of one above it that anything may be there.
fn is_told(place: &str, told: &BTreeSet<String>) -> bool {
    let fits = |pattern: &String| {
        if let Some(above) = pattern.strip_suffix("**") {
            return place.starts_with(above);
        }
        let (pattern, place) = (pattern.split('.'), place.split('.'));
        let same = |word: &str, other: &str| match word.strip_prefix('*') {
            Some(end) => other.ends_with(end),
            None => word == other,
        };
        pattern.clone().count() == place.clone().count()
            && pattern.zip(place).all(|(word, other)| same(word, other))
    };
    told.contains(place) || told.iter().any(fits)
}

/// Checks what a command printed under `--format json` against its schema: the values, and that no field is
/// printed that the schema does not have.
pub(crate) fn check(command: &str, text: &str) {
    let schema = schema(command).unwrap_or_else(|| panic!("sharectl schema {command} fails"));
    let validator = jsonschema::validator_for(&schema).unwrap();
    let mut told = BTreeSet::new();
    fields(&schema, &schema, command, 0, &mut told);
    let values = serde_json::Deserializer::from_str(text).into_iter::<Value>();
    for value in values {
        let value = value.unwrap_or_else(|error| panic!("{command}: {error} in\n{text}"));
        let errors: Vec<String> = validator
            .iter_errors(&value)
            .map(|error| format!("{}: {error}", error.instance_path))
            .collect();
        assert!(errors.is_empty(), "{command}: {errors:?}\n{value:#}");
        let mut printed = BTreeSet::new();
        places(&value, command, &mut printed);
        for place in printed {
            assert!(
                is_told(&place, &told),
                "{place} is not in the schema of {command}"
            );
        }
    }
}

/// The command of a line with `--format json` whose output is ours.
pub(crate) fn command_of(line: &[String]) -> Option<String> {
    let line: Vec<&str> = line.iter().map(String::as_str).collect();
    let ours = line.split(|word| *word == "--").next()?;
    let is_json = ours.windows(2).any(|pair| pair == ["--format", "json"]);
    if !is_json {
        return None;
    }
    // The output of another program, or frames.
    let others = ["exec", "compose", "guest run", "network capture"];
    let (mut words, mut skip) = (Vec::new(), false);
    for word in ours {
        if std::mem::take(&mut skip) {
            continue;
        }
        skip = matches!(*word, "--format" | "--config");
        if !word.starts_with('-') {
            words.push(*word);
        }
    }
    let longest = (1..=words.len().min(3)).rev();
    let known = longest.map(|count| words[..count].join(" "));
    let known = known.into_iter().find(|typed| schema(typed).is_some())?;
    let is_others = others.contains(&known.as_str()) && !ours.contains(&"--dry-run");
    (!is_others).then_some(known)
}

/// Who reads our JSON relies on them: a line may be added here, and none be taken away.
#[test]
fn no_field_is_taken_away() {
    let mut all = BTreeSet::new();
    for command in commands() {
        let schema = schema(&command).unwrap();
        assert_eq!(schema["title"], format!("sharectl {command}"));
        // A schema's own schema is not ours.
        if !["schema", "config schema"].contains(&command.as_str()) {
            fields(&schema, &schema, &command, 0, &mut all);
        }
    }
    let lines: String = all.iter().map(|line| format!("{line}\n")).collect();
    expect_test::expect_file!["schema.txt"].assert_eq(&lines);
}

#[test]
fn a_schema_that_is_not_there_is_told_with_the_nearest() {
    let place = Place::empty();
    place
        .run("schema gest ls")
        .exits(1)
        .says("did you mean \"guest ls\"?");
    place.run("schema nothing").exits(1).says("sharectl schema");
    place
        .run("schema guest list")
        .exits(0)
        .says("sharectl guest ls");
    place
        .run("schema completions")
        .exits(1)
        .says("prints a script for the shell");
}
