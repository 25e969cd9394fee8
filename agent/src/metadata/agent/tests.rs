//! The real client and the real server on a real socket, with the provider `file` for what the agent itself asks.

use std::path::Path;
use std::sync::Arc;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::sync::{mpsc, watch};
use tokio_util::task::AbortOnDropHandle;

use super::*;
use crate::config::settings::{SecretFile, TokenSource};
use crate::core::phase::Phase;
use crate::metadata::file::{COMMAND_DEADLINE, File, FileSettings};
use crate::metadata::spec::{Instance, Lifecycle, Tailnet, Wanted};
use crate::metadata::testing::{configured_rules, rules};
use crate::socket::access::Access;
use crate::socket::samples::sample;
use crate::socket::{listen, server, socket_path};

const JWT: &str = "the.agents.own";
const AUDIENCE: &str = "api.tailscale.com/k&=1/2";

/// Gives its audience for a token, and never a spec.
struct Echo;

#[async_trait]
impl Metadata for Echo {
    fn provider(&self) -> &'static str {
        "echo"
    }

    async fn read(&self, _: Option<&str>, _: Duration) -> Result<Read, Fault> {
        std::future::pending().await
    }

    async fn token(&self, audience: &str) -> Result<Secret<String>, Fault> {
        Ok(Secret::new(audience.to_owned()))
    }
}

/// An agent that serves its local API.
struct Running {
    lent: watch::Sender<Option<Arc<dyn Metadata>>>,
    dir: tempfile::TempDir,
    _server: AbortOnDropHandle<std::convert::Infallible>,
}

/// Serves callers of which `access` may borrow what is lent; nothing is, at first.
fn running(access: Access) -> Running {
    let dir = tempfile::tempdir().expect("a directory");
    std::fs::write(dir.path().join("token"), JWT).expect("a token");
    std::fs::write(dir.path().join("machine-id"), "f2c2a6d0c4f04d0e8e2b6b9b3c7d1a55").expect("a machine id");
    let listener = listen::bind(&socket_path(dir.path())).expect("a socket");
    let (lent, borrowed) = watch::channel(None);
    let (_, documents) = watch::channel(Arc::new(sample(Phase::Online)));
    let (commands, _) = mpsc::channel(1);
    let serving = tokio::spawn(server::serve(listener, documents, commands, access, borrowed));
    Running { lent, dir, _server: AbortOnDropHandle::new(serving) }
}

impl Running {
    /// Lends what the agent itself is configured to ask.
    fn lend(&self) {
        let path = |name: &str| self.dir.path().join(name);
        let metadata = File::new(FileSettings {
            token: TokenSource::File(SecretFile::Path(path("token"))),
            instance: None,
            machine_id: path("machine-id"),
            rules: configured_rules(),
            environment: Arc::new(|_| None),
            deadline: COMMAND_DEADLINE,
        });
        self.lent.send_replace(Some(Arc::new(metadata)));
    }
}

fn me() -> Access {
    Access { uids: [nix::unistd::geteuid().as_raw()].into(), gids: [].into() }
}

fn provider(runtime: &Path, rules: Rules) -> Agent {
    Agent::new(Client::new(&socket_path(runtime)).expect("a client"), rules)
}

async fn spec(agent: &Agent) -> Result<Spec, Fault> {
    match agent.read(None, Duration::ZERO).await? {
        Read::Document { spec, .. } => Ok(*spec),
        Read::Refused { fault, .. } => Err(fault),
        Read::Unchanged => panic!("nothing was known"),
    }
}

/// Checks that neither spec nor token is to be had, and returns the one reason.
async fn refused(agent: &Agent) -> Fault {
    let fault = spec(agent).await.expect_err("a spec");
    let other = agent.token(AUDIENCE).await.map(drop).expect_err("a token");
    assert_eq!(fault.detail.replace("spec", "token"), other.detail);
    assert_eq!(fault.code, other.code);
    fault
}

#[tokio::test]
async fn nothing_is_lent_unless_configuration_says_so_and_a_change_of_it_counts_at_once() {
    let running = running(me());
    let agent = provider(running.dir.path(), rules());
    let fault = refused(&agent).await;
    assert_eq!(fault.code, Code::TokenDenied);
    for words in ["[exec] lend_credential = true", "the group devbox-agent"] {
        assert!(fault.detail.contains(words), "{}", fault.detail);
    }
    running.lend();
    assert_eq!(agent.token(AUDIENCE).await.map_err(|fault| fault.detail).expect("a token").expose(), JWT);
    running.lent.send_replace(None);
    refused(&agent).await;
}

#[tokio::test]
async fn nothing_is_lent_to_who_may_not_command_the_agent() {
    let running = running(Access::default());
    running.lend();
    let fault = refused(&provider(running.dir.path(), rules())).await;
    assert_eq!(fault.code, Code::TokenDenied);
    assert!(fault.detail.ends_with("to root, its own user and the group devbox-agent alone"), "{}", fault.detail);
}

