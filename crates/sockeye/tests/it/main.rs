//! The tests of the library, as its users see it, in one program: it is built and linked once. What looks at its
//! process, its memory or its descriptors, has a program of its own beside this one.
//!
//! It needs the default features; what needs others is marked so.

// Some of what servers and clients are set up with is for applications on hyper alone.
#![cfg_attr(not(feature = "axum"), allow(dead_code))]
#![allow(
    missing_docs,
    missing_debug_implementations,
    unreachable_pub,
    clippy::unwrap_used
)]

mod http;
mod network;
mod random;
mod wire;
mod wrongs;

mod admission;
mod all_at_once;
#[cfg(feature = "axum")]
mod axum;
mod bad_answers;
mod behind_proxies;
mod browser;
mod cancel_safety;
mod certificates;
mod closing;
mod connecting;
mod counters;
#[cfg(feature = "axum")]
mod decisions;
mod endless_stream;
mod examples;
mod forms_agree;
mod from_anywhere;
mod groups;
mod handler_ends;
mod hostile_peer;
mod inflating_takes_turns;
mod keepalive;
#[cfg(unix)]
mod leaving;
mod leaving_at_random;
mod messages;
#[cfg(feature = "metrics")]
mod metrics;
mod newest;
mod nobody_receives;
mod one_poll_one_write;
#[cfg(all(feature = "axum", feature = "http2", feature = "metrics"))]
mod one_port;
#[cfg(all(feature = "axum", feature = "http2", feature = "metrics"))]
mod over_http2;
#[cfg(feature = "http3")]
mod over_http3;
mod panicking_stream;
mod per_core;
mod proxies;
mod rates;
mod reading_takes_turns;
mod receiving_at_random;
mod reconnecting;
#[cfg(feature = "axum")]
mod routes;
mod several_runtimes;
mod slow_peer;
#[cfg(feature = "tracing")]
mod spans;
mod split_halves;
mod streams;
mod try_send;
mod unread_when_broken;
mod until_it_ends;
// Elsewhere the system decides.
#[cfg(target_os = "linux")]
mod waiting_to_be_accepted;
mod waiting_wakes_nobody;
