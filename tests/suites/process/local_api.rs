//! LocalAPI as the story wants it: answers from a small model of tailscaled, notes every write, and everything that is wrong with a request.

use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use anyhow::{Context, Result, ensure};
use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::{HeaderMap, Method, StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};
use tokio::io::{AsyncWriteExt, DuplexStream, duplex};
use tokio::net::UnixListener;
use tokio::task::AbortHandle;
use tokio_util::io::ReaderStream;

/// What `login-interactive` leads to.
#[derive(Clone, Debug)]
pub enum Login {
    /// The node is admitted and online.
    Succeeds,
    /// The node waits for an admin.
    NeedsApproval,
    /// Control refuses the key in these words.
    Refused(&'static str),
    /// Control wants a person to open a URL.
    AsksForPerson,
    /// Control says nothing.
    Silent,
}

/// How tailscaled treats requests at all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Temper {
    /// It answers.
    Well,
    /// It denies everything.
    Denies,
    /// It takes requests and never answers.
    Hangs,
    /// It cannot use its state store.
    Sick,
    /// What it answers is no JSON.
    Garbles,
}

struct Model {
    status: Value,
    prefs: Value,
    logins: Vec<Login>,
    temper: Temper,
    watchers: Vec<DuplexStream>,
    writes: Vec<String>,
    wrong: Vec<String>,
    keys: u32,
    serving: Option<AbortHandle>,
}

/// The model, shared by the server and the story.
#[derive(Clone)]
pub struct LocalApi {
    model: Arc<Mutex<Model>>,
}

fn fresh_prefs() -> Value {
    json!({ "ControlURL": "", "Hostname": "", "CorpDNS": true, "RouteAll": false, "RunSSH": false, "WantRunning": false,
        "LoggedOut": false, "AdvertiseTags": null, "NetfilterMode": 2, "ShieldsUp": true, "AutoUpdate": { "Check": true, "Apply": null },
        "FromTheFuture": { "a": [1, null] } })
}

/// The status of a tailscaled without a node.
pub fn fresh_status() -> Value {
    json!({ "Version": "1.102.3-tdeadbeef", "TUN": true, "BackendState": "NeedsLogin", "AuthURL": "", "TailscaleIPs": null,
        "Self": { "ID": "", "PublicKey": "nodekey:0", "HostName": "", "DNSName": "", "Online": false, "FromTheFuture": [{}] },
        "Health": [], "FromTheFuture": { "deep": [[]] } })
}

impl LocalApi {
    /// A tailscaled without a node.
    pub fn fresh() -> Self {
        Self {
            model: Arc::new(Mutex::new(Model {
                status: fresh_status(),
                prefs: fresh_prefs(),
                logins: Vec::new(),
                temper: Temper::Well,
                watchers: Vec::new(),
                writes: Vec::new(),
                wrong: Vec::new(),
                keys: 0,
                serving: None,
            })),
        }
    }

    /// Serves on a socket.
    pub fn serve(&self, socket: &Path) -> Result<()> {
        let listener = UnixListener::bind(socket).context("failed to bind LocalAPI")?;
        let router = Router::new().fallback(handle).with_state(self.clone());
        let serving = tokio::spawn(async move { axum::serve(listener, router).await });
        self.lock().serving = Some(serving.abort_handle());
        Ok(())
    }

    /// Takes the socket away, as the end of tailscaled does: connections end, and nobody listens.
    pub fn unbind(&self, socket: &Path) -> Result<()> {
        let mut model = self.lock();
        model.watchers.clear();
        if let Some(serving) = model.serving.take() {
            serving.abort();
            std::fs::remove_file(socket).context("failed to remove the socket")?;
        }
        if model.temper == Temper::Hangs {
            // Another process is another matter.
            model.temper = Temper::Well;
        }
        Ok(())
    }

    /// Changes what the status says, and has the bus say that something changed.
    pub async fn set_status(&self, change: impl FnOnce(&mut Value)) {
        change(&mut self.lock().status);
        self.tell(json!({ "Version": "1.102.3", "State": null, "SelfChange": {}, "NetMap": null, "FromTheFuture": 1 }))
            .await;
    }

    /// Changes a preference as an admin does, and has the bus say so.
    pub async fn set_prefs(&self, change: impl FnOnce(&mut Value)) {
        let prefs = {
            let mut model = self.lock();
            change(&mut model.prefs);
            model.prefs.clone()
        };
        self.tell(json!({ "Prefs": prefs })).await;
    }

