//! Reports to the platform: the document in an envelope, and its publisher.
