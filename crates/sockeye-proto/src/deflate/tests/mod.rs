//! Tests of RFC 7692, a module for each section.

mod codec;
mod limits;
mod negotiation;
