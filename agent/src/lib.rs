//! Puts this machine on its owner's tailnet.
