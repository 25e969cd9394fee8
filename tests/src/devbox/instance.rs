//! One machine as the platform and control know it, whatever it is made of.

use std::net::{IpAddr, Ipv4Addr};

use anyhow::{Context, Result, ensure};

use crate::platform::headscale::api::Node;
use crate::platform::instance::{InstanceSpec, Tailnet};
use crate::platform::relay::Scope;
use crate::scene::Scene;

/// The credential of every instance of these stories.
pub const CLIENT: &str = "lab-client";
/// The workspace of every instance of these stories.
pub const WORKSPACE: &str = "acme";
/// Every tag that the credential may give.
const TAGS: [&str; 4] = ["tag:devbox", "tag:ci", "tag:web", "tag:db"];

/// An instance of the platform, and its node.
pub struct Instance<'a> {
    /// The scene that it is in.
    pub scene: &'a Scene,
    /// `instance.id`.
    pub id: String,
    address: IpAddr,
    subject: String,
}

/// What makes a node the same node to those who use it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// Control's own id of it.
    pub id: String,
    /// The key of the machine that it is on.
    pub machine_key: String,
    /// The first label of its MagicDNS name.
    pub name: String,
    /// Its addresses in the tailnet.
    pub addresses: Vec<String>,
}

impl From<&Node> for Identity {
    fn from(node: &Node) -> Self {
        Self {
            id: node.id.clone(),
            machine_key: node.machine_key.clone(),
            name: node.given_name.clone(),
            addresses: node.ip_addresses.clone(),
        }
    }
}

impl<'a> Instance<'a> {
    /// Tells the platform of the machine `name` at an address, which it wants in the tailnet under that name with one tag.
    pub(crate) fn announce(scene: &'a Scene, name: &str, address: Ipv4Addr, kind: &str, tag: &str) -> Self {
        scene.platform.add_credential(CLIENT, WORKSPACE, &TAGS);
        let (id, address) = (format!("i-{name}"), IpAddr::V4(address));
        let spec = InstanceSpec::new(&id, kind, WORKSPACE, address).named(name);
        scene.platform.add_instance(spec.joining(Tailnet::new(CLIENT, &[tag])));
        let subject = format!("{WORKSPACE}/{id}");
        Self { scene, id, address, subject }
    }

    /// A machine at an address that the platform's own metadata knows nothing of, and whose tokens are about `subject`.
    pub(crate) fn elsewhere(scene: &'a Scene, name: &str, address: Ipv4Addr, subject: &str) -> Self {
        scene.platform.trust(CLIENT, subject, &TAGS);
        Self { scene, id: name.to_owned(), address: IpAddr::V4(address), subject: subject.to_owned() }
    }

    /// This machine's connections.
    pub fn scope(&self) -> Scope {
        Scope::From(self.address)
    }

    /// Changes what the platform wants of the node.
    ///
    /// # Errors
    /// When it wants none.
    pub fn change(&self, change: impl FnOnce(&mut Tailnet)) -> Result<()> {
        use crate::platform::instance::TailnetWish::Join;
        let mut wanted = false;
        self.scene.platform.set_spec(&self.id, |spec| {
            if let Join(tailnet) = &mut spec.tailnet {
                change(tailnet);
                wanted = true;
            }
        })?;
        ensure!(wanted, "the platform wants no node of {}", self.id);
        Ok(())
    }

    /// The node that control has for this machine.
    ///
    /// # Errors
    /// When it has none, or more than one.
    pub async fn node(&self) -> Result<Node> {
        let mut nodes = self.nodes().await?;
        ensure!(nodes.len() == 1, "control has {} nodes of {}", nodes.len(), self.id);
        nodes.pop().context("control has no node")
    }

    /// Every node that control has for this machine.
    ///
    /// # Errors
    /// When control does not answer.
    pub async fn nodes(&self) -> Result<Vec<Node>> {
        self.scene.platform.minter.nodes_of(&self.subject()).await
    }

    /// What makes the node the same node.
    ///
    /// # Errors
    /// When control does not have exactly one.
    pub async fn identity(&self) -> Result<Identity> {
        Ok(Identity::from(&self.node().await?))
    }

    /// The subject of this instance's tokens.
    pub fn subject(&self) -> String {
        self.subject.clone()
    }

    /// How many keys were minted for this machine.
    pub fn minted(&self) -> usize {
        let subject = self.subject();
        self.scene.platform.minter.minted().values().filter(|minted| minted.request.subject == subject).count()
    }
}
