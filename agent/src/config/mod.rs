//! Configuration in three stages: fragment (what a file may say), inputs (merged), settings (valid and typed).

pub mod settings;

pub use self::settings::Settings;

/// The control server as preferences and records spell it: without a trailing slash, which tailscaled would keep (federation trap `//api`).
pub fn control_url(settings: &Settings) -> String {
    settings.tailnet.control_url.as_str().trim_end_matches('/').to_owned()
}
