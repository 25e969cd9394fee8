//! Puts a devbox or a CI runner on its owner's tailnet, and keeps it there, with no stored secret.

/// The command line, one file a verb.
pub mod cli;
/// Time, passed in like every other edge.
pub mod clock;
/// Configuration: what files say, merged, then valid and typed.
pub mod config;
/// The rules: what is known, what is wanted, what is done.
pub mod core;
/// One command on a node of its own.
pub mod exec;
/// Tokens traded for keys.
pub mod federation;
/// Files replaced as a whole, and read with care.
pub mod files;
/// Requests that trust nothing about the other side.
pub mod http;
/// The record and the names that stay the same.
pub mod identity;
/// What this machine is.
pub mod metadata;
/// What needs root.
pub mod privilege;
/// What the platform is told.
pub mod report;
/// When to try again.
pub mod retry;
/// Credentials that cannot be printed.
pub mod secret;
/// The local API.
pub mod socket;
/// What the kernel offers and no safe wrapper covers.
pub mod sys;
/// systemd and its companions.
pub mod systemd;
/// The real tailscaled.
pub mod tailscaled;
