//! The connections that are open, and what those that have ended carried.

use std::{
    array,
    collections::HashMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, Weak,
        atomic::{AtomicU64, Ordering},
    },
};

use sockeye_proto::{Counters, Meter};

use crate::shared::Shared;

/// So many that adding up the connections of one holds up those that open and end there for some tens of
/// microseconds, with ten thousand open.
const SHARDS: usize = 64;

#[derive(Debug)]
pub(super) struct Live {
    next: AtomicU64,
    shards: [Mutex<Shard>; SHARDS],
}

#[derive(Debug, Default)]
struct Shard {
    open: HashMap<u64, Open>,
    /// What the connections that have ended carried.
    ended: Counters,
}

#[derive(Debug)]
struct Open {
    /// Held, so that what was counted once does not vanish for a moment while a connection ends.
    meter: Arc<Meter>,
    shared: Weak<Shared>,
}

/// All connections together.
#[derive(Debug, Default)]
pub(super) struct Totals {
    /// Of those that have ended too.
    pub(super) counters: Counters,
    /// How many bytes of output wait.
    pub(super) waiting: u64,
}

impl Default for Live {
    fn default() -> Self {
        Self {
            next: AtomicU64::new(0),
            shards: array::from_fn(|_| Mutex::default()),
        }
    }
}

impl Live {
    /// Adds a connection, and gives the number that it leaves with.
    pub(super) fn enter(&self, meter: Arc<Meter>, shared: Weak<Shared>) -> u64 {
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        self.shard(id).open.insert(id, Open { meter, shared });
        id
    }

    /// Keeps what a connection has carried, and nothing else of it.
    pub(super) fn leave(&self, id: u64) {
        let mut shard = self.shard(id);
        if let Some(open) = shard.open.remove(&id) {
            shard.ended += open.meter.counters();
        }
    }

    /// Adds everything up, one shard after another.
    pub(super) fn totals(&self) -> Totals {
        let mut totals = Totals::default();
        // Let go of without the lock: the last one to have a connection ends it, and that takes the lock.
        let mut held = Vec::new();
        for id in 0..SHARDS as u64 {
            let shard = self.shard(id);
            totals.counters += shard.ended;
            for open in shard.open.values() {
                totals.counters += open.meter.counters();
                held.extend(open.shared.upgrade());
            }
            drop(shard);
            let waiting = held.drain(..).map(|shared| shared.waiting_about() as u64);
            totals.waiting += waiting.sum::<u64>();
        }
        totals
    }

    fn shard(&self, id: u64) -> MutexGuard<'_, Shard> {
        self.shards[(id % SHARDS as u64) as usize]
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}
