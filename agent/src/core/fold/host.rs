//! What the machine itself tells.

use super::Ending;
use crate::clock::BootTime;
use crate::core::effect::Kind;
use crate::core::world::{Stopping, World};
use crate::systemd::HostEvent;

/// How long the removal of an ephemeral node may hold up a stop (design §5).
const REMOVAL_BOUND: std::time::Duration = std::time::Duration::from_secs(1);

impl World {
    pub(super) fn told(&mut self, event: HostEvent, now: BootTime) {
        match event {
            HostEvent::Listening => self.listens(),
            HostEvent::GoesDown(going) => self.host.goes_down = going,
            HostEvent::Woke => self.resumed("the machine was woken", now),
            // tailscaled may just have been installed or unmasked: what was wrong with its unit has to be found out anew.
            HostEvent::UnitsChanged => self.forgive_unless_running(Kind::StartDaemon),
        }
    }

    /// A watch that lasts never succeeds. What was missed meanwhile may be that tailscaled's unit was mended.
    fn listens(&mut self) {
        let watch = self.track_mut(Kind::WatchHost);
        let again = watch.fault.take().is_some();
        watch.attempts = 0;
        if again {
            self.forgive_unless_running(Kind::StartDaemon);
        }
    }

    /// The first word counts; a logout that failed long ago says nothing about the one that is needed now.
    pub(super) fn stop(&mut self, ending: Ending, now: BootTime) {
        if self.stopping.is_none() {
            let all = ending == Ending::WithMachine || self.host.goes_down;
            let removes = all || ending == Ending::ForGood;
            let stays = self.configured.unit && !all;
            self.stopping = Some(Stopping { removes, stays, deadline: now + REMOVAL_BOUND });
            self.forgive_unless_running(Kind::Logout);
        }
    }
}
