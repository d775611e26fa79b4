//! Egress rules and rate limits of networks and guests.

use super::super::problem::Findings;
use super::super::raw::{At, RawGuest, RawNetwork, RawRateLimit};
use super::super::{GuestEgress, NetworkEgress};
use super::{read, read_word};
use crate::egress::{EgressRule, NamePolicy, Verdict};
use crate::rate::{BitRate, RateLimit};

/// Every rule is looked at for every new flow.
const MOST_RULES: usize = 1_024;

pub(super) fn of_network(
    raw: &RawNetwork,
    owner: &str,
    findings: &mut Findings<'_>,
) -> NetworkEgress {
    let names = [("allowed", NamePolicy::Allowed), ("all", NamePolicy::All)];
    let names = raw
        .egress_names
        .as_ref()
        .and_then(|word| read_word(findings, (owner, "egress-names"), word, &names));
    NetworkEgress {
        default: verdict(raw.egress.as_ref(), owner, findings).unwrap_or(Verdict::Allow),
        rules: rules(&raw.egress_rules, owner, findings),
        names: names.unwrap_or(NamePolicy::Allowed),
    }
}

pub(super) fn of_guest(raw: &RawGuest, owner: &str, findings: &mut Findings<'_>) -> GuestEgress {
    GuestEgress {
        default: verdict(raw.egress.as_ref(), owner, findings),
        rules: rules(&raw.egress_rules, owner, findings),
    }
}

fn verdict(raw: Option<&At<String>>, owner: &str, findings: &mut Findings<'_>) -> Option<Verdict> {
    let words = [("allow", Verdict::Allow), ("deny", Verdict::Deny)];
    read_word(findings, (owner, "egress"), raw?, &words)
}

fn rules(raw: &[At<String>], owner: &str, findings: &mut Findings<'_>) -> Vec<EgressRule> {
    if let Some(first_too_many) = raw.get(MOST_RULES) {
        findings.add(
            Some(first_too_many.offset()),
            format!("{owner}: egress-rules has {} rules", raw.len()),
            format!("write at most {MOST_RULES}; one network such as 10.0.0.0/8 covers many"),
        );
        return Vec::new();
    }
    let rules = raw
        .iter()
        .filter_map(|text| read(findings, owner, "egress-rules", text));
    rules.collect()
}

pub(super) fn rate_limit(
    raw: Option<&At<RawRateLimit>>,
    owner: &str,
    findings: &mut Findings<'_>,
) -> RateLimit {
    let Some(raw) = raw else {
        return RateLimit::default();
    };
    let mut rate = |text: &String| match text.parse::<BitRate>() {
        Ok(rate) => Some(rate),
        Err(error) => {
            findings.add(
                Some(raw.offset()),
                format!("{owner}: rate-limit: {error}"),
                "",
            );
            None
        }
    };
    match raw.value() {
        RawRateLimit::Both(text) => {
            let both = rate(text);
            RateLimit {
                up: both,
                down: both,
            }
        }
        RawRateLimit::Each(each) => RateLimit {
            up: each.up.as_ref().and_then(&mut rate),
            down: each.down.as_ref().and_then(&mut rate),
        },
    }
}
