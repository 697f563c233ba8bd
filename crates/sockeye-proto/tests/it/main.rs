//! The tests of the protocol, as its users see it, in one program: it is built and linked once.
#![allow(
    missing_docs,
    missing_debug_implementations,
    unreachable_pub,
    clippy::unwrap_used
)]

mod random;
mod wire;

mod counters;
#[cfg(feature = "deflate")]
mod cut_at_every_pair;
#[cfg(feature = "deflate")]
mod inflated_in_turns;
mod many_large_frames;
mod messages_in_parts;
mod payload_taken_after_the_end;
mod prepared;
mod properties;
mod rfc6455_section_5;
mod rfc6455_section_7;
#[cfg(feature = "deflate")]
mod rfc7692;
#[cfg(feature = "deflate")]
mod sending_mixed;
mod simulated_pair;
mod tls_told_by_one_byte;
#[cfg(feature = "deflate")]
mod ways_mixed;
mod what_comes_next;
