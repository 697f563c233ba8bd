//! Spans.
fn main() {}
