//! The instances of the platform, and the spec that each is served.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use anyhow::{Context as _, Result};
use serde::Serialize;
use serde_json::{Map, Value, json};
use tokio::sync::watch;

/// What an instance should be in the tailnet: the `tailnet` object of the spec.
#[derive(Clone, Debug, Serialize)]
pub struct Tailnet {
    /// The credential at the Tailscale API.
    pub client_id: String,
    /// The tags of the node.
    pub tags: Vec<String>,
    /// The node's name; without one the instance's name counts.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hostname: Option<String>,
    /// `persistent` or `ephemeral`; without it the kind decides.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lifecycle: Option<String>,
    /// Whether the node takes the tailnet's DNS.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub accept_dns: Option<bool>,
    /// Whether the node takes the tailnet's routes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub accept_routes: Option<bool>,
    /// Whether the node runs Tailscale SSH.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ssh: Option<bool>,
    /// Growing it makes the node authenticate once more.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub epoch: Option<u64>,
}

impl Tailnet {
    /// Returns a tailnet object with just what is required.
    pub fn new(client_id: &str, tags: &[&str]) -> Self {
        Self {
            client_id: client_id.to_owned(),
            tags: tags.iter().map(|&tag| tag.to_owned()).collect(),
            hostname: None,
            lifecycle: None,
            accept_dns: None,
            accept_routes: None,
            ssh: None,
            epoch: None,
        }
    }
}

/// What the spec says about the tailnet at all; the three differ in meaning.
#[derive(Clone, Debug)]
pub enum TailnetWish {
    /// The member is absent: nothing is said.
    Unsaid,
    /// The member is null: leave.
    Leave,
    /// Join so.
    Join(Tailnet),
}

/// One instance as the platform sees it.
#[derive(Clone, Debug)]
pub struct InstanceSpec {
    /// `instance.id`.
    pub id: String,
    /// `instance.kind`: `devbox`, `runner` or free text.
    pub kind: String,
    /// `instance.name`.
    pub name: String,
    /// `instance.workspace`; with the id the subject of its tokens.
    pub workspace: String,
    /// `instance.generation`; none leaves it out.
    pub generation: Option<u64>,
    /// The address its requests come from; that is how the platform knows it.
    pub source: IpAddr,
    /// What it should be in the tailnet.
    pub tailnet: TailnetWish,
    /// `report.interval_s`; none leaves it out.
    pub report_interval_s: Option<u64>,
    /// Whether the platform has finished making it: before that, its spec and token are 404.
    pub provisioned: bool,
}

impl InstanceSpec {
    /// Returns a provisioned instance of the first generation whose name is its id and of which no tailnet is said.
    pub fn new(id: &str, kind: &str, workspace: &str, source: IpAddr) -> Self {
        Self {
            id: id.to_owned(),
            kind: kind.to_owned(),
            name: id.to_owned(),
            workspace: workspace.to_owned(),
            generation: Some(1),
            source,
            tailnet: TailnetWish::Unsaid,
            report_interval_s: None,
            provisioned: true,
        }
    }

    /// Sets the name.
    pub fn named(mut self, name: &str) -> Self {
        name.clone_into(&mut self.name);
        self
    }

    /// Sets the tailnet to join.
    pub fn joining(mut self, tailnet: Tailnet) -> Self {
        self.tailnet = TailnetWish::Join(tailnet);
        self
    }

    /// Returns the subject of the instance's tokens.
    pub fn subject(&self) -> String {
        format!("{}/{}", self.workspace, self.id)
    }

