//! `devbox-agent exec` with real parts: what an ordinary user's commands reach and cannot reach, what they do not notice, and what is left of
//! them.

mod arrivals;
mod job;
mod peer;
mod public;
mod terminal;
mod tree;
mod workflow;

mod action;
mod commands;
mod death;
mod denied;
mod hidden;
mod lent;
mod many;
mod preflight;
mod reach;
mod routes;
mod secrets;
mod signals;
mod terminals;
mod walls;
