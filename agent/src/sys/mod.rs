//! The only `unsafe` of the project: system calls that the libraries do not wrap.

pub mod async_fd;
pub mod peer_groups;
