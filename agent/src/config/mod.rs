//! Configuration in three stages: fragment (what a file may say), inputs (merged), settings (valid and typed).

pub mod settings;

pub use self::settings::Settings;
