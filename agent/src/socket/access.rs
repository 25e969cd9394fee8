//! Who is at the other end of a connection, and whether they may write.

use std::collections::BTreeSet;
use std::io;

use tokio::net::UnixStream;

use crate::sys::peer_groups::peer_groups;

/// The group whose members may write.
pub const GROUP: &str = "devbox-agent";

/// Who may ask the agent to do something; reading is for everyone.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Access {
    /// These users may.
    pub uids: BTreeSet<u32>,
    /// Members of these groups may.
    pub gids: BTreeSet<u32>,
}

impl Access {
    /// Root, the user that the agent runs as, and the members of [`GROUP`] where the system has it.
    ///
    /// Asks the user database once: it may be a slow network service. Fails when it cannot be read.
    pub fn of_this_agent() -> io::Result<Self> {
        let group = nix::unistd::Group::from_name(GROUP)?;
        Ok(Self {
            uids: [0, nix::unistd::geteuid().as_raw()].into(),
            gids: group.map(|group| group.gid.as_raw()).into_iter().collect(),
        })
    }

    /// Whether `peer` may write.
    pub fn allows(&self, peer: &Peer) -> bool {
        self.uids.contains(&peer.uid) || peer.gids.iter().any(|gid| self.gids.contains(gid))
    }
}

/// The credentials that the kernel took down when the peer connected.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    /// Its effective user.
    pub uid: u32,
    /// Its effective group and its supplementary ones.
    pub gids: Vec<u32>,
}

impl Peer {
    /// Reads the credentials of a connection's other end (SO_PEERCRED, SO_PEERGROUPS).
    ///
    /// Where the kernel cannot tell the supplementary groups, the peer has none of them: that only ever denies.
    pub fn of(stream: &UnixStream) -> io::Result<Self> {
        let credentials = stream.peer_cred()?;
        let mut gids = peer_groups(stream).unwrap_or_else(|error| {
            tracing::debug!("the kernel does not tell a peer's supplementary groups: {error}");
            Vec::new()
        });
        gids.push(credentials.gid());
        Ok(Self { uid: credentials.uid(), gids })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peer(uid: u32, gids: &[u32]) -> Peer {
        Peer { uid, gids: gids.to_vec() }
    }

    #[test]
    fn a_user_or_a_group_opens_the_door_and_nothing_else() {
        let access = Access { uids: [0, 990].into(), gids: [991].into() };
        assert!(access.allows(&peer(0, &[0])));
        assert!(access.allows(&peer(990, &[990])));
        assert!(access.allows(&peer(1000, &[1000, 991])));
        assert!(!access.allows(&peer(991, &[990, 1000])));
    }

    #[test]
    fn root_and_the_agents_own_user_always_may() {
        let access = Access::of_this_agent().expect("the user database");
        assert!(access.allows(&peer(0, &[])));
        assert!(access.allows(&peer(nix::unistd::geteuid().as_raw(), &[])));
    }

    #[tokio::test]
    async fn a_connection_tells_who_is_there() {
        let (ours, _theirs) = UnixStream::pair().expect("a pair");
        let peer = Peer::of(&ours).expect("credentials");
        assert_eq!(peer.uid, nix::unistd::geteuid().as_raw());
        assert!(peer.gids.contains(&nix::unistd::getegid().as_raw()));
    }
}
