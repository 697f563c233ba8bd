//! The rolling restart with few clients and a short window; `./test restart` has 10,000.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, reason = "a test fails where it panics")]

use std::process::Command;

#[test]
fn two_hundred_clients_move_to_the_next_server_and_lose_nothing() {
    let program = env!("CARGO_BIN_EXE_restart");
    let run = Command::new(program).args(["200", "2"]).output().unwrap();
    let said = String::from_utf8_lossy(&run.stdout);
    let errors = String::from_utf8_lossy(&run.stderr);
    assert!(run.status.success(), "{said}{errors}");
    assert!(said.contains("200 clients moved"), "{said}");
    assert!(said.ends_with("8 passed, 0 failed\n"), "{said}");
}
