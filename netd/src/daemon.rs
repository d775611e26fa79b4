//! The daemon: configuration in, networks running, until told to stop.
