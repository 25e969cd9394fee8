//! A machine that is in the tailnet by a person's hand, and what it serves.
