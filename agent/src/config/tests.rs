//! Layers of real files, as an image builder, a platform and an administrator write them.

use std::path::PathBuf;

use proptest::prelude::*;

use super::keys::{Key, Preset};
use super::settings::{
    Endpoint, Foreign, ProviderKind, ProviderSettings, SecretFile, SpecField, SupervisorKind, TokenSource,
};
use super::{Inputs, Loaded, Settings, Sources, fragment, load, load_for_agent, resolve, show};
use crate::config::testing::settings;
use crate::files::write_atomic;

/// Three directories as an installed agent has them.
struct Machine {
    root: tempfile::TempDir,
}

impl Machine {
    fn new() -> Self {
        let root = tempfile::tempdir().unwrap();
        for name in ["usr", "run", "etc"] {
            std::fs::create_dir(root.path().join(name)).unwrap();
        }
        Self { root }
    }

    fn with(self, file: &str, text: &str) -> Self {
        write_atomic(&self.path(file), text.as_bytes(), 0o644).unwrap();
        self
    }

    fn path(&self, file: &str) -> PathBuf {
        self.root.path().join(file)
    }

    fn sources(&self, overrides: &[&str]) -> Sources {
        Sources {
            dirs: ["usr", "run", "etc", "missing"].map(|name| self.path(name)).to_vec(),
            overrides: overrides.iter().map(|text| (*text).to_owned()).collect(),
            uid: nix::unistd::geteuid().as_raw(),
        }
    }

    fn load(&self, overrides: &[&str]) -> Loaded {
        load(&self.sources(overrides)).unwrap_or_else(|errors| panic!("{errors}"))
    }

    fn settings(&self) -> Settings {
        self.load(&[]).settings
    }

    /// The problems, one a line, with the machine's directory left out.
    fn problems(&self, overrides: &[&str]) -> Vec<String> {
        let errors = load(&self.sources(overrides)).expect_err("the configuration has problems");
        let root = format!("{}/", self.root.path().display());
        errors.to_string().lines().map(|line| line.replace(&root, "")).collect()
    }
}

#[test]
fn a_machine_without_configuration_has_the_documented_defaults() {
    let settings = Machine::new().settings();
    let endpoint = Endpoint::Url("http://169.254.169.254".parse().unwrap());
    assert_eq!(settings.metadata.provider, ProviderSettings::Devbox { endpoint, bearer: None });
    assert!(!settings.metadata.may_set.contains(&SpecField::Ssh) && settings.metadata.may_set.len() == 6);
    assert_eq!(settings.tailnet.control_url.as_str(), "https://controlplane.tailscale.com/");
    assert_eq!(settings.tailnet.api_url.as_str(), "https://api.tailscale.com/");
    assert_eq!(
        (settings.daemon.supervisor, settings.daemon.unit.as_str()),
        (SupervisorKind::Systemd, "tailscaled.service")
    );
    assert_eq!(settings.daemon.socket, PathBuf::from("/run/tailscale/tailscaled.sock"));
    assert_eq!(settings.daemon.state, PathBuf::from("/var/lib/tailscale"));
    assert_eq!(settings.identity.foreign, Foreign::Refuse);
    assert!(settings.hostname.system);
    assert_eq!((settings.daemon.port, settings.daemon.min_version), (41641, (1, 80)));
    assert!(!settings.daemon.port_mapping && settings.report.enabled);
    assert_eq!(settings.log_level.to_string(), "info");
}

#[test]
fn files_are_laid_over_each_other_by_name_and_not_by_directory() {
    let machine = Machine::new()
        .with("etc/20-site.toml", "[tailnet]\nhostname = \"from-site\"\ntags = [\"tag:site\"]\n")
        .with("usr/30-image.toml", "[tailnet]\nhostname = \"from-image\"\n");
    let settings = machine.settings();
    assert_eq!(settings.tailnet.hostname.as_deref(), Some("from-image"));
    assert_eq!(settings.tailnet.tags, Some(vec!["tag:site".to_owned()]));
}

#[test]
fn a_same_name_in_a_later_directory_replaces_the_whole_file() {
    let machine = Machine::new()
        .with("usr/10-agent.toml", "[daemon]\nport = 1\ntun = \"ts1\"\n")
        .with("etc/10-agent.toml", "[daemon]\nport = 2\n");
    let daemon = machine.settings().daemon;
    assert_eq!((daemon.port, daemon.tun.as_str()), (2, "tailscale0"));
}

