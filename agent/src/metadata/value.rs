//! Rules for single values, the same for the metadata document and for configuration. Each error says what was expected.

/// The longest `instance.id` (`devbox/v1`).
const ID_MAX: usize = 128;
/// The longest free text, in characters: enough for any name, and a report with all of them stays within its 16 KiB.
const TEXT_MAX: usize = 256;
/// The most tags of one node (`devbox/v1`).
const TAGS_MAX: usize = 16;

/// Checks an `instance.id`.
///
/// # Errors
/// What was expected, as the end of a sentence.
pub fn instance_id(id: &str) -> Result<(), String> {
    let valid = |b: u8| b.is_ascii_alphanumeric() || b"._-".contains(&b);
    if id.is_empty() || id.len() > ID_MAX || !id.bytes().all(valid) {
        return Err(format!("expected 1 to {ID_MAX} characters of [A-Za-z0-9._-]"));
    }
    Ok(())
}

/// Checks free text: it ends up in status lines, reports and logs.
///
/// # Errors
/// See [`instance_id`].
pub fn text(text: &str) -> Result<(), String> {
    if text.chars().count() > TEXT_MAX || text.chars().any(char::is_control) {
        return Err(format!("expected at most {TEXT_MAX} characters, none of them a control character"));
    }
    Ok(())
}

/// Checks a client id. It is part of the token's audience, and a `?` would begin attributes of Tailscale's own client.
///
/// # Errors
/// See [`instance_id`].
pub fn client_id(id: &str) -> Result<(), String> {
    if id.is_empty() || id.len() > TEXT_MAX || !id.bytes().all(|b| b.is_ascii_graphic() && b != b'?') {
        return Err(format!("expected 1 to {TEXT_MAX} visible ASCII characters without '?'"));
    }
    Ok(())
}

/// Checks one tag.
///
/// # Errors
/// See [`instance_id`].
pub fn tag(tag: &str) -> Result<(), String> {
    let name = tag.strip_prefix("tag:").unwrap_or_default();
    let inner = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    if !name.starts_with(|c: char| c.is_ascii_lowercase()) || !name.bytes().all(inner) || name.len() > TEXT_MAX {
        return Err("expected \"tag:\" and a name of [a-z][a-z0-9-]*".to_owned());
    }
    Ok(())
}

/// Checks a list of tags; an error of one tag names its place, such as `[1]`, first.
///
/// # Errors
/// The place within the list, and what was expected there.
pub fn tags<T: AsRef<str>>(tags: &[T]) -> Result<(), (String, String)> {
    if tags.is_empty() || tags.len() > TAGS_MAX {
        return Err((String::new(), format!("expected 1 to {TAGS_MAX} tags")));
    }
    for (i, one) in tags.iter().enumerate() {
        let place = format!("[{i}]");
        tag(one.as_ref()).map_err(|expected| (place.clone(), expected))?;
        if tags[..i].iter().any(|earlier| earlier.as_ref() == one.as_ref()) {
            return Err((place, "expected no tag twice".to_owned()));
        }
    }
    Ok(())
}
