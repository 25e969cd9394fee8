use super::*;
use crate::config::settings::{Endpoint, SecretFile};

fn accepted<T>(check: impl Fn(&Value) -> Checked<T>, values: &[&str]) {
    for value in values {
        assert!(check(&Value::from(*value)).is_ok(), "{value}");
    }
}

fn refused<T>(check: impl Fn(&Value) -> Checked<T>, cases: &[(&str, &str)]) {
    for (value, words) in cases {
        let found = check(&Value::from(*value)).err().unwrap_or_else(|| panic!("{value} was accepted"));
        assert!(found.contains(words), "{value}: {found}");
    }
}

#[test]
fn a_url_is_https_or_plain_to_an_address() {
    accepted(
        url,
        &[
            "https://api.example.com",
            "https://api.example.com:8443/",
            "https://xn--bcher-kva.example",
            "http://127.0.0.1:80",
            "http://[::1]",
        ],
    );
    refused(
        url,
        &[
            ("http://metadata.internal", "plain http to a name"),
            ("http://localhost:1", "plain http to a name"),
            ("ftp://127.0.0.1", "scheme \"ftp\""),
            ("example.com", "not a URL"),
            // In ASCII it is xn--bcher-kva.example, which is accepted.
            ("https://bücher.example", "not a URL"),
            ("https://example.com/path", "more than scheme, host and port"),
            ("https://example.com?q", "more than scheme, host and port"),
        ],
    );
}

#[test]
fn a_password_in_a_url_is_refused_and_not_repeated() {
    let found = proxy(&Value::from("http://user:hunter2@proxy:3128")).unwrap_err();
    assert!(found.contains("user or password") && !found.contains("hunter2"), "{found}");
}

#[test]
fn a_token_in_place_of_its_path_is_refused_and_not_repeated() {
    accepted(token, &["/run/token", "env:ID_TOKEN", "env:_x", "fd:3", "credential:devbox-agent.token"]);
    refused(
        token,
        &[("fd:2", "from 3 on"), ("fd:-3", "from 3 on"), ("fd:", "from 3 on"), ("fd:3000000000", "from 3 on")],
    );
    for jwt in ["eyJhbGciOi.e30.c2ln", "env:eyJhbGciOi.e30.c2ln", "credential:eyJhbGciOi/e30"] {
        let found = token(&Value::from(jwt)).err().unwrap();
        assert!(!found.contains("eyJ"), "{found}");
    }
}

#[test]
fn a_credential_is_a_file_name_and_a_variable_is_no_place_for_a_bearer_secret() {
    let credential = |name: &str| Ok(SecretFile::Credential(name.to_owned()));
    assert_eq!(secret_file(&Value::from("credential:devbox-agent.metadata")), credential("devbox-agent.metadata"));
    for name in ["", ".", "..", "a/b", "../shadow", "a b", "a:b", &"x".repeat(256)] {
        refused(secret_file, &[(&format!("credential:{name}"), "not the name of one")]);
    }
    refused(secret_file, &[("env:SECRET", "none of these"), ("secret", "none of these")]);
}

#[test]
fn an_endpoint_is_also_a_short_socket_path() {
    assert_eq!(endpoint(&Value::from("unix:/run/md.sock")), Ok(Endpoint::Unix("/run/md.sock".into())));
    accepted(endpoint, &["http://169.254.169.254"]);
    let long = format!("unix:/{}", "x".repeat(107));
    refused(endpoint, &[("unix:md.sock", "not an absolute path"), (&long, "108 bytes")]);
}

#[test]
fn tags_are_tags_and_come_out_sorted() {
    let list = |tags: &[&str]| Value::from(tags.to_vec());
    assert_eq!(tags(&list(&["tag:web", "tag:ci"])), Ok(vec!["tag:ci".to_owned(), "tag:web".to_owned()]));
    for (bad, words) in [
        (vec!["tag:Dev"], "\"tag:Dev\" is not a tag"),
        (vec!["dev"], "is not a tag"),
        (vec!["tag:"], "is not a tag"),
        (vec!["tag:1"], "is not a tag"),
        (vec!["tag:a_b"], "is not a tag"),
        (vec!["tag:a", "tag:a"], "twice"),
        (vec![], "it has 0"),
    ] {
        let found = tags(&list(&bad)).unwrap_err();
        assert!(found.contains(words), "{bad:?}: {found}");
    }
    let many: Vec<String> = (0..17).map(|n| format!("tag:t{n}")).collect();
    assert_eq!(tags(&Value::from(many)), Err("it has 17".into()));
}

#[test]
fn a_host_name_is_one_label() {
    accepted(hostname, &["a", "web-api", "7", &"x".repeat(63)]);
    for bad in ["", "Web", "a.b", "-a", "a-", "a b", "ä", &"x".repeat(64)] {
        assert!(hostname(&Value::from(bad)).is_err(), "{bad}");
    }
}

#[test]
fn programs_paths_and_commands_cannot_depend_on_the_working_directory() {
    accepted(program, &["tailscaled", "/usr/sbin/tailscaled"]);
    refused(program, &[("./tailscaled", "absolute"), ("", "absolute")]);
    refused(path, &[("var/lib", "absolute"), ("", "absolute"), ("/a\0b", "absolute")]);
    assert!(command(&Value::from(vec!["/bin/token", "-v"])).is_ok());
    assert_eq!(command(&Value::Array(vec![])), Err("it is empty".into()));
    assert!(command(&Value::from(vec!["token"])).unwrap_err().contains("absolute"));
}

#[test]
fn numbers_keep_their_range() {
    assert_eq!(port(&Value::from(0)), Ok(0));
    assert_eq!(port(&Value::from(65536)), Err("65536 is out of range".into()));
    assert_eq!(version(&Value::from("1.80")), Ok((1, 80)));
    refused(version, &[("1", "no such version"), ("1.80.2", "no such"), ("+1.80", "no such"), ("1.", "no such")]);
    assert_eq!(version(&Value::from(1.8)), Err("it is a float".into()));
}

#[test]
fn a_misspelt_level_is_not_a_module() {
    accepted(log_level, &["info", "off", "info,devbox_agent::metadata=debug", "warn,hyper=info"]);
    refused(log_level, &[("inof", "\"inof\" is not a level"), ("a=loud", "not a filter"), ("", "not a level")]);
}

#[test]
fn identifiers_and_interfaces_have_their_letters() {
    accepted(instance, &["i-4f2c", "A.b_c"]);
    refused(instance, &[("", "not an instance id"), ("a/b", "not"), (&"x".repeat(129), "not")]);
    accepted(client_id, &["kAbC123CNTRL-x"]);
    refused(client_id, &[("", "not a client id"), ("a b", "not"), ("a/b", "not")]);
    accepted(interface, &["tailscale0", "userspace-networking"]);
    refused(interface, &[("sixteen-letters-", "neither"), ("a/b", "neither"), ("..", "neither")]);
}
