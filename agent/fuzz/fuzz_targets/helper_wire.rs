//! Any bytes at the helper's door: nothing breaks, and what is taken for a request obeys every rule and survives being written again.
#![no_main]

use devbox_agent::privilege::Request;
use devbox_agent::privilege::wire::{MESSAGE_MAX, decode, encode};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let Ok(request) = decode(bytes) else { return };
    assert!(bytes.len() <= MESSAGE_MAX);
    obeys_the_rules(&request);
    let written = encode(&request).expect("a request can be written");
    assert!(written.len() <= MESSAGE_MAX);
    let again = decode(&written).expect("what was written is a request");
    assert_eq!(again.verb(), request.verb());
    assert_eq!(*encode(&again).expect("a request can be written"), *written);
});

fn obeys_the_rules(request: &Request) {
    match request {
        Request::Hostname { name } => assert_label(name.as_str()),
        Request::Apply { preferences } => assert_label(preferences.hostname.as_str()),
        Request::Login { preferences, key } => {
            assert_label(preferences.hostname.as_str());
            let key = key.secret().expose();
            assert!((1..=512).contains(&key.len()) && key.bytes().all(|byte| (0x21..0x7f).contains(&byte)));
        }
        _ => {}
    }
}

/// RFC 1123 §2.1, lower case.
fn assert_label(name: &str) {
    assert!((1..=63).contains(&name.len()) && !name.starts_with('-') && !name.ends_with('-'));
    assert!(name.bytes().all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-')));
}