#[tokio::test]
async fn the_spec_is_the_agents_but_for_what_the_caller_says() {
    let running = running(me());
    running.lend();
    let theirs = spec(&provider(running.dir.path(), rules())).await.expect("a spec");
    let Wanted::Node(node) = &theirs.tailnet else { panic!("it wants a node") };
    assert_eq!((node.client_id.as_str(), node.tags[0].as_str()), ("kConfig", "tag:ci"));
    assert_eq!(theirs.instance.id, "f2c2a6d0c4f04d0e8e2b6b9b3c7d1a55");

    let mut own = rules();
    own.tailnet.tags = Some(vec!["tag:job".into()]);
    own.tailnet.hostname = Some("exec-1".into());
    own.tailnet.lifecycle = Some(Lifecycle::Ephemeral);
    let agent = provider(running.dir.path(), own);
    let tailnet = Tailnet {
        tags: vec!["tag:job".into()],
        hostname: "exec-1".into(),
        lifecycle: Lifecycle::Ephemeral,
        ..node.clone()
    };
    assert_eq!(spec(&agent).await.expect("a spec").tailnet, Wanted::Node(tailnet));
    assert_eq!(agent.read(Some(ETAG), Duration::ZERO).await, Ok(Read::Unchanged));
}

#[test]
fn a_spec_keeps_its_meaning_as_a_document() {
    let instance = Instance { id: "i-1".into(), kind: "devbox".into(), name: None, workspace: None, generation: None };
    let node = Tailnet {
        client_id: "k1".into(),
        tags: vec!["tag:a".into()],
        hostname: "web".into(),
        lifecycle: Lifecycle::Ephemeral,
        accept_dns: false,
        accept_routes: true,
        ssh: true,
        epoch: 7,
    };
    let mut rules = rules();
    rules.may_set.push(crate::config::settings::SpecField::Ssh);
    for tailnet in [Wanted::Unsaid, Wanted::Nothing, Wanted::Node(node)] {
        let spec = Spec { instance: instance.clone(), tailnet, report_interval: Duration::from_secs(10) };
        assert_eq!(resolve(Document::from(spec.clone()), &rules).expect("a spec"), spec);
    }
}

#[tokio::test]
async fn a_fault_of_the_agents_own_source_arrives_as_that() {
    let running = running(me());
    running.lend();
    for (file, code) in [("token", Code::TokenUnavailable), ("machine-id", Code::MetadataUnreachable)] {
        std::fs::remove_file(running.dir.path().join(file)).expect("it was there");
        let agent = provider(running.dir.path(), rules());
        let fault = match file {
            "token" => agent.token(AUDIENCE).await.map(drop).expect_err("a token"),
            _ => spec(&agent).await.expect_err("a spec"),
        };
        assert_eq!(fault.code, code);
        assert!(fault.detail.contains(file) && fault.detail.contains("No such file"), "{}", fault.detail);
    }
}

#[tokio::test]
async fn a_token_is_for_tailscale_whatever_the_caller_asks_for() {
    let running = running(me());
    running.lent.send_replace(Some(Arc::new(Echo)));
    let agent = provider(running.dir.path(), rules());
    for (asked, given) in [(AUDIENCE, AUDIENCE), ("sts.example.com", "api.tailscale.com/sts.example.com")] {
        assert_eq!(agent.token(asked).await.map_err(|fault| fault.detail).expect("a token").expose(), given);
    }
    for wrong in ["api.tailscale.com/", "api.tailscale.com/k 1", "api.tailscale.com/k?x"] {
        let fault = agent.token(wrong).await.map(drop).expect_err("no client id");
        assert!(fault.detail.contains("client_id: expected 1 to 256 visible ASCII characters"), "{}", fault.detail);
    }
}

#[tokio::test]
async fn a_machine_without_an_agent_is_told_so() {
    let dir = tempfile::tempdir().expect("a directory");
    let fault = refused(&provider(dir.path(), rules())).await;
    assert_eq!(fault.code, Code::TokenUnavailable);
    assert!(fault.detail.contains("there is no socket at "), "{}", fault.detail);
}

#[tokio::test(start_paused = true)]
async fn metadata_that_does_not_answer_the_agent_is_given_up_while_there_is_somebody_to_tell() {
    let running = running(me());
    running.lent.send_replace(Some(Arc::new(Echo)));
    let mut stream = UnixStream::connect(socket_path(running.dir.path())).await.expect("a connection");
    stream.write_all(b"GET /v1/spec HTTP/1.1\r\nHost: agent\r\n\r\n").await.expect("sent");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.expect("an answer");
    assert!(answer.starts_with("HTTP/1.1 503 "), "{answer}");
    assert!(answer.ends_with("the metadata did not answer the agent in time\"}"), "{answer}");
}