    fn document(&self) -> Value {
        let mut instance = Map::new();
        instance.insert("id".into(), json!(self.id));
        instance.insert("kind".into(), json!(self.kind));
        instance.insert("name".into(), json!(self.name));
        instance.insert("workspace".into(), json!(self.workspace));
        if let Some(generation) = self.generation {
            // Opaque to the client, so it is text.
            instance.insert("generation".into(), json!(generation.to_string()));
        }
        let mut document = Map::new();
        document.insert("version".into(), json!(1));
        document.insert("instance".into(), Value::Object(instance));
        match &self.tailnet {
            TailnetWish::Unsaid => {}
            TailnetWish::Leave => drop(document.insert("tailnet".into(), Value::Null)),
            TailnetWish::Join(tailnet) => drop(document.insert("tailnet".into(), json!(tailnet))),
        }
        if let Some(interval_s) = self.report_interval_s {
            document.insert("report".into(), json!({ "interval_s": interval_s }));
        }
        Value::Object(document)
    }
}

/// A version of an instance's document.
#[derive(Clone, Debug)]
pub struct Document {
    /// The spec it was made from.
    pub spec: InstanceSpec,
    /// What is served.
    pub body: Arc<Value>,
    /// Its entity tag, quotes included (RFC 9110 §8.8.3).
    pub etag: String,
}

struct Entry {
    document: watch::Sender<Document>,
    overrides: Option<Value>,
    revision: u64,
}

/// All instances of the platform.
#[derive(Clone, Default)]
pub struct Instances {
    entries: Arc<Mutex<BTreeMap<String, Entry>>>,
}

impl Instances {
    /// Adds an instance, or replaces the one with its id.
    pub fn add(&self, spec: InstanceSpec) {
        let mut entries = self.lock();
        match entries.get_mut(&spec.id) {
            Some(entry) => entry.publish(spec),
            None => {
                let document = watch::Sender::new(document(&spec, None, 1));
                entries.insert(spec.id.clone(), Entry { document, overrides: None, revision: 1 });
            }
        }
    }

    /// Removes an instance: to whatever asks from its address the platform answers 404.
    pub fn remove(&self, id: &str) {
        self.lock().remove(id);
    }

    /// Changes an instance's spec; held requests for it are answered at once.
    ///
    /// # Errors
    /// When there is no such instance.
    pub fn change(&self, id: &str, change: impl FnOnce(&mut InstanceSpec)) -> Result<()> {
        let mut entries = self.lock();
        let entry = entries.get_mut(id).with_context(|| format!("failed to change instance {id}: not there"))?;
        let mut spec = entry.document.borrow().spec.clone();
        change(&mut spec);
        entry.publish(spec);
        Ok(())
    }

    /// Serves this document instead of the spec's own, or the spec's own again; for values that no spec can hold.
    ///
    /// # Errors
    /// When there is no such instance.
    pub fn override_document(&self, id: &str, document: Option<Value>) -> Result<()> {
        let mut entries = self.lock();
        let entry = entries.get_mut(id).with_context(|| format!("failed to override instance {id}: not there"))?;
        entry.overrides = document;
        let spec = entry.document.borrow().spec.clone();
        entry.publish(spec);
        Ok(())
    }

    /// Returns an instance's current document.
    pub fn get(&self, id: &str) -> Option<Document> {
        self.lock().get(id).map(|entry| entry.document.borrow().clone())
    }

    /// Returns the documents of the instance whose requests come from an address, now and as they change.
    pub fn from_source(&self, source: IpAddr) -> Option<watch::Receiver<Document>> {
        let entries = self.lock();
        let found = entries.values().find(|entry| entry.document.borrow().spec.source == source);
        found.map(|entry| entry.document.subscribe())
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Entry>> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Entry {
    fn publish(&mut self, spec: InstanceSpec) {
        self.revision += 1;
        self.document.send_replace(document(&spec, self.overrides.as_ref(), self.revision));
    }
}

fn document(spec: &InstanceSpec, overrides: Option<&Value>, revision: u64) -> Document {
    let body = overrides.cloned().unwrap_or_else(|| spec.document());
    Document { spec: spec.clone(), body: Arc::new(body), etag: format!("\"{}-{revision}\"", spec.id) }
}
