//! What the parts of a connection share, and where its sending side is: free, with a driver, or
//! being driven on this thread.
//!
//! A connection that a driver runs (a server's handler, or the event form) sends what was gathered
//! in one write when the task yields: the driver holds the [`Link`]. While it polls the user's
//! future, the link stands in a slot of the thread, where `send` finds it without a lock. Whoever
//! sends from elsewhere puts a command into the inbox and wakes the driver. A connection that
//! nobody drives keeps its link in [`Shared`], and `send` writes for itself.
//!
//! The receiving side is its owner's, who lends it to the link while there is nothing to take off it.

mod driving;
mod ending;
mod free;
mod inbox;
mod receiving;
mod sending;

use std::{
    net::SocketAddr,
    pin::Pin,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicUsize, Ordering},
        mpsc,
    },
    task::Waker,
};

use once_cell::race::OnceBox;
use sockeye_proto::{CloseFrame, Meter, deflate::DeflateParams};
use tokio::{
    runtime::Handle,
    time::{Instant, Sleep},
};

#[cfg(test)]
use crate::transport::WriteHalf;
#[cfg(any(feature = "metrics", feature = "tracing"))]
use crate::watch::Watch;
use crate::{
    Ended,
    address::Address,
    established::{Admitted, PeerHead, Settings},
    given,
    keepalive::{Alarm, Pulse, Step},
    link::{Link, Lost},
    reader::Reader,
    waiting::Waiting,
};
pub(crate) use ending::leaving;
use inbox::Inbox;

/// What a connection is, once it is established. None of it changes.
#[derive(Debug)]
pub(crate) struct Info {
    pub(crate) client: bool,
    pub(crate) deflate: Option<DeflateParams>,
    pub(crate) peer: Option<Address>,
    pub(crate) settings: Arc<Settings>,
    pub(crate) peer_head: PeerHead,
    /// Whom a client has connected to, without what is nobody's business.
    #[cfg(feature = "tracing")]
    pub(crate) url: Option<Box<str>>,
    pub(crate) admitted: Option<Box<Admitted>>,
}

impl Info {
    /// The extensions that were agreed, as in the header of the handshake.
    pub(crate) fn extensions(&self) -> String {
        self.deflate
            .map_or_else(String::new, |agreed| agreed.to_string())
    }

    /// The address of the peer.
    pub(crate) fn peer_addr(&self) -> Option<SocketAddr> {
        self.peer.as_ref().map(SocketAddr::from)
    }

    /// The subprotocol that was agreed.
    pub(crate) fn subprotocol(&self) -> Option<&str> {
        self.admitted.as_ref()?.subprotocol.as_deref()
    }

    /// The value of that type that a server's user has the connection remember.
    #[cfg(feature = "server")]
    pub(crate) fn state<T: std::any::Any>(&self) -> Option<&T> {
        self.admitted.as_ref()?.state()
    }

    /// The proxy that has said who the client is.
    #[cfg(feature = "server")]
    pub(crate) fn proxy(&self) -> Option<SocketAddr> {
        self.admitted.as_ref()?.proxy
    }

    /// The route, at a server that has any.
    #[cfg(feature = "server")]
    pub(crate) fn matched(&self) -> Option<&crate::server::Matched> {
        self.admitted.as_ref()?.matched.as_deref()
    }

    /// What TLS said of the client, at the server.
    #[cfg(all(feature = "server", feature = "tls"))]
    pub(crate) fn tls(&self) -> Option<&crate::server::TlsIdentity> {
        self.admitted.as_ref()?.tls.as_ref()
    }
}

/// What the parts of a connection share.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) info: Info,
    pub(crate) pulse: Pulse,
    pub(crate) meter: Arc<Meter>,
    #[cfg(any(feature = "metrics", feature = "tracing"))]
    pub(crate) watch: Watch,
    state: Mutex<State>,
    /// Tasks that wait until less output waits; there once one has.
    waiting: OnceBox<Arc<Waiting>>,
    /// Whether something is in the inbox, or another driver wants the link.
    posted: AtomicBool,
    /// Whether anyone reads, or has something to read.
    attended: AtomicBool,
    /// Whether it is to close as soon as whoever receives waits for an event.
    leaving: AtomicBool,
    /// Whether it has closed so. What still comes is discarded: nobody could answer it.
    left: AtomicBool,
    /// Whether nothing is received any more, or by somebody else: the receiving side is no longer its owner's.
    given_up: AtomicBool,
    /// Whether a message is being sent in parts: others wait for their turn.
    pub(crate) writing: AtomicBool,
    /// How much output waits with the driver.
    driver_buffered: AtomicUsize,
}

