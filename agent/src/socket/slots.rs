//! How many connections there may be, and whose.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// The most connections at a time (design §7): a bound on memory and descriptors.
const TOTAL: usize = 64;
/// The most connections of one user (design §7).
pub const PER_USER: usize = 8;

/// Counts the connections of each user.
#[derive(Clone, Default)]
pub struct Slots(Arc<Mutex<HashMap<u32, usize>>>);

/// Why there is no slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Full {
    /// The user has [`PER_USER`] already.
    User,
    /// The agent has as many as it takes.
    Agent,
}

/// A place that is given back when it is dropped.
pub struct Slot {
    slots: Slots,
    uid: u32,
}

impl Slots {
    /// Takes a place for `uid`. The last [`PER_USER`] places are for those who may write.
    ///
    /// Else one person with the user ids of a user namespace could lock root out.
    pub fn take(&self, uid: u32, may_write: bool) -> Result<Slot, Full> {
        let mut users = self.lock();
        let total: usize = users.values().sum();
        let most = if may_write { TOTAL } else { TOTAL - PER_USER };
        if users.get(&uid).is_some_and(|own| *own >= PER_USER) {
            return Err(Full::User);
        }
        if total >= most {
            return Err(Full::Agent);
        }
        *users.entry(uid).or_default() += 1;
        Ok(Slot { slots: self.clone(), uid })
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<u32, usize>> {
        // A count is whole between any two statements, so a panic elsewhere does not spoil it.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        let mut users = self.slots.lock();
        if let Some(count) = users.get_mut(&self.uid) {
            *count -= 1;
            if *count == 0 {
                users.remove(&self.uid);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_user_gets_eight_and_gets_them_back() {
        let slots = Slots::default();
        let mut held: Vec<Slot> = (0..PER_USER).map(|_| slots.take(1000, false).expect("a slot")).collect();
        assert_eq!(slots.take(1000, false).err(), Some(Full::User));
        assert!(slots.take(1001, false).is_ok(), "another user is served");
        held.pop();
        assert!(slots.take(1000, false).is_ok());
    }

    #[test]
    fn many_users_cannot_lock_root_out() {
        let slots = Slots::default();
        let held: Vec<Slot> = (0..56).map(|n| slots.take(1000 + n / 8, false).expect("a slot")).collect();
        assert_eq!(slots.take(2000, false).err(), Some(Full::Agent));
        let root: Vec<Slot> = (0..8).map(|_| slots.take(0, true).expect("a slot for root")).collect();
        assert_eq!(slots.take(990, true).err(), Some(Full::Agent), "never more than 64");
        drop((held, root));
        assert!(slots.lock().is_empty(), "nothing is remembered of users that are gone");
    }
}
