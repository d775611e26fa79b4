//! The fuzz targets' committed inputs, past crashes among them, through every target on every test run.
//!
//! A corpus is a text file, one input a line in hexadecimal, `#` and a sentence above what deserves one.
#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::wildcard_enum_match_arm,
    reason = "a broken invariant is a failed test"
)]

#[path = "../fuzz/targets/mod.rs"]
mod targets;

use std::path::Path;

fn inputs(name: &str) -> Vec<Vec<u8>> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("fuzz/corpus/{name}.hex"));
    let text = std::fs::read_to_string(&path)
        .unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    text.lines()
        .filter(|line| !line.starts_with('#'))
        .map(|line| {
            let digit = |at: usize| u8::from_str_radix(&line[at..at + 2], 16);
            let bytes: Result<_, _> = (0..line.len()).step_by(2).map(digit).collect();
            bytes.unwrap_or_else(|error| panic!("{}: {line}: {error}", path.display()))
        })
        .collect()
}

#[test]
fn no_input_of_the_corpora_breaks_an_invariant() {
    for target in targets::ALL {
        let inputs = inputs(target.name);
        assert!(!inputs.is_empty(), "{} has no corpus", target.name);
        for input in inputs {
            (target.run)(&input);
        }
        (target.run)(&[]);
    }
}
