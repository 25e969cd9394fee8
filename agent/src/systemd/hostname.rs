//! The file of the machine's static name (hostname(5)).

use std::path::Path;

/// Where it is.
pub const HOSTNAME_FILE: &str = "/etc/hostname";

/// Whether the file has this name. One that cannot be read has none: what is wrong with it is hostnamed's to say.
pub fn says(file: &Path, name: &str) -> bool {
    let is_name = |line: &&str| !line.is_empty() && !line.starts_with('#');
    std::fs::read_to_string(file).is_ok_and(|text| text.lines().map(str::trim).find(is_name) == Some(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_line_that_is_no_comment_is_the_name() {
        let directory = tempfile::tempdir().expect("a directory");
        let file = directory.path().join("hostname");
        assert!(!says(&file, "web"), "there is no file");
        for (text, is_web) in [
            ("web\n", true),
            ("# a comment\n\n  web  \nother\n", true),
            ("web-2\n", false),
            ("#web\n", false),
            ("", false),
        ] {
            std::fs::write(&file, text).expect("written");
            assert_eq!(says(&file, "web"), is_web, "{text:?}");
        }
    }
}