#[test]
fn other_files_in_the_directory_are_left_alone() {
    let machine =
        Machine::new().with("etc/README", "not TOML").with("etc/.#10.toml", "not TOML").with("etc/a.toml~", "?");
    assert_eq!(machine.settings(), Machine::new().settings());
}

#[test]
fn a_childs_socket_and_state_follow_the_agents_directories_unless_they_are_set() {
    let machine =
        Machine::new().with("etc/a.toml", "paths.runtime = \"/r\"\npaths.state = \"/s\"\ndaemon.state = \"/t\"\n");
    let machine = machine.with("etc/b.toml", "daemon.supervisor = \"child\"\n");
    let daemon = machine.settings().daemon;
    assert_eq!((daemon.socket, daemon.state), (PathBuf::from("/r/tailscaled.sock"), PathBuf::from("/t")));
}

#[test]
fn only_the_name_of_a_service_is_taken_for_a_unit() {
    for unit in ["tailscaled", ".service", "a/b.service", "tail scaled.service", "tailscaled.socket"] {
        let machine = Machine::new().with("etc/a.toml", &format!("daemon.unit = \"{unit}\"\n"));
        let problems = machine.problems(&[]);
        assert!(problems[0].contains("is no service unit's name"), "{unit}: {problems:?}");
    }
}

#[test]
fn the_command_line_wins_and_takes_bare_words() {
    let machine = Machine::new().with("etc/a.toml", "[tailnet]\nhostname = \"file\"\n");
    let overrides = [
        "tailnet.hostname=flag",
        "tailnet.tags=[\"tag:b\", \"tag:a\"]",
        "tailnet.control_url=http://127.0.0.1:8080",
        "tailnet.ssh = true",
        "daemon.port=0",
        "daemon.port=7",
        "daemon.min_version=\"1.90\"",
    ];
    let settings = machine.load(&overrides).settings;
    assert_eq!(settings.tailnet.hostname.as_deref(), Some("flag"));
    assert_eq!(settings.tailnet.tags, Some(vec!["tag:a".to_owned(), "tag:b".to_owned()]));
    assert_eq!(settings.tailnet.control_url.as_str(), "http://127.0.0.1:8080/");
    assert_eq!((settings.tailnet.ssh, settings.daemon.port, settings.daemon.min_version), (Some(true), 7, (1, 90)));
}

#[test]
fn every_problem_of_every_layer_is_said_at_once_with_place_key_and_expectation() {
    let machine = Machine::new()
        .with("usr/10-broken.toml", "[daemon]\nport = \n")
        .with("run/20-platform.toml", "[tailnet]\ncontrol_url = \"http://headscale.internal\"\ntags = [\"tag:Dev\"]\n")
        .with("etc/30-site.toml", "[tailnet]\nhostnmae = \"x\"\n\n[deamon]\nport = 1\n\n[log]\nlevel = 3\n");
    let problems = machine.problems(&["daemon.supervisor=openrc", "daemon.port"]);
    let expected = [
        ("usr/10-broken.toml:2: ", "expected"),
        ("etc/30-site.toml:2: unknown key tailnet.hostnmae; did you mean tailnet.hostname?", ""),
        ("etc/30-site.toml:4: unknown section [deamon]; did you mean [daemon]?", ""),
        ("command line: --set daemon.port: expected section.key=value", ""),
        (
            "run/20-platform.toml:2: tailnet.control_url: \"http://headscale.internal\" is plain http to a name; expected",
            "",
        ),
        ("run/20-platform.toml:3: tailnet.tags: \"tag:Dev\" is not a tag; expected 1 to 16", ""),
        ("command line: daemon.supervisor: \"openrc\" is none of these; expected \"systemd\" or \"child\"", ""),
        ("etc/30-site.toml:8: log.level: it is an integer; expected", ""),
    ];
    for (start, words) in expected {
        let found =
            problems.iter().find(|line| line.starts_with(start)).unwrap_or_else(|| panic!("{start}: {problems:#?}"));
        assert!(found.contains(words), "{found}");
    }
    assert_eq!(problems.len(), expected.len(), "{problems:#?}");
}

#[test]
fn a_bad_directory_is_one_problem_and_not_also_those_of_the_paths_made_of_it() {
    for bad in ["\"state\"", "7"] {
        let machine = Machine::new().with("etc/a.toml", &format!("paths.state = {bad}\n"));
        let problems = machine.problems(&[]);
        assert!(problems.len() == 1 && problems[0].starts_with("etc/a.toml:1: paths.state: "), "{problems:#?}");
    }
}

