//! Machines with an init of their own: the real systemd, and the agent as an image has it, from its package.

mod bus;
mod credentials;
mod disk;
mod first;
mod identity;
mod machine;
mod metadata;
mod name;
mod package;
mod power;
mod threats;
mod unit;