    /// What the next logins lead to; after those, they succeed.
    pub fn logins(&self, logins: &[Login]) {
        self.lock().logins = logins.to_vec();
    }

    /// How requests are treated from now on.
    pub fn set_temper(&self, temper: Temper) {
        self.lock().temper = temper;
    }

    /// The writes since the last time, in order.
    pub fn take_writes(&self) -> Vec<String> {
        std::mem::take(&mut self.lock().writes)
    }

    /// How many writes there are since then.
    pub fn writes(&self) -> usize {
        self.lock().writes.len()
    }

    /// Checks that every request so far was one that tailscaled knows, and shaped as it has to be.
    pub fn check(&self) -> Result<()> {
        let wrong = self.lock().wrong.clone();
        ensure!(wrong.is_empty(), "wrong requests: {wrong:#?}");
        Ok(())
    }

    /// A message on the bus, to every watcher.
    pub async fn tell(&self, message: Value) {
        let watchers = std::mem::take(&mut self.lock().watchers);
        let line = format!("{message}\n");
        for mut watcher in watchers {
            // One that has gone is forgotten.
            if watcher.write_all(line.as_bytes()).await.is_ok() {
                self.lock().watchers.push(watcher);
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Model> {
        self.model.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn note(&self, what: &str, body: &Value, wrong: Vec<String>) {
        let mut model = self.lock();
        model.wrong.extend(wrong.into_iter().map(|why| format!("{what}: {why}: {body}")));
        model.writes.push(what.to_owned());
    }

    fn watch(&self) -> Response {
        let (mut ours, theirs) = duplex(1 << 16);
        let initial = {
            let model = self.lock();
            json!({ "Version": "1.102.3", "SessionID": "x", "State": 2, "Prefs": model.prefs, "Health": { "Warnings": null } })
        };
        let api = self.clone();
        tokio::spawn(async move {
            if ours.write_all(format!("{initial}\n").as_bytes()).await.is_ok() {
                api.lock().watchers.push(ours);
            }
        });
        Body::from_stream(ReaderStream::new(theirs)).into_response()
    }

    async fn start(&self, body: &Value) -> Response {
        let prefs = &body["UpdatePrefs"];
        let key = body["AuthKey"].as_str();
        let down = prefs["WantRunning"] == false;
        let what = match (prefs.is_null(), key.is_some()) {
            (true, false) => "start to prove",
            (false, true) => "start with a key",
            (false, false) if down => "start to withdraw",
            _ => "start otherwise",
        };
        self.note(what, &json!("(not quoted)"), wrong_start(body));
        if !prefs.is_null() {
            let prefs = prefs.clone();
            self.set_prefs(|current| *current = prefs).await;
        }
        if what == "start to prove" {
            self.set_status(|status| status["Self"]["Online"] = json!(false)).await;
        }
        if down {
            self.set_status(|status| {
                status["AuthURL"] = json!("");
                status["BackendState"] = json!("Stopped");
            })
            .await;
        }
        StatusCode::NO_CONTENT.into_response()
    }

    async fn patch(&self, body: &Value) -> Response {
        let fields: Vec<String> = body.as_object().into_iter().flatten().map(|(name, _)| name.clone()).collect();
        let unset = fields.iter().filter(|name| !name.ends_with("Set") && body.get(format!("{name}Set")).is_none());
        let wrong = unset.map(|name| format!("{name} without {name}Set")).collect();
        self.note("PATCH prefs", body, wrong);
        let body = body.clone();
        self.set_prefs(|prefs| {
            for name in fields.iter().filter(|name| !name.ends_with("Set")) {
                prefs[name] = body[name].clone();
            }
        })
        .await;
        if body["WantRunning"] == true {
            self.set_status(|status| status["BackendState"] = json!("Running")).await;
        }
        StatusCode::OK.into_response()
    }

    async fn login(&self) -> Response {
        self.note("login-interactive", &Value::Null, Vec::new());
        let login = {
            let mut model = self.lock();
            model.keys += 1;
            if model.logins.is_empty() { Login::Succeeds } else { model.logins.remove(0) }
        };
        // Its answer comes before what it leads to.
        let api = self.clone();
        tokio::spawn(async move { api.lead_to(login).await });
        StatusCode::NO_CONTENT.into_response()
    }

    async fn lead_to(&self, login: Login) {
        match login {
            Login::Succeeds => self.admitted("Running").await,
            Login::NeedsApproval => self.admitted("NeedsMachineAuth").await,
            Login::Refused(words) => self.tell(json!({ "ErrMessage": words })).await,
            Login::AsksForPerson => {
                let url = "https://login.example/a/123";
                self.set_status(|status| status["AuthURL"] = json!(url)).await;
                self.tell(json!({ "BrowseToURL": url })).await;
            }
            Login::Silent => {}
        }
    }

    async fn admitted(&self, state: &str) {
        let (number, name) = {
            let model = self.lock();
            (model.keys, model.prefs["Hostname"].as_str().unwrap_or_default().to_owned())
        };
        self.set_status(|status| {
            *status = node(state, &name, number);
        })
        .await;
    }
}

/// The status of a node.
pub fn node(state: &str, name: &str, number: u32) -> Value {
    let running = state == "Running";
    let mut status = fresh_status();
    status["BackendState"] = json!(state);
    status["HaveNodeKey"] = json!(true);
    status["TailscaleIPs"] = json!(["100.64.0.1"]);
    status["Self"] = json!({ "ID": "n1", "PublicKey": format!("nodekey:{number}"), "HostName": name,
        "DNSName": format!("{name}.tail.example."), "Tags": ["tag:devbox"], "Online": running });
    status
}

/// What tailscaled would make of this `ipn.Options`.
fn wrong_start(body: &Value) -> Vec<String> {
    let mut wrong = Vec::new();
    let known = ["UpdatePrefs", "AuthKey"];
    let members = body.as_object().into_iter().flatten().map(|(name, _)| name);
    wrong.extend(members.filter(|name| !known.contains(&name.as_str())).map(|name| format!("unknown member {name}")));
    let prefs = &body["UpdatePrefs"];
    if !prefs.is_null() {
        // `start` replaces every preference, so that what is left out is lost.
        let kept =
            [("NetfilterMode", json!(2)), ("ShieldsUp", json!(true)), ("FromTheFuture", json!({ "a": [1, null] }))];
        wrong.extend(
            kept.iter().filter(|(name, value)| prefs[name] != *value).map(|(name, _)| format!("{name} is lost")),
        );
    }
    if body["AuthKey"].is_string() {
        let login = [("WantRunning", json!(true)), ("LoggedOut", json!(false)), ("AdvertiseTags", json!([]))];
        wrong.extend(
            login.iter().filter(|(name, value)| prefs[name] != *value).map(|(name, _)| format!("{name} is not set")),
        );
    }
    wrong
}

async fn handle(State(api): State<LocalApi>, method: Method, uri: Uri, headers: HeaderMap, body: Bytes) -> Response {
    let asked = format!("{method} {uri}");
    if headers.get("host").is_none_or(|host| host != "local-tailscaled.sock") {
        api.lock().wrong.push(format!("{asked}: host {:?}", headers.get("host")));
    }
    let temper = api.lock().temper;
    match temper {
        Temper::Hangs => return std::future::pending().await,
        Temper::Denies => return (StatusCode::FORBIDDEN, "access denied\n").into_response(),
        Temper::Sick if method != Method::GET => {
            api.note("refused", &Value::Null, Vec::new());
            let words = "cannot log in when state store is unhealthy\n";
            return (StatusCode::INTERNAL_SERVER_ERROR, words).into_response();
        }
        Temper::Garbles => return "nonsense".into_response(),
        Temper::Well | Temper::Sick => {}
    }
    let sent: Value = if body.is_empty() { Value::Null } else { serde_json::from_slice(&body).unwrap_or_default() };
    match asked.strip_prefix(&format!("{method} /localapi/v0/")).map(|path| (method.as_str(), path)) {
        Some(("GET", "status?peers=false")) => axum::Json(api.lock().status.clone()).into_response(),
        Some(("GET", "watch-ipn-bus?mask=134")) => api.watch(),
        Some(("GET", "prefs")) => axum::Json(api.lock().prefs.clone()).into_response(),
        Some(("PATCH", "prefs")) => api.patch(&sent).await,
        Some(("POST", "start")) => api.start(&sent).await,
        Some(("POST", "login-interactive")) => api.login().await,
        Some(("POST", "logout")) => {
            api.note("logout", &sent, Vec::new());
            api.set_status(|status| *status = fresh_status()).await;
            api.set_prefs(|prefs| *prefs = fresh_prefs()).await;
            StatusCode::NO_CONTENT.into_response()
        }
        _ => {
            api.lock().wrong.push(format!("{asked}: unknown"));
            StatusCode::NOT_FOUND.into_response()
        }
    }
}