#[test]
fn a_value_in_place_of_a_section_and_a_number_too_large_are_said() {
    let machine = Machine::new().with("etc/a.toml", "log = \"info\"\ndaemon.port = 99999999999999999999\ntop = 1\n");
    let problems = machine.problems(&[]);
    assert!(
        problems.iter().any(|line| line == "etc/a.toml:1: log is a section, not a string; write [log]"),
        "{problems:#?}"
    );
    assert!(problems.iter().any(|line| line.starts_with("etc/a.toml:2: daemon.port: ")), "{problems:#?}");
    assert!(problems.iter().any(|line| line.starts_with("etc/a.toml:3: unknown section [top]")), "{problems:#?}");
}

#[test]
fn a_file_that_others_may_write_or_that_is_a_link_or_no_text_is_refused() {
    let machine = Machine::new().with("etc/a.toml", "");
    write_atomic(&machine.path("etc/b.toml"), b"[log]\n", 0o664).unwrap();
    write_atomic(&machine.path("etc/c.toml"), b"\xff", 0o644).unwrap();
    std::os::unix::fs::symlink(machine.path("etc/a.toml"), machine.path("etc/d.toml")).unwrap();
    let problems = machine.problems(&[]);
    assert_eq!(problems.len(), 3, "{problems:#?}");
    assert_eq!(problems[0], "refused to read etc/b.toml: group or others may write to it (mode 0664); chmod go-w");
    assert!(problems[1].starts_with("etc/c.toml: not UTF-8"), "{problems:#?}");
    assert!(problems[2].starts_with("failed to open etc/d.toml: Too many levels of symbolic links"), "{problems:#?}");
}

#[test]
fn a_file_of_neither_root_nor_the_agents_user_is_refused() {
    let machine = Machine::new().with("etc/a.toml", "");
    let sources = machine.sources(&[]);
    if sources.uid == 0 {
        // root's own files are always trusted, so this one is given to somebody.
        std::os::unix::fs::chown(machine.path("etc/a.toml"), Some(12345), None).unwrap();
    }
    let errors = load(&Sources { uid: sources.uid + 1, ..sources }).unwrap_err();
    assert!(errors.to_string().contains("etc/a.toml: it belongs to uid"), "{errors}");
    assert!(errors.to_string().ends_with("chown it to uid 0"), "{errors}");
}

#[test]
fn a_directory_that_is_none_is_said_and_a_missing_one_is_empty() {
    let machine = Machine::new();
    let sources = Sources { dirs: vec![machine.path("etc"), machine.path("none")], ..machine.sources(&[]) };
    assert!(load(&sources).is_ok());
    std::fs::write(machine.path("file"), "").unwrap();
    let sources = Sources { dirs: vec![machine.path("file")], ..sources };
    assert!(load(&sources).unwrap_err().to_string().starts_with("failed to list /"));
}

#[test]
fn the_file_provider_takes_what_no_document_tells_it_from_configuration() {
    let machine = Machine::new().with("etc/a.toml", "[metadata]\nprovider = \"file\"\n");
    assert_eq!(
        machine.problems(&[]),
        [
            "etc/a.toml:2: metadata.provider: \"file\" needs metadata.token or metadata.command",
            "etc/a.toml:2: metadata.provider: \"file\" needs tailnet.client_id",
            "etc/a.toml:2: metadata.provider: \"file\" needs tailnet.tags",
        ]
    );
    let rest =
        ["tailnet.client_id=k1", "tailnet.tags=[\"tag:ci\"]", "metadata.token=env:ID_TOKEN", "metadata.instance=i-1"];
    let token = TokenSource::Environment("ID_TOKEN".into());
    let provider = ProviderSettings::File { token, instance: Some("i-1".into()) };
    assert_eq!(machine.load(&rest).settings.metadata.provider, provider);
}

#[test]
fn providers_without_a_spec_need_one_of_configuration_and_the_others_do_not() {
    let machine = Machine::new();
    for (name, kind) in ProviderKind::NAMES {
        let chosen = format!("metadata.provider={name}");
        let needs = matches!(kind, ProviderKind::GithubActions | ProviderKind::Azure | ProviderKind::File);
        let asked = machine.sources(&[&chosen]);
        let problems = load(&asked).map(drop).map_err(|errors| errors.to_string()).err().unwrap_or_default();
        assert_eq!(problems.contains(&format!("\"{name}\" needs tailnet.tags")), needs, "{name}: {problems}");
    }
}

