//! Machines whose platform is somebody else's: where each provider has its token from, joined by it for real, and what is said when there is none.

mod azure;
mod descriptor;
mod gce;
mod github;
mod namespace;
