//! What must be survived, on real parts: each fault shows by its code in the status and in the report, keeps to its budget of requests,
//! and once it is lifted the machine comes online by itself, as exactly one node.

mod api;
mod control;
mod metadata;
mod network;
mod patient;
mod reports;
mod token;
