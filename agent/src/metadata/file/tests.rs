use std::io::Write;
use std::os::fd::AsRawFd;
use std::os::unix::fs::PermissionsExt;
use std::sync::Arc;

use nix::sys::stat::Mode;
use tokio::io::AsyncReadExt;
use tokio::net::unix::pipe;

use super::secret_file::SECRET_MAX;
use super::*;
use crate::config::settings::SecretFile;
use crate::metadata::spec::{Lifecycle, Wanted};
use crate::metadata::testing::configured_rules;

fn provider(token: TokenSource) -> File {
    let environment: Environment = Arc::new(|name| (name == "JWT").then(|| " from-env\n".into()));
    File::new(FileSettings {
        token,
        instance: Some("box-1".into()),
        machine_id: "/nonexistent/machine-id".into(),
        rules: configured_rules(),
        environment,
        deadline: COMMAND_DEADLINE,
    })
}

fn shell(script: &str) -> File {
    provider(TokenSource::Command(["sh", "-c", script].map(str::to_owned).to_vec()))
}

async fn token(provider: &File) -> Result<String, Fault> {
    provider.token("aud").await.map(|token| token.expose().clone())
}

#[tokio::test]
async fn the_spec_is_what_configuration_says() {
    let Read::Document { spec, etag } =
        provider(TokenSource::Environment("JWT".into())).read(None, Duration::ZERO).await.unwrap()
    else {
        panic!("there is no tag yet")
    };
    let Wanted::Node(node) = spec.tailnet else { panic!("configuration names a node") };
    assert_eq!((node.client_id.as_str(), node.hostname.as_str()), ("kConfig", "box-1"));
    assert_eq!((node.tags, node.lifecycle), (vec!["tag:ci".to_owned()], Lifecycle::Persistent));
    assert!(etag.is_some());
}

#[tokio::test(start_paused = true)]
async fn a_conditional_read_is_held_until_its_wait_is_over() {
    let provider = provider(TokenSource::Environment("JWT".into()));
    let Read::Document { etag, .. } = provider.read(None, Duration::from_secs(55)).await.unwrap() else { panic!() };
    let before = tokio::time::Instant::now();
    assert_eq!(provider.read(etag.as_deref(), Duration::from_secs(55)).await.unwrap(), Read::Unchanged);
    assert_eq!(before.elapsed(), Duration::from_secs(55));
}

#[tokio::test]
async fn new_configuration_makes_a_new_tag() {
    let one = provider(TokenSource::Environment("JWT".into()));
    let Read::Document { etag, .. } = one.read(None, Duration::ZERO).await.unwrap() else { panic!() };
    let mut two = provider(TokenSource::Environment("JWT".into()));
    two.settings.rules.tailnet.ssh = Some(true);
    assert!(matches!(two.read(etag.as_deref(), Duration::ZERO).await.unwrap(), Read::Document { .. }));
}

#[tokio::test]
async fn the_machine_id_names_the_instance_when_configuration_does_not() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("machine-id");
    let mut provider = provider(TokenSource::Environment("JWT".into()));
    provider.settings.instance = None;
    provider.settings.machine_id = path.clone();
    for (content, code) in [("0123456789abcdef\n", None), ("uninitialized\n", Some(())), ("a/b", Some(()))] {
        std::fs::write(&path, content).unwrap();
        let read = provider.read(None, Duration::ZERO).await;
        assert_eq!(
            read.as_ref().err().map(|fault| assert_eq!(fault.code, Code::MetadataUnreachable)),
            code,
            "{content:?}"
        );
    }
}

#[tokio::test]
async fn a_spec_without_tags_says_where_they_belong() {
    let mut provider = provider(TokenSource::Environment("JWT".into()));
    provider.settings.rules.tailnet.tags = None;
    let Read::Refused { fault, .. } = provider.read(None, Duration::ZERO).await.unwrap() else { panic!("no tags") };
    assert_eq!(fault.code, Code::MetadataValue);
    assert!(fault.detail.contains("[tailnet] tags"), "{}", fault.detail);
}

#[tokio::test]
async fn a_token_file_is_read_anew_each_time() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("token");
    let provider = provider(TokenSource::File(SecretFile::Path(path.clone())));
    for word in ["first", "second"] {
        std::fs::write(&path, format!("{word}\n")).unwrap();
        assert_eq!(token(&provider).await.unwrap(), word);
    }
}

