//! Machines with an init of their own: the real systemd, and the agent as an image has it, from its package.

mod bus;
mod first;
mod machine;
mod name;
mod power;
mod unit;
