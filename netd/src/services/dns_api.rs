//! `GET /v1/networks/{network}/dns`: what a guest is told about a name, and who says so.

use std::net::IpAddr;
use std::sync::Arc;

use control::api::DnsAnswer;
use control::failure::Failure;
use control::names::NetworkName;
use control::server::{Api, Params};

use crate::services::name_server::{PLAIN_KINDS, reverse_name};
use crate::services::state::State;
use crate::wire::dns::kind;
use crate::wire::dns_read::{parse_kind, parse_name};

pub(super) fn add_routes(api: Api<Arc<State>>) -> Api<Arc<State>> {
    api.get(
        "/v1/networks/{network}/dns",
        "What a guest is told about the name or address ?name=, of one type with &type=",
        async |state: Arc<State>, params: Params| explain(&state, &params).await,
    )
}

async fn explain(state: &State, params: &Params) -> Result<Vec<DnsAnswer>, Failure> {
    let network: NetworkName = params.required("network")?;
    let network = state.network(&network)?;
    let text: String = params.required("name")?;
    let address = text.parse::<IpAddr>().ok();
    let name = match address {
        Some(address) => reverse_name(address),
        None => parse_name(&text).ok_or_else(|| {
            Failure::invalid(format!("\"{}\" is no DNS name", text.escape_debug()))
        })?,
    };
    let kinds = match params.optional::<String>("type")? {
        Some(text) => vec![parse_kind(&text).ok_or_else(|| {
            Failure::invalid(format!("\"{}\" is no DNS type", text.escape_debug()))
                .with_hint("write A, AAAA, CNAME, MX, TXT, ..., or TYPE and its number")
        })?],
        None if address.is_some() => vec![kind::PTR],
        None => PLAIN_KINDS.to_vec(),
    };
    let ask = async |kind: Option<&u16>| match kind {
        Some(kind) => {
            let names = network.names();
            Some(names.explain(network.name(), &name, *kind).await)
        }
        None => None,
    };
    // Both at a time: together they take no longer than one that nobody answers.
    let (first, second) = tokio::join!(ask(kinds.first()), ask(kinds.get(1)));
    Ok(first.into_iter().chain(second).collect())
}
