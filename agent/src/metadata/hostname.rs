//! From a name people gave to a name DNS takes.

/// The longest DNS label (RFC 1035 §2.3.4).
const LABEL_MAX: usize = 63;

/// Makes an RFC 1123 label of `name`, always the same one, or `None` when nothing of it can stand in a label.
///
/// ASCII letters become lower case; digits stay; each run of anything else becomes one hyphen; hyphens at the ends go; what is left is
/// cut to 63 characters.
pub fn sanitise(name: &str) -> Option<String> {
    let mut label = String::new();
    for c in name.chars() {
        if c.is_ascii_alphanumeric() {
            label.push(c.to_ascii_lowercase());
        } else if !label.is_empty() && !label.ends_with('-') {
            label.push('-');
        }
        if label.len() == LABEL_MAX {
            break;
        }
    }
    let label = label.trim_end_matches('-');
    (!label.is_empty()).then(|| label.to_owned())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn people_s_names_become_labels() {
        for (name, label) in [
            ("web-api", Some("web-api")),
            ("Web API (staging)", Some("web-api-staging")),
            ("i_4f2c.acme", Some("i-4f2c-acme")),
            ("  --x--  ", Some("x")),
            ("caf\u{e9} 9", Some("caf-9")),
            ("a\0b\nc", Some("a-b-c")),
            ("\u{65e5}\u{672c}", None),
            ("---", None),
            ("", None),
        ] {
            assert_eq!(sanitise(name).as_deref(), label, "{name:?}");
        }
    }

    #[test]
    fn a_cut_leaves_no_hyphen_at_the_end() {
        assert_eq!(sanitise(&format!("{}-tail", "a".repeat(62))), Some("a".repeat(62)));
        assert_eq!(sanitise(&"a".repeat(300)), Some("a".repeat(63)));
    }

    fn is_label(text: &str) -> bool {
        let inner = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
        (1..=63).contains(&text.len()) && text.chars().all(inner) && !text.starts_with('-') && !text.ends_with('-')
    }

    proptest! {
        #[test]
        fn the_outcome_is_a_label_that_stays_as_it_is(name in any::<String>()) {
            if let Some(label) = sanitise(&name) {
                prop_assert!(is_label(&label), "{:?}", label);
                prop_assert_eq!(sanitise(&label), Some(label));
            }
        }

        #[test]
        fn only_a_name_without_letters_and_digits_has_none(name in any::<String>()) {
            prop_assert_eq!(sanitise(&name).is_none(), !name.contains(|c: char| c.is_ascii_alphanumeric()));
        }

        #[test]
        fn a_valid_label_is_kept(name in "[a-z0-9]([a-z0-9]|-[a-z0-9]){0,20}") {
            prop_assert_eq!(sanitise(&name), Some(name));
        }
    }
}
