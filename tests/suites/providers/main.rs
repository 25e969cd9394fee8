//! Machines whose platform is somebody else's: where each provider has its token from, joined by it for real, and what is said when there is none.

mod github;
mod namespace;
