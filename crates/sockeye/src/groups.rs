#![doc = include_str!("../docs/groups.md")]

use std::{
    collections::{BTreeMap, HashMap},
    error::Error as StdError,
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
    task::{Wake, Waker},
};

use sockeye_proto::{CloseCode, CloseFrame};

use crate::{Error, Outgoing, Prepared, Result, Sender};

/// Connections, and the groups that they are in. Clones are the same registry.
///
/// ```
/// use sockeye::{Groups, Result, WebSocket};
///
/// /// Whatever is said in a room goes to everyone in it.
/// async fn visit(mut socket: WebSocket, groups: Groups) -> Result<()> {
///     let member = groups.member(socket.sender());
///     member.join("lobby")?;
///     groups.send_to("lobby", "somebody has come");
///     while let Some(message) = socket.recv().await? {
///         member.send_to_others("lobby", message);
///     }
///     Ok(())
/// }
/// ```
///
/// Sending never waits for anyone: a message is put with what waits for each member, and each
/// member's own task writes it. What becomes of a member that does not read is up to
/// [`slow`](Self::slow). The time that sending takes grows with the group, and the registry is not
/// locked meanwhile.
///
/// # Order
/// What one task sends comes to every member in the order in which it was sent, whatever groups it
/// went to; what [`send_latest_to`](Self::send_latest_to) sends is behind all that is sent while it waits. What is
/// sent at the same time by different threads may come to one member in one order and to another in the other.
///
/// In a [`Handler`](crate::Handler), what [`Socket::send`](crate::Socket::send) sends while a
/// message is being handled comes before what this sends to the handler's own connection.
#[derive(Clone, Default)]
pub struct Groups {
    settings: Settings,
    state: Arc<Mutex<State>>,
}

/// What becomes of a member for whom much waits: since it does not read, or since its own task has not been let run
/// while more was sent to it, as in a long burst or beside work that blocks its thread.
///
/// The bytes are counted before a message is added, so that one of any size can be sent to a member
/// that reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Slow {
    /// It misses the message, and is given the next one when less waits. For messages that are worth
    /// nothing once there is a newer one.
    Skip {
        /// While this many bytes or more wait. 0 is as 1.
        above: usize,
    },
    /// It is closed, since it must miss nothing: it has left everything at once, and its Close comes
    /// behind all that waits for it, within the close timeout.
    Close {
        /// As soon as it is to be sent something while this many bytes or more wait. 0 is as 1.
        above: usize,
        /// Commonly [1008](CloseCode::POLICY_VIOLATION) or [1013](CloseCode::TRY_AGAIN_LATER), which
        /// invites the client to come again. Where this end may not send the code, 1008 is sent.
        code: CloseCode,
    },
}

impl Default for Slow {
    /// Closed with 1008 where 8 MiB wait.
    fn default() -> Self {
        Self::Close {
            above: 8 << 20,
            code: CloseCode::POLICY_VIOLATION,
        }
    }
}

#[derive(Clone, Copy, Debug)]
struct Settings {
    slow: Slow,
    groups: usize,
    groups_per_member: usize,
    name: usize,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            slow: Slow::default(),
            groups: 100_000,
            groups_per_member: 100,
            name: 256,
        }
    }
}

impl Groups {
    /// A registry without members.
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets what becomes of a member that does not read. Default: it is closed with 1008 where 8 MiB
    /// wait.
    ///
    /// As the other settings, it is one of this handle, of clones made of it later, and of members
    /// made with those.
    #[must_use]
    pub fn slow(mut self, slow: Slow) -> Self {
        self.settings.slow = slow;
        self
    }

    /// Sets how many groups there may be. A group begins with the first that joins it and ends with
    /// the last that leaves. Default 100,000.
    #[must_use]
    pub fn max_groups(mut self, count: usize) -> Self {
        self.settings.groups = count;
        self
    }

    /// Sets how many groups a member may be in. Default 100.
    #[must_use]
    pub fn max_groups_per_member(mut self, count: usize) -> Self {
        self.settings.groups_per_member = count;
        self
    }