#[derive(Debug, Default)]
pub(crate) struct State {
    /// The sending side, unless a driver holds it.
    link: Option<Box<Link>>,
    /// There once something was sent while a driver held the link.
    inbox: Option<Box<Inbox>>,
    /// The task of the driver that holds the link.
    driver: Option<Waker>,
    /// In a box, as all that few connections have, or only at their end.
    seldom: Option<Box<Seldom>>,
}

/// What few connections have, or only at their end.
#[derive(Debug, Default)]
struct Seldom {
    /// The receiving side, once its owner has let go of it.
    reader: Option<Box<Reader>>,
    /// Whether that is still [lent](Link::lent).
    left_lent: bool,
    /// The receiving side, given back to its owner, who is in another task than the driver that had it.
    returned: Option<Box<Reader>>,
    /// Whether that owner has asked for it.
    asked: bool,
    /// The task that waits for an event while a driver of another task holds the link, which has it otherwise.
    reading: Option<Waker>,
    /// The task of another driver that is to have the link.
    wanted: Option<Waker>,
    /// Why the driver can write no more.
    broken: Option<Lost>,
    /// The Close that this end sent first.
    our_close: Option<CloseFrame>,
    /// The Close that is to be sent once all that has come is handled.
    leaving: Option<CloseFrame>,
    ended: Option<Ended>,
    /// Runs once a Close was sent, for who receives on a connection that nobody drives.
    closing: Option<Closing>,
}

/// What wakes a task when the peer must have answered a Close.
#[derive(Debug)]
enum Closing {
    Timer(Pin<Box<Sleep>>),
    /// A thread of its own, where there is no runtime and so no timer.
    Thread {
        wakes: Waker,
        by: Instant,
        /// Dropped, it ends the thread.
        _keeps: mpsc::Sender<()>,
    },
}

