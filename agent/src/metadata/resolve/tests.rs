use std::time::Duration;

use super::*;
use crate::core::reason::Fault;
use crate::metadata::testing::rules;

fn document(tailnet: Section) -> Document {
    Document {
        instance: Instance {
            id: "i-4f2c".into(),
            kind: "devbox".into(),
            name: Some("Web API".into()),
            workspace: None,
            generation: None,
        },
        tailnet,
        report_interval: Duration::from_secs(60),
    }
}

fn given() -> Node {
    Node {
        client_id: Some("kSpec".into()),
        tags: Some(vec!["tag:b".into(), "tag:a".into()]),
        hostname: Some("spec".into()),
        lifecycle: Some(Lifecycle::Ephemeral),
        accept_dns: Some(false),
        accept_routes: Some(true),
        ssh: Some(true),
        epoch: 4,
    }
}

fn required() -> Node {
    Node { client_id: Some("kSpec".into()), tags: Some(vec!["tag:a".into()]), ..Node::default() }
}

fn wanted(node: Node, rules: &Rules) -> Tailnet {
    match resolve(document(Section::Node(node)), rules).unwrap().tailnet {
        Wanted::Node(tailnet) => tailnet,
        other => panic!("{other:?}"),
    }
}

#[test]
fn the_document_decides_what_it_may() {
    let tailnet = wanted(given(), &rules());
    assert_eq!(
        tailnet,
        Tailnet {
            client_id: "kSpec".into(),
            tags: vec!["tag:a".into(), "tag:b".into()],
            hostname: "spec".into(),
            lifecycle: Lifecycle::Ephemeral,
            accept_dns: false,
            accept_routes: true,
            ssh: false,
            epoch: 4,
        },
        "ssh is not in may_set unless somebody lists it"
    );
}

#[test]
fn ssh_is_the_platform_s_to_decide_once_listed() {
    let mut rules = rules();
    rules.may_set.push(SpecField::Ssh);
    assert!(wanted(given(), &rules).ssh);
}

#[test]
fn configuration_wins_field_by_field() {
    let mut rules = rules();
    rules.tailnet.client_id = Some("kConfig".into());
    rules.tailnet.hostname = Some("Config Box".into());
    rules.tailnet.accept_dns = Some(true);
    rules.tailnet.ssh = Some(true);
    let tailnet = wanted(given(), &rules);
    assert_eq!((tailnet.client_id.as_str(), tailnet.hostname.as_str()), ("kConfig", "config-box"));
    assert_eq!((tailnet.accept_dns, tailnet.ssh, tailnet.accept_routes), (true, true, true));
}

#[test]
fn what_nobody_decides_has_a_default() {
    let tailnet = wanted(required(), &rules());
    assert_eq!((tailnet.hostname.as_str(), tailnet.lifecycle), ("web-api", Lifecycle::Persistent));
    assert_eq!((tailnet.accept_dns, tailnet.accept_routes, tailnet.ssh, tailnet.epoch), (true, false, false, 0));
}

#[test]
fn a_runner_is_ephemeral_and_the_nameless_are_called_by_their_id() {
    let mut document = document(Section::Node(required()));
    document.instance.kind = "runner".into();
    document.instance.name = None;
    let Wanted::Node(tailnet) = resolve(document, &rules()).unwrap().tailnet else { panic!("a node is wanted") };
    assert_eq!((tailnet.hostname.as_str(), tailnet.lifecycle), ("i-4f2c", Lifecycle::Ephemeral));
}

#[test]
fn absent_and_null_stay_what_they_are_whatever_configuration_says() {
    let mut rules = rules();
    rules.tailnet.client_id = Some("kConfig".into());
    assert_eq!(resolve(document(Section::Absent), &rules).unwrap().tailnet, Wanted::Unsaid);
    assert_eq!(resolve(document(Section::Null), &rules).unwrap().tailnet, Wanted::Nothing);
}

fn fault(node: Node, rules: &Rules) -> Fault {
    Fault::from(&resolve(document(Section::Node(node)), rules).expect_err("it cannot be resolved"))
}

#[test]
fn a_required_field_that_nobody_gives_is_named_with_both_places() {
    let missing = fault(Node { tags: None, ..required() }, &rules());
    assert_eq!(missing.code, Code::MetadataValue);
    assert_eq!(missing.detail, "tailnet.tags: given neither by the metadata nor by [tailnet] tags");
}

#[test]
fn a_field_that_the_platform_may_not_set_counts_as_not_given() {
    let mut rules = rules();
    rules.may_set.retain(|field| *field != SpecField::ClientId);
    let missing = fault(required(), &rules);
    assert_eq!(
        missing.detail,
        "tailnet.client_id: given neither by the metadata (see [metadata] may_set) nor by [tailnet] client_id"
    );
}

#[test]
fn a_name_of_which_no_hostname_can_be_made_is_named() {
    let mut unnamed = document(Section::Node(required()));
    unnamed.instance.name = Some("\u{65e5}\u{672c}".into());
    let error = resolve(unnamed, &rules()).unwrap_err();
    assert!(Fault::from(&error).detail.starts_with("instance.name: expected"), "{error}");
}
