//! Prometheus' text format 0.0.4 as its own checker (promtool check metrics) reads it: names, help and type
//! once and in front, no family in two places, labels well formed, no line twice.

use std::collections::BTreeSet;

use anyhow::{Context, Result, bail, ensure};

/// The samples of a page: name with labels, and value.
///
/// # Errors
/// The first line that is not as the format says.
pub fn samples(page: &str) -> Result<Vec<(String, f64)>> {
    let mut found = Vec::new();
    let mut families = BTreeSet::new();
    let mut seen = BTreeSet::new();
    let mut family: Option<(String, bool)> = None;
    let mut helped = None;
    for line in page.lines() {
        let about = || format!("line {line:?}");
        if let Some(rest) = line.strip_prefix("# HELP ") {
            let (name, help) = rest.split_once(' ').with_context(about)?;
            ensure!(!help.trim().is_empty(), "no help: {}", about());
            ensure!(families.insert(name.to_owned()), "twice: {}", about());
            helped = Some(name.to_owned());
        } else if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (name, kind) = rest.split_once(' ').with_context(about)?;
            ensure!(
                helped.as_deref() == Some(name),
                "no help before: {}",
                about()
            );
            ensure!(matches!(kind, "counter" | "gauge"), "kind: {}", about());
            ensure!(
                (kind == "counter") == name.ends_with("_total"),
                "counters and only they end in _total: {}",
                about()
            );
            family = Some((name.to_owned(), kind == "counter"));
        } else {
            let (name, value) = line.rsplit_once(' ').with_context(about)?;
            let value: f64 = value.parse().with_context(about)?;
            let bare = name.split('{').next().unwrap_or_default();
            let Some((current, counter)) = &family else {
                bail!("no type before: {}", about());
            };
            ensure!(bare == current, "outside its family: {}", about());
            ensure!(!counter || value >= 0.0, "negative: {}", about());
            ensure!(
                bare.bytes()
                    .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_'),
                "name: {}",
                about()
            );
            labels(name).with_context(about)?;
            ensure!(seen.insert(name.to_owned()), "twice: {}", about());
            found.push((name.to_owned(), value));
        }
    }
    ensure!(page.ends_with('\n'), "no end of line at the end");
    Ok(found)
}

fn labels(name: &str) -> Result<()> {
    let Some((_, rest)) = name.split_once('{') else {
        return Ok(());
    };
    let mut rest = rest.strip_suffix('}').context("no closing brace")?;
    loop {
        let (label, after) = rest.split_once("=\"").context("no value")?;
        let good = |byte: u8| byte.is_ascii_lowercase() || byte == b'_';
        ensure!(
            !label.is_empty() && label.bytes().all(good),
            "label {label:?}"
        );
        let mut end = None;
        let mut escaped = false;
        for (index, byte) in after.bytes().enumerate() {
            match (escaped, byte) {
                (true, b'\\' | b'"' | b'n') => escaped = false,
                (true, _) => bail!("escape in {after:?}"),
                (false, b'\\') => escaped = true,
                (false, b'"') => {
                    end = Some(index);
                    break;
                }
                (false, _) => {}
            }
        }
        let end = end.context("no closing quote")?;
        rest = &after[end + 1..];
        match rest.strip_prefix(',') {
            Some(more) => rest = more,
            None => {
                ensure!(rest.is_empty(), "behind a value: {rest:?}");
                return Ok(());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn good_pages_pass_and_bad_ones_do_not() {
        let head = "# HELP a_total h\n# TYPE a_total counter\n";
        let good = format!("{head}a_total{{x=\"1\",y=\"\\\"\\\\\\n\"}} 1\na_total 2\n");
        assert_eq!(samples(&good).unwrap().len(), 2);
        for bad in [
            "a_total 1\n".to_owned(),
            format!("{head}b_total 1\n"),
            format!("{head}a_total 1\na_total 1\n"),
            format!("{head}a_total{{x=1}} 1\n"),
            format!("{head}a_total{{x=\"1\"y=\"2\"}} 1\n"),
            format!("{head}a_total x\n"),
            format!("{head}{head}a_total 1\n"),
            "# HELP a h\n# TYPE a counter\na 1\n".to_owned(),
            "# TYPE a gauge\na 1\n".to_owned(),
            format!("{head}a_total 1"),
        ] {
            assert!(samples(&bad).is_err(), "{bad}");
        }
    }
}
