//! Broadcast: each message goes to everyone who is connected, and nobody waits for anybody.

use std::{
    collections::HashMap,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use futures_sink::Sink;
use sockeye::{CloseCode, Ended, Handler, MessageRef, Prepared, Sender, Socket};

use super::visits::Visit;
use crate::quantity::Traffic;

/// How many bytes may wait for a member, in bytes; whoever lets more wait is closed.
///
/// It is checked before a message is added, so that a message of any size can be sent to a member
/// that reads. It is several times the high-water mark, at which a member's own messages are no
/// longer read: whoever only talks to itself faster than it listens is slowed down, not closed.
const PATIENCE: usize = 8 << 20;

/// Everyone who is connected.
#[derive(Default)]
pub(super) struct Room {
    seats: Mutex<HashMap<u64, Seat>>,
}

struct Seat {
    sender: Sender,
    sent: Traffic,
    /// It did not read, and is being closed.
    given_up: bool,
}

impl Room {
    fn lock(&self) -> MutexGuard<'_, HashMap<u64, Seat>> {
        // A count that a panic left behind is still a count.
        self.seats.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Gives a message to everyone, without waiting for any.
    fn publish(&self, message: &Prepared) {
        let mut slow = Vec::new();
        for (number, seat) in self.lock().iter_mut().filter(|(_, seat)| !seat.given_up) {
            if seat.sender.buffered_amount() > PATIENCE {
                seat.given_up = true;
                slow.push((*number, seat.sender.clone()));
            } else if Pin::new(&mut seat.sender)
                .start_send(message.clone())
                .is_ok()
            {
                // Refused only where the connection is closing.
                seat.sent.add(message.message().len());
            }
        }
        for (_, sender) in slow {
            // Its Close waits behind all that it has not read; the close timeout ends that.
            tokio::spawn(async move {
                let reason = "this end does not read: more than 8 MiB waited for it";
                // Refused where it is closing already.
                let _ = sender.close(CloseCode::POLICY_VIOLATION, reason).await;
            });
        }
    }
}

pub(super) struct Member {
    visit: Visit,
    room: Arc<Room>,
}

impl Member {
    pub(super) fn new(visit: Visit, room: Arc<Room>) -> Self {
        Self { visit, room }
    }

    fn leave(&mut self) {
        if let Some(seat) = self.room.lock().remove(&self.visit.number()) {
            self.visit.sent = seat.sent;
        }
    }
}

impl Handler for Member {
    fn on_open(&mut self, socket: &mut Socket) {
        self.visit.open(socket);
        let seat = Seat {
            sender: socket.sender(),
            sent: Traffic::default(),
            given_up: false,
        };
        self.room.lock().insert(self.visit.number(), seat);
    }

    fn on_message(&mut self, _: &mut Socket, message: MessageRef<'_>) {
        self.visit.received.add(message.len());
        self.room.publish(&Prepared::new(message));
    }

    fn on_close(&mut self, _: &mut Socket, ended: &Ended) {
        self.leave();
        self.visit.close(ended);
    }
}

/// A connection can end without a last word, when the server does not wait for it any longer.
impl Drop for Member {
    fn drop(&mut self) {
        self.leave();
    }
}