    /// Sets how long the name of a group may be, in bytes. Default 256.
    #[must_use]
    pub fn max_name(mut self, bytes: usize) -> Self {
        self.settings.name = bytes;
        self
    }

    /// Takes a connection in, at first into no group. Once for each connection: every member of it
    /// is sent every message.
    ///
    /// It leaves everything when its connection has ended, and when the member is dropped; where this end
    /// has sent a Close that is yet to be answered, with the next message that it would be sent. So let the
    /// member live with the handler of the connection: as long as it is kept, its [`Sender`] is.
    pub fn member(&self, sender: Sender) -> Member {
        let number = {
            let mut state = self.lock();
            let number = state.next;
            state.next += 1;
            state.everyone.add(number, &sender);
            state.joined.insert(number, Vec::new());
            number
        };
        let leave = Waker::from(Arc::new(LeaveAtTheEnd {
            state: Arc::downgrade(&self.state),
            number,
        }));
        // Left there before the end is looked for, so that none falls between.
        sender.shared.waiting().ended.keep(&leave);
        if sender.shared.ended().is_some() {
            self.forget(&[number]);
        }
        Member {
            groups: self.clone(),
            number,
            leave,
        }
    }

    /// Sends a message to everyone in a group, and gives the number of members it was given to.
    /// Nobody is in a group that nobody has joined.
    ///
    /// It is compressed once for all, as a [`Prepared`] is.
    pub fn send_to<'a>(&self, group: &str, message: impl Into<Outgoing<'a>>) -> usize {
        self.group(group)
            .map_or(0, |members| self.send_but(members, None, message.into()))
    }

    /// Sends a message to every member, and gives the number of members it was given to.
    pub fn send_to_all<'a>(&self, message: impl Into<Outgoing<'a>>) -> usize {
        let everyone = self.lock().everyone.clone();
        self.send_but(everyone, None, message.into())
    }

    /// How many members there are.
    pub fn members(&self) -> usize {
        self.lock().everyone.len()
    }

    /// How many members are in a group.
    pub fn members_of(&self, group: &str) -> usize {
        self.lock().groups.get(group).map_or(0, Members::len)
    }

    /// The names of all groups that somebody is in, in no order.
    pub fn names(&self) -> Vec<String> {
        let state = self.lock();
        state.groups.keys().map(|name| name.to_string()).collect()
    }

    /// Sends a message of which only the newest is worth having to everyone in a group, and gives the
    /// number of members it was given to: where one with the same key still waits for a member, this
    /// replaces it, as with [`Sender::send_latest`]. So nobody is too slow for it while the keys are few.
    pub fn send_latest_to<'a>(
        &self,
        group: &str,
        key: u64,
        message: impl Into<Outgoing<'a>>,
    ) -> usize {
        let Some(members) = self.group(group) else {
            return 0;
        };
        let message = prepare(message.into());
        self.deliver(members, None, |sender| sender.send_latest(key, &message))
    }

    fn group(&self, name: &str) -> Option<Members> {
        self.lock().groups.get(name).cloned()
    }

    fn send_but(&self, members: Members, but: Option<u64>, message: Outgoing<'_>) -> usize {
        let message = prepare(message);
        let (Slow::Skip { above } | Slow::Close { above, .. }) = self.settings.slow;
        self.deliver(members, but, |sender| {
            sender.shared.send_below((&message).into(), above.max(1))
        })
    }

    /// Gives members a message, with nothing locked: those who are woken by it may themselves be here
    /// next.
    fn deliver(
        &self,
        members: Members,
        but: Option<u64>,
        send: impl Fn(&Sender) -> Result<()>,
    ) -> usize {
        let mut count = 0;
        let mut left = Vec::new();
        for (number, sender) in members.0.iter() {
            if but == Some(*number) {
                continue;
            }
            match send(sender) {
                Ok(()) => count += 1,
                Err(Error::Full { high_water }) => {
                    if let Slow::Close { code, .. } = self.settings.slow {
                        give_up(sender, code, high_water);
                        left.push(*number);
                    }
                }
                // Closing, closed or lost: it can be sent nothing ever again.
                Err(_) => left.push(*number),
            }
        }
        // First, or leaving would have to copy it.
        drop(members);
        self.forget(&left);
        count
    }

    /// Members leave everything, and stay forgotten.
    fn forget(&self, numbers: &[u64]) {
        if numbers.is_empty() {
            return;
        }
        let mut state = self.lock();
        let left: Vec<_> = numbers.iter().map(|number| state.end(*number)).collect();
        drop(state);
        // Where it was the last of its connection, it says goodbye: not with the registry locked.
        drop(left);
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }
}

