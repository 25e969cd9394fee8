//! What the helper does not do, and what it says and does not say about it.

use std::sync::Mutex;

use super::*;
use crate::privilege::wire::MESSAGE_MAX;

#[test]
fn what_configuration_does_not_allow_is_refused() {
    block_on(async {
        let stage = Stage::with(Policy { hostname: false, ..policy() }, me(), well);
        let ssh = Preferences { ssh: true, ..wanted() };
        let faults = [
            stage.client.apply(&ssh).await.expect_err("no SSH"),
            stage.client.login(&ssh, &key()).await.expect_err("no SSH"),
            stage.client.hostname("web").await.expect_err("no name"),
        ];
        for fault in faults {
            assert_eq!(fault.code, Code::HelperDenied);
            assert!(fault.detail.contains("to allow it, set ["), "{}", fault.detail);
        }
        assert_eq!(stage.tailscaled.connections(), 0, "tailscaled was not even asked");
        let allowing = Stage::with(Policy { ssh: true, ..policy() }, me(), well);
        allowing.client.apply(&ssh).await.expect("allowed");
    });
}

#[tokio::test]
async fn what_configuration_allows_meanwhile_is_carried_out_by_the_helper_that_serves_already() {
    let directory = tempfile::tempdir().expect("a directory");
    let (file, dirs) = (directory.path().join("50-site.toml"), vec![directory.path().to_owned()]);
    let configure = |text: &str| std::fs::write(&file, text).expect("written");
    let sources = config::Sources { dirs, overrides: vec![], uid: me() };
    let read = move || config::load(&sources).map(|loaded| Policy::from(&loaded.settings));
    let stage = Stage::under(Box::new(read), me(), well);
    let ssh = Preferences { ssh: true, ..wanted() };
    assert_eq!(stage.client.apply(&ssh).await.expect_err("no SSH").code, Code::HelperDenied);
    configure("[tailnet]\nssh = true\ncontrol_url = \"https://other.example\"\n");
    stage.client.apply(&ssh).await.expect("allowed");
    let sent: Value = serde_json::from_str(&stage.tailscaled.requests()[0].body).expect("JSON");
    assert_eq!((&sent["ControlURL"], &sent["RunSSH"]), (&"https://other.example".into(), &true.into()));
    configure("[tailnet]\nssh = maybe\n");
    let fault = stage.client.apply(&ssh).await.expect_err("no configuration");
    assert_eq!(fault.code, Code::HelperDenied);
    assert!(fault.detail.contains("see devbox-agent config check"), "{}", fault.detail);
}

#[tokio::test]
async fn a_stranger_is_turned_away_with_a_reason_and_nothing_else() {
    let stage = Stage::with(policy(), me() + 1, well);
    let fault = stage.client.stop().await.expect_err("a stranger");
    assert_eq!(fault.code, Code::HelperDenied);
    assert!(fault.detail.contains(&format!("uid {}", me() + 1)), "{}", fault.detail);
    // Not a byte is waited for, so that a stranger holds nothing up.
    let mut silent = stage.connect().await;
    assert!(answer(&mut silent).await.contains("helper_denied"));
    assert_eq!(stage.unit.done(), [""; 0]);
}

