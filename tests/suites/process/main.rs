//! The real agent program against a tailscaled that only stands in, phase by phase: what happens, what the agent asks of LocalAPI, what it says.
//! Any request that tailscaled does not know, or that is not shaped as it has to be, fails the story.

mod daemon;
mod join;
mod local_api;
mod refusals;
mod service;
mod stage;
