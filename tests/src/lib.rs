//! lab lib.