impl fmt::Debug for Groups {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = self.lock();
        f.debug_struct("Groups")
            .field("members", &state.everyone.len())
            .field("groups", &state.groups.len())
            .finish_non_exhaustive()
    }
}

fn prepare(message: Outgoing<'_>) -> Prepared {
    match message {
        Outgoing::Prepared(prepared) => prepared,
        other => Prepared::new(other.into_owned()),
    }
}

/// Closes a member that does not read, without waiting for it.
#[cold]
fn give_up(sender: &Sender, code: CloseCode, waited: usize) {
    let close = |code| {
        sender.shared.close_without_waiting(CloseFrame::new(
            code,
            format!("the receiver does not read: {waited} bytes and more waited for it"),
        ))
    };
    if close(code).is_err_and(|error| !error.is_closed() && !error.is_lost()) {
        // Not this one's to send. Where it is closing already, nothing is left to do.
        let _ = close(CloseCode::POLICY_VIOLATION);
    }
}

/// A connection in a registry. Dropped, it leaves everything; so it does when its connection ends.
pub struct Member {
    groups: Groups,
    number: u64,
    /// What the connection wakes when it ends.
    leave: Waker,
}

impl Member {
    /// Joins a group, and tells whether it was not in it before. A group needs no preparation.
    ///
    /// # Errors
    /// [`Error::Join`] where that would be one group too many, of this member or
    /// in all, or the name is too long; [`Error::is_closed`](crate::Error::is_closed) once it
    /// has left everything, as where its connection has ended.
    pub fn join(&self, group: &str) -> Result<bool> {
        let settings = &self.groups.settings;
        if group.len() > settings.name {
            return Err(JoinError::Name {
                len: group.len(),
                most: settings.name,
            }
            .into());
        }
        let state = &mut *self.groups.lock();
        let sender = state.everyone.0.get(&self.number);
        let (Some(sender), Some(joined)) = (sender, state.joined.get_mut(&self.number)) else {
            return Err(crate::SendError::Closed.into());
        };
        if joined.iter().any(|name| **name == *group) {
            return Ok(false);
        }
        if joined.len() >= settings.groups_per_member {
            let most = settings.groups_per_member;
            return Err(JoinError::GroupsOfMember { most }.into());
        }
        let name = match state.groups.get_key_value(group) {
            Some((name, _)) => name.clone(),
            None if state.groups.len() >= settings.groups => {
                let most = settings.groups;
                return Err(JoinError::Groups { most }.into());
            }
            None => group.into(),
        };
        joined.push(name.clone());
        let group = state.groups.entry(name).or_default();
        group.add(self.number, sender);
        Ok(true)
    }

    /// Leaves a group, and tells whether it was in it.
    pub fn leave(&self, group: &str) -> bool {
        let state = &mut *self.groups.lock();
        let Some(joined) = state.joined.get_mut(&self.number) else {
            return false;
        };
        let Some(at) = joined.iter().position(|name| **name == *group) else {
            return false;
        };
        let name = joined.swap_remove(at);
        // Not the last handle: there is one for everyone.
        state.take_out(&name, self.number);
        true
    }