#[test]
fn the_running_agent_is_a_provider_for_others_and_not_for_itself() {
    let machine = Machine::new().with("etc/a.toml", "[metadata]\nprovider = \"agent\"\n");
    let endpoint = Endpoint::Url("http://169.254.169.254".parse().unwrap());
    assert_eq!(machine.settings().metadata.provider, ProviderSettings::Agent { endpoint });
    let refused = load_for_agent(&machine.sources(&[])).unwrap_err().to_string();
    assert!(refused.contains("etc/a.toml:2: metadata.provider: the agent cannot ask itself"), "{refused}");
    assert!(load_for_agent(&machine.sources(&["metadata.provider=devbox"])).is_ok());
}

#[test]
fn what_a_cloud_is_asked_for_comes_from_configuration() {
    let machine = Machine::new();
    let chosen =
        ["metadata.provider=gce", "metadata.endpoint=http://127.0.0.1:8080", "metadata.identity=ci@acme.example"];
    let endpoint = Endpoint::Url("http://127.0.0.1:8080".parse().unwrap());
    let provider = ProviderSettings::Gce { endpoint, identity: Some("ci@acme.example".into()) };
    assert_eq!(machine.load(&chosen).settings.metadata.provider, provider);
    let chosen = ["metadata.provider=namespace", "metadata.integration=staging"];
    let provider = ProviderSettings::Namespace { integration: Some("staging".into()), instance: None };
    assert_eq!(machine.load(&chosen).settings.metadata.provider, provider);
    assert!(
        provider.keeps("NSC_TOKEN_SPEC") && !provider.keeps("NSC_TOKEN_FILE"),
        "only the variable that is a credential"
    );
    assert!(machine.problems(&["metadata.identity=a/b"])[0].contains("metadata.identity"));
}

#[test]
fn a_bearer_secret_never_goes_over_plain_http() {
    let machine = Machine::new().with("etc/a.toml", "[metadata]\nbearer = \"credential:devbox-agent.metadata\"\n");
    for (endpoint, set) in [(None, "default"), (Some("metadata.endpoint=http://10.0.0.1"), "command line")] {
        assert_eq!(
            machine.problems(endpoint.as_slice()),
            [format!(
                "etc/a.toml:2: metadata.bearer: metadata.endpoint ({set}) is plain http, which would show the secret; use https or unix:"
            )]
        );
    }
    for endpoint in ["https://metadata.example.com", "unix:/run/metadata.sock"] {
        let settings = machine.load(&[&format!("metadata.endpoint={endpoint}")]).settings;
        let ProviderSettings::Devbox { bearer, .. } = settings.metadata.provider else {
            panic!("the default provider")
        };
        assert_eq!(bearer, Some(SecretFile::Credential("devbox-agent.metadata".into())));
    }
}

#[test]
fn token_and_command_together_are_refused_naming_both_places() {
    let machine = Machine::new()
        .with("usr/a.toml", "[metadata]\nprovider = \"file\"\ntoken = \"/run/token\"\n")
        .with("etc/b.toml", "[metadata]\ncommand = [\"/bin/token\"]\n");
    let problems = machine.problems(&["tailnet.client_id=k1", "tailnet.tags=[\"tag:ci\"]"]);
    assert_eq!(
        problems,
        ["etc/b.toml:2: metadata.command: metadata.token is set too, at usr/a.toml:3; remove one of the two"]
    );
}

#[test]
fn a_token_pasted_into_the_configuration_is_not_repeated_anywhere() {
    let machine = Machine::new().with("etc/a.toml", "[metadata]\ntoken = \"eyJCANARY\"\n");
    let problems = machine.problems(&["metadata.token=eyJCANARY", "eyJCANARY=1", "metadata.token=\"eyJCANARY"]);
    assert!(
        problems.iter().filter(|line| line.contains("metadata.token")).all(|line| !line.contains("CANARY")),
        "{problems:#?}"
    );
}

#[test]
fn what_show_prints_means_the_same_when_it_is_read_again() {
    let machine = Machine::new().with("etc/a.toml", "[tailnet]\ntags = [\"tag:ci\"]\nhostname = \"web\"\n");
    let before = machine.load(&["metadata.endpoint=unix:/run/md.sock"]);
    let mut text = Vec::new();
    show::write(&before.origins, &mut text).unwrap();
    let text = String::from_utf8(text).unwrap();
    assert!(text.contains(&format!("hostname = \"web\"  # from {}\n", machine.path("etc/a.toml").display())), "{text}");
    assert_eq!(Machine::new().with("etc/b.toml", &text).settings(), before.settings);
}

