//! Messages that are only worth sending while they are new: of those with the same key, the last one
//! waits for the peer, in place of the one before.

use std::collections::{HashMap, VecDeque};

use sockeye_proto::Outgoing;

use crate::{Error, Result};

/// What a message takes in memory beside its bytes, roughly: so that keys cannot pile up either.
const OVERHEAD: usize = 2 * size_of::<(u64, Outgoing<'static>)>();

/// What waits, one message for each key, in the order in which the keys began to wait: a key that is
/// replaced often keeps its place, so that none is passed over.
#[derive(Debug, Default)]
pub(crate) struct Latest {
    order: VecDeque<u64>,
    messages: HashMap<u64, Outgoing<'static>>,
    size: usize,
}

impl Latest {
    /// Puts a message where such messages wait, in the place of the one that waits for the same key, unless the others
    /// take as much memory as they may.
    ///
    /// # Errors
    /// [`Error::Full`], and what waits still does.
    pub(crate) fn put_into(
        waiting: &mut Option<Box<Self>>,
        most: usize,
        key: u64,
        message: Outgoing<'_>,
    ) -> Result<()> {
        let others = waiting.as_ref().map_or(0, |latest| latest.others(key));
        if others >= most {
            return Err(Error::Full { high_water: most });
        }
        waiting.get_or_insert_default().put(key, message);
        Ok(())
    }

    /// How much memory the messages of other keys take.
    fn others(&self, key: u64) -> usize {
        let own = self.messages.get(&key);
        self.memory() - own.map_or(0, |message| OVERHEAD + message.as_ref().len())
    }

    fn put(&mut self, key: u64, message: Outgoing<'_>) {
        let message = message.into_static();
        self.size += message.as_ref().len();
        match self.messages.insert(key, message) {
            Some(old) => self.size -= old.as_ref().len(),
            None => self.order.push_back(key),
        }
    }

    /// Takes the message whose key has waited the longest.
    pub(crate) fn take(&mut self) -> Option<Outgoing<'static>> {
        let key = self.order.pop_front()?;
        let message = self.messages.remove(&key)?;
        self.size -= message.as_ref().len();
        Some(message)
    }

    /// Puts all that waits in `newer` in place of what waits here.
    pub(crate) fn absorb(&mut self, mut newer: Self) {
        if self.order.is_empty() {
            *self = newer;
            return;
        }
        for key in newer.order {
            if let Some(message) = newer.messages.remove(&key) {
                self.put(key, message);
            }
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.order.is_empty()
    }

    /// How many bytes wait.
    pub(crate) fn size(&self) -> usize {
        self.size
    }

    /// Roughly how much memory that takes.
    pub(crate) fn memory(&self) -> usize {
        self.size + self.messages.len() * OVERHEAD
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn drain(mut latest: Latest) -> Vec<String> {
        let mut taken = Vec::new();
        while let Some(message) = latest.take() {
            taken.push(message.as_ref().to_string());
        }
        assert!(latest.is_empty());
        assert_eq!(latest.size(), 0);
        taken
    }

    #[test]
    fn a_newer_message_takes_the_place_of_the_one_that_waits() {
        let mut latest = Latest::default();
        for (key, message) in [(7, "a"), (8, "b"), (7, "aaaa"), (9, "c"), (8, "")] {
            latest.put(key, message.into());
        }
        assert_eq!(latest.size(), 5);
        assert_eq!(drain(latest), ["aaaa", "", "c"]);
    }

    #[test]
    fn what_comes_from_elsewhere_is_newer() {
        let (mut here, mut there) = (Latest::default(), Latest::default());
        here.put(1, "old".into());
        here.put(2, "kept".into());
        there.put(3, "more".into());
        there.put(1, "new".into());
        here.absorb(there);
        assert_eq!(here.size(), 11);
        assert_eq!(drain(here), ["new", "kept", "more"]);
    }
}
