//! systemd and its companions over D-Bus: units and jobs (PID 1), sleep and shutdown (logind), the host name (hostnamed).

pub mod proxies;
