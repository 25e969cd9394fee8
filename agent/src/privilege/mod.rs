//! What needs root: a fixed list of verbs, the helper that carries them out, and the client that asks.

pub mod request;
