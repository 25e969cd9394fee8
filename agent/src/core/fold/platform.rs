//! What the metadata answers become.

use std::time::Duration;

use crate::clock::{BootTime, Now};
use crate::core::effect::Kind;
use crate::core::reason::{Code, Fault};
use crate::core::world::{Configured, Credentials, World};
use crate::metadata::Read;
use crate::metadata::spec::{Spec, Wanted};
use crate::retry::{METADATA, jitter};

/// How often metadata is read from a server that does not hold requests (protocol, "Requests").
const POLL: Duration = Duration::from_secs(60);

/// `tailnet: null` must be read a second time at least this much later: leaving cannot be undone.
pub(in crate::core) const CONFIRM_NULL: Duration = Duration::from_secs(10);

/// Reads follow each other no faster than this, however fast the document changes.
const READ_SPACING: Duration = Duration::from_secs(1);

impl World {
    /// Asks for a fresh read at once.
    pub(super) fn reread(&mut self) {
        self.platform.round += 1;
        self.platform.polls = false;
        let track = self.track_mut(Kind::ReadSpec);
        track.not_before = track.not_before.filter(|_| track.asked);
    }

    /// Takes in that configuration is another one. What a document comes to depends on it, so the whole of it is wanted again.
    pub(in crate::core) fn reconfigured(&mut self, configured: Configured) {
        self.configured = configured;
        self.platform.etag = None;
        self.credentials = Credentials::default();
        self.tracks.remove(&Kind::Connect);
    }

    pub(super) fn read(&mut self, read: Read, wait: Duration, began: BootTime, now: Now) {
        let before = self.platform.etag.clone();
        self.platform.fetched_at = Some(now.real);
        let resumed = std::mem::take(&mut self.platform.resumed);
        match read {
            Read::Unchanged => {}
            Read::Refused { fault, etag } => {
                self.platform.etag = etag;
                self.platform.refused = Some(fault);
            }
            Read::Document { spec, etag } => match self.impostor(&spec, resumed) {
                Some(fault) => return self.distrust(fault, now.boot),
                None => {
                    self.platform.etag = etag;
                    self.adopt(*spec, now.boot);
                }
            },
        }
        self.pace_reads(before, wait, began, now.boot);
    }

    /// The tag of another machine's document is not kept: at the real server it may stand for the real one.
    fn distrust(&mut self, fault: Fault, now: BootTime) {
        self.platform.refused = Some(fault);
        self.track_mut(Kind::ReadSpec).not_before = Some(now + METADATA.cap);
    }

    fn impostor(&self, spec: &Spec, resumed: bool) -> Option<Fault> {
        let known = self.platform.instance.as_ref().filter(|_| self.platform.confirmed && !resumed)?;
        let (ours, theirs) = (&known.id, &spec.instance.id);
        (ours != theirs).then(|| {
            let detail = format!("this machine is instance {ours}, but the metadata now speaks of {theirs}");
            Fault::new(Code::MetadataUntrusted, detail)
        })
    }

    fn adopt(&mut self, spec: Spec, now: BootTime) {
        let moved_on = self.platform.confirmed
            && self.platform.instance.as_ref().is_some_and(|instance| instance.generation != spec.instance.generation);
        self.platform.instance = Some(spec.instance.clone());
        self.platform.report_interval = Some(spec.report_interval);
        self.platform.confirmed = true;
        self.platform.refused = None;
        match &spec.tailnet {
            Wanted::Unsaid => self.platform.null_since = None,
            Wanted::Nothing => self.null_read(now),
            Wanted::Node(tailnet) => {
                self.platform.tailnet = Some(tailnet.clone());
                self.platform.null_since = None;
                self.platform.withdrawn = false;
            }
        }
        let tailnet = self.platform.tailnet.clone().map_or(Wanted::Unsaid, Wanted::Node);
        self.record.spec = Some(Spec { tailnet, ..spec });
        if moved_on {
            tracing::info!("the instance's generation moved on");
            self.start_over_after_resume(now);
        }
    }

    fn null_read(&mut self, now: BootTime) {
        let since = *self.platform.null_since.get_or_insert(now);
        if now.since(since) >= CONFIRM_NULL {
            self.platform.withdrawn = true;
            self.platform.tailnet = None;
        } else {
            // Without the tag the next answer is the whole document again.
            self.platform.etag = None;
        }
    }

    fn pace_reads(&mut self, before: Option<String>, wait: Duration, began: BootTime, now: BootTime) {
        let early = now.since(began) < wait / 2;
        let same = before.is_some() && before == self.platform.etag;
        let confirming = self.platform.null_since.is_some() && !self.platform.withdrawn;
        if (early && same) || (self.platform.etag.is_none() && !confirming) {
            self.platform.polls = true;
        }
        self.track_mut(Kind::ReadSpec).not_before = if confirming {
            Some(now + CONFIRM_NULL)
        } else if self.platform.polls {
            Some(now + jitter(POLL, 0.1))
        } else {
            Some(began + READ_SPACING).filter(|_| !wait.is_zero() || before.is_some())
        };
    }
}