#[test]
fn every_default_is_valid_by_itself() {
    let mut problems = Vec::new();
    // Set on the command line a default is checked like any other value.
    let defaults: Vec<_> =
        Key::ALL.iter().filter_map(|key| Some(format!("{}={}", key.name(), key.preset().value()?))).collect();
    let layers: Vec<_> = defaults.iter().map(|text| fragment::parse_override(text, &mut problems)).collect();
    let settings = resolve::resolve(&Inputs::merge(layers), &mut problems);
    assert!(problems.is_empty(), "{problems:?}");
    assert_eq!(settings, Some(Machine::new().settings()));
}

/// A value that some key might take, or that no key takes.
fn toml_value() -> impl Strategy<Value = String> {
    let written = prop_oneof![
        Just("true".to_owned()),
        any::<i64>().prop_map(|number| number.to_string()),
        any::<f64>().prop_map(|number| number.to_string()),
        "[ -~]{0,12}".prop_map(|text| toml::Value::from(text).to_string()),
        prop::collection::vec("(tag:)?[a-z]{0,4}", 0..3).prop_map(|words| toml::Value::from(words).to_string()),
        "(https?|unix|env):/{0,2}[a-z0-9.:@/]{0,12}".prop_map(|text| toml::Value::from(text).to_string()),
        Just("{ a = { b = 1 } }".to_owned()),
        "\\PC{0,8}",
    ];
    let example = prop::sample::select(Key::ALL).prop_map(|key| match key.preset() {
        Preset::Unset(example) => example.to_owned(),
        preset => preset.value().map_or_else(|| "\"/p\"".to_owned(), |value| value.to_string()),
    });
    prop_oneof![written, example]
}

#[test]
fn a_proxy_is_that_of_a_tailscaled_that_the_agent_starts() {
    assert_eq!(settings(&[]).tailnet.proxy_variables().count(), 0);
    let variables: Vec<_> = settings(&["tailnet.proxy=http://10.0.0.3:3128"]).tailnet.proxy_variables().collect();
    let proxy = |name: &str| (name.into(), "http://10.0.0.3:3128/".into());
    assert_eq!(variables, [proxy("HTTPS_PROXY"), proxy("HTTP_PROXY")]);
}

fn name() -> impl Strategy<Value = String> {
    let key = prop::sample::select(Key::ALL).prop_map(|key| key.name().to_owned());
    prop_oneof![8 => key, 1 => "[a-z_]{1,8}\\.[a-z_]{1,8}", 1 => "\\PC{0,8}"]
}

fn layer() -> impl Strategy<Value = String> {
    let lines = prop::collection::vec((name(), toml_value()), 0..6);
    lines.prop_map(|lines| lines.into_iter().map(|(name, value)| format!("{name} = {value}\n")).collect())
}

proptest! {
    #[test]
    fn any_layers_give_settings_or_problems(
        files in prop::collection::vec(prop_oneof![layer(), "\\PC{0,40}"], 0..4),
        overrides in prop::collection::vec((name(), toml_value()).prop_map(|(name, value)| format!("{name}={value}")), 0..3),
    ) {
        let mut problems = Vec::new();
        let path = PathBuf::from("/f.toml");
        let mut layers: Vec<_> = files.iter().map(|text| fragment::parse(&path, text, &mut problems)).collect();
        layers.extend(overrides.iter().map(|text| fragment::parse_override(text, &mut problems)));
        let inputs = Inputs::merge(layers);
        let syntax = problems.len();
        let settings = resolve::resolve(&inputs, &mut problems);
        prop_assert_eq!(settings.is_none(), problems.len() > syntax, "a failure has a problem, and only a failure");
        let lines = super::ConfigErrors(problems);
        prop_assert!(lines.to_string().lines().count() <= lines.0.len(), "one line a problem");
    }

    #[test]
    fn what_show_prints_reads_back_to_the_same_settings(lines in prop::collection::btree_map(name(), toml_value(), 0..5)) {
        let overrides: Vec<_> = lines.iter().map(|(name, value)| format!("{name}={value}")).collect();
        let mut problems = Vec::new();
        let inputs = Inputs::merge(overrides.iter().map(|text| fragment::parse_override(text, &mut problems)).collect::<Vec<_>>());
        if let Some(settings) = resolve::resolve(&inputs, &mut problems) {
            let mut text = Vec::new();
            show::write(&inputs, &mut text).unwrap();
            let mut again = Vec::new();
            let shown = fragment::parse(&PathBuf::from("/f.toml"), std::str::from_utf8(&text).unwrap(), &mut again);
            prop_assert_eq!(resolve::resolve(&Inputs::merge([shown]), &mut again), Some(settings));
        }
    }
}
