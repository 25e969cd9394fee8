//! Machines with an init of their own: the real systemd, and the agent as an image has it, from its package.

mod first;
mod machine;
