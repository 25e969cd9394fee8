//! The few log entries that others wait for, by ids that stay the same (journald's `MESSAGE_ID`, sd-id128(3)).

use super::phase::Phase;

/// What happened to the node, as far as others act on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Milestone {
    /// It is on the tailnet, for the first time since it was off it.
    Joined,
    /// It is on the tailnet again.
    Healed,
    /// A person must act.
    Blocked,
    /// It is off the tailnet, as asked.
    Left,
}

impl Milestone {
    /// The entry's id.
    pub fn message_id(self) -> &'static str {
        match self {
            Self::Joined => "c2c5509515cb4ccf939414968bf79ef3",
            Self::Healed => "bc0a6cb295054bb5af24c2d2827aff1a",
            Self::Blocked => "facabceb33114fdbb14f3b0daef66f25",
            Self::Left => "e2009040a37b4821b03c822c3f438b86",
        }
    }
}

/// Tells milestones from the phases that follow each other.
#[derive(Debug, Default)]
pub(super) struct Milestones {
    was_online: bool,
}

impl Milestones {
    /// What it means that the agent has come to `phase`.
    pub fn reached(&mut self, phase: Phase) -> Option<Milestone> {
        match phase {
            Phase::Online if std::mem::replace(&mut self.was_online, true) => Some(Milestone::Healed),
            Phase::Online => Some(Milestone::Joined),
            Phase::Blocked => Some(Milestone::Blocked),
            Phase::Left => {
                self.was_online = false;
                Some(Milestone::Left)
            }
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_joins_once_and_heals_from_then_on_until_it_has_left() {
        let mut milestones = Milestones::default();
        let phases = [Phase::Joining, Phase::Online, Phase::Degraded, Phase::Online, Phase::Left, Phase::Online];
        let reached: Vec<_> = phases.into_iter().filter_map(|phase| milestones.reached(phase)).collect();
        assert_eq!(reached, [Milestone::Joined, Milestone::Healed, Milestone::Left, Milestone::Joined]);
        assert_eq!(milestones.reached(Phase::Blocked), Some(Milestone::Blocked));
    }

    #[test]
    fn every_milestone_has_an_id_of_its_own() {
        let all = [Milestone::Joined, Milestone::Healed, Milestone::Blocked, Milestone::Left];
        let ids: std::collections::BTreeSet<_> = all.iter().map(|milestone| milestone.message_id()).collect();
        assert_eq!(ids.len(), all.len());
        assert!(ids.iter().all(|id| id.len() == 32 && id.chars().all(|c| c.is_ascii_hexdigit())));
    }
}