/// Where the link is, as seen by whoever wants to send.
pub(crate) enum Access<'a> {
    /// On this thread, in the poll of its driver: it is written when the poll ends.
    Driven(&'a mut Link),
    /// With nobody: the caller writes.
    Free(&'a mut Link, &'a mut State),
    /// With a driver elsewhere: it takes what is in the inbox.
    Remote(&'a mut State),
}

impl Shared {
    /// `io` says that the runtime has descriptors.
    pub(crate) fn new(info: Info, mut link: Link, io: bool) -> Arc<Self> {
        let opened = Instant::now();
        Arc::new_cyclic(|this| {
            link.alarm = Alarm::new(&info.settings.staying, opened, io, this);
            Self::with_link(info, link, opened)
        })
    }

    fn with_link(info: Info, link: Link, opened: Instant) -> Self {
        Self {
            #[cfg(any(feature = "metrics", feature = "tracing"))]
            watch: Watch::new(&info),
            info,
            pulse: Pulse::new(opened),
            meter: link.sender.meter().clone(),
            state: Mutex::new(State {
                link: Some(Box::new(link)),
                ..State::default()
            }),
            waiting: OnceBox::new(),
            posted: AtomicBool::new(false),
            attended: AtomicBool::new(false),
            leaving: AtomicBool::new(false),
            left: AtomicBool::new(false),
            given_up: AtomicBool::new(false),
            writing: AtomicBool::new(false),
            driver_buffered: AtomicUsize::new(0),
        }
    }

    fn id(&self) -> usize {
        std::ptr::from_ref(self).addr()
    }

    /// The state, even where a thread has panicked with it: no change to it is left half done.
    pub(crate) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Does what is due to keep the connection, as [`Link::tick`].
    pub(crate) fn tick(&self, link: &mut Link) -> Option<Step> {
        link.tick(&self.info.settings.staying, &self.pulse)
    }

    pub(crate) fn waiting(&self) -> &Arc<Waiting> {
        self.waiting.get_or_init(Box::default)
    }

    /// Whether a task waits for output to be written: also one that has looked at how much waits just
    /// before that was written.
    #[inline]
    pub(crate) fn is_awaited(&self) -> bool {
        matches!(self.waiting.get(), Some(waiting) if waiting.any())
    }

    fn wake_waiting(&self) {
        if let Some(waiting) = self.waiting.get() {
            waiting.wake_all();
        }
    }

    /// Works on the link, wherever it is.
    #[inline]
    pub(crate) fn access<R>(&self, work: impl FnOnce(Access<'_>) -> R) -> R {
        /// Gives the link back, also where a user's own stream or payload panics.
        struct Held<'a> {
            state: MutexGuard<'a, State>,
            link: Option<Box<Link>>,
        }
        impl Drop for Held<'_> {
            fn drop(&mut self) {
                self.state.link = self.link.take();
            }
        }
        // Taken out of the slot while it is at work, so that nothing can find it there twice.
        if let Some(mut taken) = self.take_driving()
            && let Some(link) = taken.link()
        {
            // What was sent before from elsewhere, such as within another driver, comes first.
            if self.posted.load(Ordering::Acquire) {
                self.take_posted(link);
            }
            return work(Access::Driven(link));
        }
        given::count();
        let mut state = self.lock();
        let link = state.link.take();
        let mut held = Held { state, link };
        let Held { state, link } = &mut held;
        match link {
            Some(link) => work(Access::Free(link, state)),
            None => work(Access::Remote(state)),
        }
    }

    /// How many bytes wait to be written.
    pub(crate) fn buffered(&self) -> usize {
        self.access(|access| match access {
            Access::Driven(link) | Access::Free(link, _) => link.waiting(),
            Access::Remote(state) => self.buffered_remote(state) + self.held_remote(),
        })
    }

    /// How many bytes wait to be written, for whoever does not want to wait for that.
    #[cfg(feature = "metrics")]
    pub(crate) fn waiting_about(&self) -> usize {
        let driver = self.driver_buffered.load(Ordering::Relaxed);
        let Ok(state) = self.state.try_lock() else {
            return driver;
        };
        match &state.link {
            Some(link) => link.waiting(),
            None => driver + state.posted() + self.held_remote(),
        }
    }

    /// Whether messages can still be sent.
    pub(crate) fn is_open(&self) -> bool {
        self.access(|access| match access {
            Access::Driven(link) | Access::Free(link, _) => link.sender.is_open(),
            Access::Remote(state) => state.is_open(),
        })
    }
}

impl Drop for Shared {
    /// A connection that everyone has let go of without closing it says goodbye. Where not all goes out at once a task of the
    /// runtime writes it, where there is one: it was accepted.
    fn drop(&mut self) {
        let state = self.state.get_mut().unwrap_or_else(PoisonError::into_inner);
        if let Some(mut link) = state.link.take() {
            link.leave();
            if let Some(lost) = link.broken() {
                state.seldom.get_or_insert_default().broken = Some(lost.clone());
            } else if let Ok(runtime) = Handle::try_current()
                && !link.is_written()
                // Without a Close there is none, as where the peer has gone: then nobody would end it.
                && link.deadline().is_some()
            {
                let reader = state.seldom.as_mut().and_then(|it| it.reader.take());
                let client = self.info.client;
                let mut told = self.outlived();
                runtime.spawn(async move {
                    if let Some(how) = link.finish_alone(reader, client).await {
                        told.ends(how);
                    }
                });
            }
        }
        self.closed();
    }
}

#[cfg(test)]
impl Shared {
    /// A connection without a peer, a transport and a keepalive.
    pub(crate) fn of_nobody() -> Arc<Self> {
        use sockeye_proto::{Config, Role, handshake::Request};
        let info = Info {
            client: false,
            deflate: None,
            peer: None,
            settings: Arc::default(),
            peer_head: PeerHead::Request(Request::parse(b"GET / HTTP/1.1\r\n\r\n").unwrap()),
            #[cfg(feature = "tracing")]
            url: None,
            admitted: None,
        };
        let (_, sender) = Config::new(Role::Server).halves();
        let link = Link::new(sender, WriteHalf::Gone);
        Arc::new(Self::with_link(info, link, Instant::now()))
    }

    /// One of those whose link a driver has taken, and is not polled.
    pub(crate) fn driven_elsewhere() -> Arc<Self> {
        let shared = Self::of_nobody();
        drop(shared.take_link());
        shared
    }
}
