//! Minting through Headscale, made to behave as Tailscale does where the two differ.
//!
//! Tailscale gives a node that authenticates anew the tags of its new key and the name of a new hostname, and lets an expired node back
//! in with a key. Headscale keeps tags and name of the first registration and refuses an expired tagged node, so all is done here from outside.

use std::collections::{BTreeMap, HashSet};
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::Result;
use tokio::sync::watch;
use tokio::task::AbortHandle;
use tokio::time::Instant;

use super::headscale::Database;
use super::headscale::api::{HeadscaleApi, NewKey, Node, PreAuthKey};
use super::keys::{KeyRequest, Mint, MintedKey};
use super::naming;

/// How often Headscale's database is looked at while a key is out whose node may need its tags set.
///
/// Only a change of the database is a reason to ask for the nodes: each call costs Headscale a bcrypt check of the API key, 50 ms
/// of one core, which would slow the very join that is being watched.
const LOOK: Duration = Duration::from_millis(20);

/// A key that was minted, by its id.
#[derive(Clone, Debug)]
pub struct Minted {
    /// What was asked for.
    pub request: KeyRequest,
    /// Until when it can be used.
    pub until: Instant,
    /// Whether the node that returns with it had the name of its hostname, and not one that an admin gave it.
    pub follows_hostname: bool,
    /// Whether nothing is left to do for the node that uses it: Headscale gives a first registration the right tags itself.
    pub settled: bool,
}

type Book = Arc<Mutex<BTreeMap<String, Minted>>>;

/// A maker of keys in front of Headscale.
pub struct HeadscaleMinter {
    api: HeadscaleApi,
    book: Book,
    minted: watch::Sender<usize>,
    prepared: Mutex<Vec<(KeyRequest, PreAuthKey)>>,
    settling: AbortHandle,
}

impl HeadscaleMinter {
    /// Returns a maker, and starts the task that gives nodes the tags of their newer keys.
    pub fn start(api: HeadscaleApi, database: Database) -> Self {
        let book = Book::default();
        let minted = watch::Sender::new(0);
        let settling = settle(api.clone(), database, Arc::clone(&book), minted.subscribe());
        let settling = tokio::spawn(settling).abort_handle();
        Self { api, book, minted, prepared: Mutex::default(), settling }
    }

    /// Returns every key minted so far, by id.
    pub fn minted(&self) -> BTreeMap<String, Minted> {
        lock(&self.book).clone()
    }

    /// Makes keys ahead, with which later requests of the same kind are answered; their subject does not matter.
    ///
    /// Headscale spends two rounds of bcrypt on each key, 150 ms of one core of the very machine that is measured, where the real
    /// API spends its own. A measurement prepares its keys with a lifetime that covers it.
    ///
    /// # Errors
    /// When Headscale does not make them.
    pub async fn prepare(&self, request: &KeyRequest, count: usize) -> Result<()> {
        for _ in 0..count {
            let key = self.api.create_key(&new_key(request)).await?;
            self.prepared().push((request.clone(), key));
        }
        Ok(())
    }

    fn take_prepared(&self, wanted: &KeyRequest) -> Option<PreAuthKey> {
        let mut prepared = self.prepared();
        let same = |request: &KeyRequest| {
            let kind = |request: &KeyRequest| (request.ephemeral, request.reusable);
            kind(request) == kind(wanted) && same_tags(&request.tags, &wanted.tags)
        };
        let found = prepared.iter().position(|(request, _)| same(request))?;
        Some(prepared.remove(found).1)
    }

    fn prepared(&self) -> MutexGuard<'_, Vec<(KeyRequest, PreAuthKey)>> {
        self.prepared.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns the nodes that registered with a key minted for a subject.
    ///
    /// # Errors
    /// When Headscale does not answer.
    pub async fn nodes_of(&self, subject: &str) -> Result<Vec<Node>> {
        let ids = self.key_ids(subject);
        let nodes = self.api.nodes().await?.into_iter();
        Ok(nodes.filter(|node| node.key_id().is_some_and(|id| ids.contains(id))).collect())
    }

    async fn create(&self, request: KeyRequest) -> Result<MintedKey> {
        let key = async {
            match self.take_prepared(&request) {
                Some(key) => Ok(key),
                None => self.api.create_key(&new_key(&request)).await,
            }
        };
        let (returning, key) = tokio::try_join!(self.lift_expiry(&request.subject), key)?;
        let until = Instant::now() + request.lifetime;
        let follows_hostname = returning.iter().flatten().all(naming::follows_hostname);
        let minted = Minted { request, until, follows_hostname, settled: returning.is_none() };
        lock(&self.book).insert(key.id.clone(), minted);
        self.minted.send_modify(|count| *count += 1);
        Ok(MintedKey { id: key.id, key: key.key })
    }