#[tokio::test]
async fn a_file_that_gives_no_token_is_named() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("token");
    let provider = provider(TokenSource::File(SecretFile::Path(path.clone())));
    for content in [None, Some(vec![]), Some(b"\xff\xfe".to_vec()), Some(vec![b'x'; SECRET_MAX + 1])] {
        if let Some(content) = content {
            std::fs::write(&path, content).unwrap();
        }
        let fault = token(&provider).await.unwrap_err();
        assert_eq!(fault.code, Code::TokenUnavailable);
        assert!(fault.detail.contains(path.to_str().unwrap()), "{}", fault.detail);
    }
}

#[tokio::test]
async fn a_variable_is_read_and_a_missing_one_is_named() {
    assert_eq!(token(&provider(TokenSource::Environment("JWT".into()))).await.unwrap(), "from-env");
    let fault = token(&provider(TokenSource::Environment("OTHER".into()))).await.unwrap_err();
    assert_eq!((fault.code, fault.detail.contains("OTHER")), (Code::TokenUnavailable, true));
}

#[tokio::test]
async fn a_descriptor_is_read_once_and_what_it_gave_is_kept() {
    let (reader, mut writer) = std::io::pipe().unwrap();
    let provider = provider(TokenSource::Descriptor(reader.as_raw_fd()));
    writer.write_all(b"from-pipe\n").unwrap();
    drop(writer);
    for _ in 0..2 {
        assert_eq!(token(&provider).await.unwrap(), "from-pipe");
    }
}

#[tokio::test]
async fn a_descriptor_that_gives_no_token_is_named() {
    let (reader, writer) = std::io::pipe().unwrap();
    let number = reader.as_raw_fd();
    let mut silent = provider(TokenSource::Descriptor(number));
    silent.settings.deadline = Duration::from_millis(50);
    let fault = token(&silent).await.unwrap_err();
    assert_eq!((fault.code, fault.detail.contains("nobody has written")), (Code::TokenUnavailable, true));
    drop(writer);
    let fault = token(&silent).await.unwrap_err();
    assert!(fault.detail.contains(&format!("the descriptor {number} gives an empty one")), "{}", fault.detail);
    let fault = token(&provider(TokenSource::Descriptor(i32::MAX))).await.unwrap_err();
    assert!(fault.detail.contains("Bad file descriptor"), "{}", fault.detail);
}

#[tokio::test]
async fn a_command_prints_a_token_for_the_audience() {
    assert_eq!(token(&shell("echo \"jwt-for-$0\"")).await.unwrap(), "jwt-for-aud");
}

#[tokio::test]
async fn a_failing_command_is_quoted_without_what_it_printed() {
    let fault =
        token(&shell("echo canary-canary-canary; echo no canary-canary-canary >&2; printf '\\033[2J' >&2; exit 3"))
            .await;
    let fault = fault.unwrap_err();
    assert_eq!(fault.code, Code::TokenUnavailable);
    assert!(fault.detail.contains("exit status: 3: no [redacted]"), "{}", fault.detail);
    assert!(!fault.detail.contains("canary") && !fault.detail.contains('\u{1b}'), "{}", fault.detail);
}

#[tokio::test]
async fn a_command_that_prints_too_much_or_nothing_gives_no_token() {
    for script in ["head -c 100000 /dev/zero | tr '\\0' x", "true", "printf '\\377'"] {
        assert_eq!(token(&shell(script)).await.unwrap_err().code, Code::TokenUnavailable, "{script}");
    }
}

#[tokio::test]
async fn a_command_that_cannot_run_is_named() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("helper");
    std::fs::write(&path, "#!/bin/sh\n").unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
    let provider = provider(TokenSource::Command(vec![path.display().to_string()]));
    let fault = token(&provider).await.unwrap_err();
    assert!(fault.detail.contains("helper: Permission denied"), "{}", fault.detail);
}

#[tokio::test]
async fn a_command_that_hangs_is_killed_at_its_deadline() {
    let directory = tempfile::tempdir().unwrap();
    let fifo = directory.path().join("alive");
    nix::unistd::mkfifo(&fifo, Mode::S_IRWXU).unwrap();
    let mut alive = pipe::OpenOptions::new().open_receiver(&fifo).unwrap();
    let mut provider = shell(&format!("exec sleep 600 9> '{}'", fifo.display()));
    provider.settings.deadline = Duration::from_millis(300);
    let fault = token(&provider).await.unwrap_err();
    assert!(fault.detail.contains("killed"), "{}", fault.detail);
    // The end of the pipe is the end of the only process that had it open.
    let mut rest = Vec::new();
    tokio::time::timeout(Duration::from_secs(10), alive.read_to_end(&mut rest))
        .await
        .expect("the command is dead")
        .unwrap();
}