    /// The names of the groups it is in, in no order. Once its connection has ended, those that it
    /// was in then: so that in [`on_close`](crate::Handler::on_close) the others can be told.
    pub fn groups(&self) -> Vec<String> {
        let state = self.groups.lock();
        let joined = state.joined.get(&self.number);
        let names = joined.into_iter().flatten();
        names.map(|name| name.to_string()).collect()
    }

    /// As [`Groups::send_to`], to everyone in the group but this member, which need not be in it.
    pub fn send_to_others<'a>(&self, group: &str, message: impl Into<Outgoing<'a>>) -> usize {
        self.groups.group(group).map_or(0, |members| {
            self.groups
                .send_but(members, Some(self.number), message.into())
        })
    }
}

impl fmt::Debug for Member {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Member")
            .field("groups", &self.groups())
            .finish_non_exhaustive()
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        let mut state = self.groups.lock();
        let left = state.end(self.number);
        state.joined.remove(&self.number);
        drop(state);
        if let Some(sender) = left {
            // The connection may go on, and become a member again.
            sender.shared.waiting().ended.remove(&self.leave);
        }
    }
}

/// Why a member may not join a group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum JoinError {
    /// The name of the group is too long.
    Name {
        /// Its length, in bytes.
        len: usize,
        /// [`Groups::max_name`].
        most: usize,
    },
    /// The member is in as many groups as it may.
    GroupsOfMember {
        /// [`Groups::max_groups_per_member`].
        most: usize,
    },
    /// There are as many groups as there may be, and this one is not among them.
    Groups {
        /// [`Groups::max_groups`].
        most: usize,
    },
}

impl fmt::Display for JoinError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name { len, most } => write!(
                f,
                "the name of a group has {len} bytes, and may have {most} at most"
            ),
            Self::GroupsOfMember { most } => {
                write!(f, "the member is in {most} groups, and may be in no more")
            }
            Self::Groups { most } => write!(f, "there are {most} groups, and may be no more"),
        }
    }
}

impl StdError for JoinError {}

#[derive(Default)]
struct State {
    next: u64,
    everyone: Members,
    /// None is empty.
    groups: HashMap<Arc<str>, Members>,
    /// The names of the groups of every member that has not been dropped.
    joined: HashMap<u64, Vec<Arc<str>>>,
}

impl State {
    /// A member leaves everything, and can join nothing more.
    #[must_use = "to be dropped when nothing is locked"]
    fn end(&mut self, number: u64) -> Option<Sender> {
        let sender = self.everyone.remove(number)?;
        if let Some(joined) = self.joined.get(&number) {
            // Kept to be told.
            for name in joined.clone() {
                self.take_out(&name, number);
            }
        }
        Some(sender)
    }

    fn take_out(&mut self, group: &str, number: u64) {
        if let Some(members) = self.groups.get_mut(group) {
            members.remove(number);
            if members.len() == 0 {
                self.groups.remove(group);
            }
        }
    }
}

/// Members by their numbers, and so in the order in which they came: whoever is next to each other
/// there is so in memory too, for the most part. Whoever sends takes a clone, which costs nothing;
/// whoever joins or leaves meanwhile copies the set, once for each time something is sent.
#[derive(Clone, Default)]
struct Members(Arc<BTreeMap<u64, Sender>>);

impl Members {
    fn len(&self) -> usize {
        self.0.len()
    }

    fn add(&mut self, number: u64, sender: &Sender) {
        Arc::make_mut(&mut self.0).insert(number, sender.clone());
    }

    fn remove(&mut self, number: u64) -> Option<Sender> {
        Arc::make_mut(&mut self.0).remove(&number)
    }
}

/// Woken when a connection has ended. It does not keep the registry, nor the connection.
struct LeaveAtTheEnd {
    state: Weak<Mutex<State>>,
    number: u64,
}

impl Wake for LeaveAtTheEnd {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        if let Some(state) = self.state.upgrade() {
            let left = lock(&state).end(self.number);
            drop(left);
        }
    }
}

/// The state, even where a thread has panicked with it: no change to it is left half done.
fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}