#[tokio::test]
async fn what_is_no_request_is_refused_and_not_repeated() {
    let stage = Stage::new();
    let preferences = r#"{"hostname":"web","accept_dns":true,"accept_routes":true,"ssh":false}"#;
    let login = |key: &str| format!(r#"{{"verb":"login","preferences":{preferences},"key":"{key}"}}"#);
    let padded = format!("{}{}", login(KEY), " ".repeat(MESSAGE_MAX));
    let with_url = login(KEY).replace("\"ssh\"", "\"control_url\":\"https://evil.example\",\"ssh\"");
    for request in [
        "",
        "CANARY-0123456789",
        r#"{"verb":"CANARY-0123456789"}"#,
        r#"{"verb":"up"}{"verb":"up"}"#,
        r#"{"verb":"up","CANARY-0123456789":1}"#,
        r#"{"verb":"hostname","name":"CANARY-0123456789"}"#,
        r#"{"verb":"login","preferences":"CANARY-0123456789","key":"k"}"#,
        r#"{"verb":"stop","unit":"CANARY-0123456789.service"}"#,
        r#"{"verb":"admit"}"#,
        &login("CANARY 0123456789"),
        &login("CANARY\u{0}0123456789"),
        &login("CANARY\\u002d0123456789"),
        &login(""),
        &login(&"k".repeat(513)),
        &login(KEY)[..60],
        &with_url,
        &padded,
    ] {
        let told = stage.raw(request.as_bytes()).await;
        assert!(told.starts_with(r#"{"error":{"code":"helper_denied","#), "{request:?}: {told}");
        assert!(told.len() < 512 && !told.contains("CANARY") && !told.contains("evil"), "{request:?}: {told}");
    }
    assert!(stage.raw(b"{\"verb\":\"up\"}\xff").await.contains("helper_denied"));
    assert_eq!((stage.tailscaled.connections(), stage.unit.done()), (0, vec![]));
    assert_eq!(stage.raw(login(KEY).as_bytes()).await, r#"{"ok":{}}"#, "and this is one");
}

#[tokio::test]
async fn a_caller_s_own_bad_value_is_not_even_sent() {
    let stage = Stage::new();
    let faults = [
        stage.client.hostname("Not A Label").await.expect_err("no label"),
        stage.client.login(&wanted(), &Secret::new("with space".to_owned())).await.expect_err("no key"),
    ];
    for fault in faults {
        assert_eq!(fault.code, Code::HelperDenied);
        assert!(!fault.detail.contains("Label ") && !fault.detail.contains("with space"), "{}", fault.detail);
    }
}

#[tokio::test]
async fn what_tailscaled_refuses_comes_back_with_its_own_code() {
    let stage = Stage::with(policy(), me(), |_, _| reply(403, &[], "access denied"));
    let fault = stage.client.up().await.expect_err("denied");
    assert_eq!(fault.code, Code::LocalapiDenied);
    assert!(fault.detail.ends_with("denies it: access denied"), "{}", fault.detail);
}

/// What is logged, at any level.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().expect("not poisoned").extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[tokio::test]
async fn the_key_is_in_no_answer_and_no_log_and_each_request_leaves_a_line() {
    let log = Log::default();
    let writer = log.clone();
    let subscriber = tracing_subscriber::fmt().with_max_level(tracing::Level::TRACE).with_ansi(false);
    let dispatch = tracing::Dispatch::new(subscriber.with_writer(move || writer.clone()).finish());
    // While there is only one, what is logged where another test comes by first is off for this test too (tracing-core, callsite registry).
    let _second = tracing::Dispatch::new(tracing_subscriber::registry());
    let _guard = tracing::dispatcher::set_default(&dispatch);
    let echo = |_: usize, asked: &Asked| match asked.line.contains("start") {
        true => reply(400, &[], &format!("bad key {KEY} in {}", asked.body)),
        false => reply(200, &[], "{}"),
    };
    let stage = Stage::with(policy(), me(), echo);
    let fault = stage.client.login(&wanted(), &key()).await.expect_err("refused");
    assert!(fault.detail.contains("[redacted]") && !fault.detail.contains(KEY), "{}", fault.detail);
    stage.raw(format!("{{\"verb\":\"login\",\"key\":\"{KEY}\"}}").as_bytes()).await;
    let log = String::from_utf8(log.0.lock().expect("not poisoned").clone()).expect("text");
    assert!(!log.contains(KEY), "{log}");
    let audit: Vec<_> = log.lines().filter(|line| line.contains(": request ")).collect();
    let pid = std::process::id();
    for (line, verb, outcome) in [(audit[0], "login", "localapi_error"), (audit[1], "none", "helper_denied")] {
        let told = format!("request {verb} of process {pid}, uid {}: {outcome} after ", me());
        assert!(line.contains(&told), "{line}");
    }
    assert_eq!(audit.len(), 2, "{log}");
}

#[test]
fn a_helper_that_is_not_there_or_makes_no_sense_is_unavailable() {
    block_on(async {
        let directory = tempfile::tempdir().expect("a directory");
        let socket = directory.path().join("helper.sock");
        let client = HelperClient::new(&socket);
        assert_eq!(client.up().await.expect_err("nobody").code, Code::HelperUnavailable);
        let listener = UnixListener::bind(&socket).expect("bound");
        for (breaks, said, told) in [
            (false, "", "without an answer"),
            (false, "{\"ok\":7}", "its answer is none"),
            (false, "\0", "its answer is none"),
            (true, "", "the connection broke: "),
            (true, "{\"ok\":", "the connection broke: "),
            (true, "nonsense", "its answer is none"),
        ] {
            let peer = async {
                let (mut stream, _) = listener.accept().await.expect("connected");
                if !breaks {
                    assert_eq!(answer(&mut stream).await, r#"{"verb":"inspect"}"#);
                }
                // With the request unread, closing resets the connection.
                stream.readable().await.expect("asked");
                stream.write_all(said.as_bytes()).await.expect("sent");
            };
            let (fault, ()) = tokio::join!(client.inspect(), peer);
            let fault = fault.expect_err("no answer");
            assert_eq!(fault.code, Code::HelperUnavailable);
            assert!(fault.detail.contains(told), "{}", fault.detail);
        }
    });
}

#[tokio::test(start_paused = true)]
async fn a_helper_that_never_answers_is_given_up() {
    let directory = tempfile::tempdir().expect("a directory");
    let socket = directory.path().join("helper.sock");
    let _listener = UnixListener::bind(&socket).expect("bound");
    let fault = HelperClient::new(&socket).up().await.expect_err("no answer");
    assert!(fault.detail.ends_with("no answer within 30 s"), "{}", fault.detail);
}
