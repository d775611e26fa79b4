//! Each parser of netd (and of the configuration that it reads) behind one function from bytes to nothing: it
//! panics when an invariant breaks. `cargo test` replays the committed corpora through them
//! (`netd/tests/corpus.rs`), `cargo xtask fuzz` looks for new inputs.

mod frames;
mod messages;
mod text;

/// What libFuzzer and the replay call.
pub(crate) struct Target {
    /// Also the name of its corpus, `netd/fuzz/corpus/NAME.hex`.
    pub(crate) name: &'static str,
    /// Takes any bytes.
    pub(crate) run: fn(&[u8]),
}

/// All of them.
pub(crate) const ALL: &[Target] = &[
    Target {
        name: "frames",
        run: frames::frames,
    },
    Target {
        name: "stream",
        run: frames::stream,
    },
    Target {
        name: "offload",
        run: frames::offload,
    },
    Target {
        name: "dhcp",
        run: messages::dhcp,
    },
    Target {
        name: "dhcp6",
        run: messages::dhcp6,
    },
    Target {
        name: "dns-query",
        run: messages::dns_query,
    },
    Target {
        name: "dns-answer",
        run: messages::dns_answer,
    },
    Target {
        name: "config",
        run: text::config,
    },
    Target {
        name: "words",
        run: text::words,
    },
];
