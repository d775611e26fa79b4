//! A share through 9P, by the bytes of a client.