    /// Tailscale takes an expired node back with a new key; Headscale only one whose expiry was lifted before.
    ///
    /// Returns the subject's nodes if it had a key before, so that there may be some already.
    async fn lift_expiry(&self, subject: &str) -> Result<Option<Vec<Node>>> {
        if self.key_ids(subject).is_empty() {
            return Ok(None);
        }
        let nodes = self.nodes_of(subject).await?;
        for node in nodes.iter().filter(|node| node.expired()) {
            self.api.disable_expiry(&node.id).await?;
        }
        Ok(Some(nodes))
    }

    fn key_ids(&self, subject: &str) -> HashSet<String> {
        let book = lock(&self.book);
        let mine = book.iter().filter(|(_, minted)| minted.request.subject == subject);
        mine.map(|(id, _)| id.clone()).collect()
    }
}

impl Mint for HeadscaleMinter {
    fn mint(&self, request: KeyRequest) -> Pin<Box<dyn Future<Output = Result<MintedKey>> + Send + '_>> {
        Box::pin(self.create(request))
    }
}

impl Drop for HeadscaleMinter {
    fn drop(&mut self) {
        self.settling.abort();
    }
}

fn new_key(request: &KeyRequest) -> NewKey {
    NewKey {
        user: None,
        tags: request.tags.clone(),
        reusable: request.reusable,
        ephemeral: request.ephemeral,
        lifetime: request.lifetime,
    }
}

fn lock(book: &Book) -> MutexGuard<'_, BTreeMap<String, Minted>> {
    book.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Looks at the nodes whenever the database changes while a key is out, and sleeps until the next is minted.
async fn settle(api: HeadscaleApi, database: Database, book: Book, mut minted: watch::Receiver<usize>) {
    while minted.changed().await.is_ok() {
        let mut last = None;
        while outstanding(&book) {
            let stamp = database.stamp();
            let unchanged = matches!((&last, &stamp), (Some(last), Ok(now)) if last == now);
            if !unchanged && settle_once(&api, &book).await {
                // A database that cannot be read counts as changed.
                last = stamp.ok();
            }
            tokio::time::sleep(LOOK).await;
        }
    }
}

/// Returns whether every node is as its key says; control may be down on purpose, and is then asked again.
async fn settle_once(api: &HeadscaleApi, book: &Book) -> bool {
    match api.nodes().await {
        Ok(nodes) => settle_nodes(api, book, &nodes).await,
        Err(error) => {
            let error = format!("{error:#}");
            tracing::debug!(error, "failed to look for registered nodes");
            false
        }
    }
}

fn outstanding(book: &Book) -> bool {
    let now = Instant::now();
    lock(book).values().any(|minted| !minted.settled && now < minted.until)
}

async fn settle_nodes(api: &HeadscaleApi, book: &Book, nodes: &[Node]) -> bool {
    let mut all_done = true;
    for node in nodes {
        let Some(id) = node.key_id() else { continue };
        let Some(minted) = lock(book).get(id).filter(|minted| !minted.settled).cloned() else {
            continue;
        };
        match settle_node(api, &minted, node, nodes).await {
            Ok(()) => mark_settled(book, id, &minted),
            Err(error) => {
                let error = format!("{error:#}");
                tracing::warn!(error, node = node.id, "failed to set a node's tags and name");
                all_done = false;
            }
        }
    }
    all_done
}

async fn settle_node(api: &HeadscaleApi, minted: &Minted, node: &Node, nodes: &[Node]) -> Result<()> {
    if !same_tags(&node.tags, &minted.request.tags) {
        api.set_tags(&node.id, &minted.request.tags).await?;
    }
    if minted.follows_hostname && !naming::follows_hostname(node) {
        api.rename_node(&node.id, &naming::name_by_hostname(node, nodes)).await?;
    }
    Ok(())
}

/// A reusable key is never done with: the next node may use it too.
fn mark_settled(book: &Book, id: &str, minted: &Minted) {
    if let Some(entry) = lock(book).get_mut(id) {
        entry.settled = !minted.request.reusable;
    }
}

fn same_tags(left: &[String], right: &[String]) -> bool {
    left.iter().collect::<HashSet<_>>() == right.iter().collect::<HashSet<_>>()
}
