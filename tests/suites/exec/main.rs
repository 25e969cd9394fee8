//! `devbox-agent exec` with real parts: what an ordinary user's commands reach and cannot reach, what they do not notice, and what is left of
//! them.

mod job;
mod peer;
mod terminal;
mod tree;

mod commands;
mod signals;
mod terminals;
