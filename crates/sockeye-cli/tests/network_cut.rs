//! A network that is cut, and one that comes back: two network namespaces with a cable between them.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, reason = "a test fails where it panics")]

mod program;

use std::process::Command;

use program::Program;

/// Two machines and a cable.
struct Network {
    server: String,
    client: String,
}

/// What the server's machine is called on the wire.
const ADDRESS: &str = "192.0.2.1";

impl Network {
    /// `None` where this system or user may not make one: it takes root, and `ip` of iproute2.
    fn new() -> Option<Self> {
        let id = std::process::id();
        // Names of interfaces have at most 15 letters.
        let network = Self {
            server: format!("sks{id}"),
            client: format!("skc{id}"),
        };
        let Self { server, client } = &network;
        for namespace in [server, client] {
            if let Err(why) = ip(&format!("netns add {namespace}")) {
                assert!(
                    std::env::var_os("CI").is_none(),
                    "a network cannot be made here: {why}"
                );
                eprintln!("not tested, as a network cannot be made here: {why}");
                return None;
            }
        }
        for command in [
            format!("link add {server} netns {server} type veth peer name {client} netns {client}"),
            format!("-n {server} address add {ADDRESS}/24 dev {server}"),
            format!("-n {client} address add 192.0.2.2/24 dev {client}"),
            format!("-n {server} link set {server} up"),
            format!("-n {client} link set {client} up"),
        ] {
            ip(&command).unwrap();
        }
        Some(network)
    }

    /// Draws the cable out, or puts it back.
    fn cable(&self, state: &str) {
        let Self { server, .. } = self;
        ip(&format!("-n {server} link set {server} {state}")).unwrap();
    }

    fn serve(&self) -> (Program, String) {
        let listen = format!("{ADDRESS}:0");
        let args = [&["serve", "--listen", &listen], &PINGS[..]].concat();
        let program = self.start(&self.server, &args);
        program.stdout.expect("Ctrl-C closes");
        let said = program.stdout.text();
        let url = said.split_whitespace().find(|word| word.starts_with("ws"));
        (program, url.unwrap().to_owned())
    }

    fn start(&self, namespace: &str, args: &[&str]) -> Program {
        let sockeye = env!("CARGO_BIN_EXE_sockeye");
        let mut command = Command::new("ip");
        command.args(["netns", "exec", namespace, sockeye]);
        Program::run_as(command.args(args))
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        // The cable goes with them.
        for namespace in [&self.server, &self.client] {
            let _ = ip(&format!("netns delete {namespace}"));
        }
    }
}

fn ip(args: &str) -> Result<(), String> {
    let output = Command::new("ip").args(args.split(' ')).output();
    let output = output.map_err(|error| format!("ip: {error}"))?;
    match output.status.success() {
        true => Ok(()),
        false => Err(String::from_utf8_lossy(&output.stderr).into()),
    }
}

const PINGS: [&str; 4] = ["--ping-interval", "0.3", "--ping-timeout", "0.6"];

/// No packet says that anything has ended: both find out by their pings, and the client is back when the
/// network is.
#[test]
fn both_ends_notice_and_the_client_comes_back() {
    let Some(network) = Network::new() else {
        return;
    };
    let (server, url) = network.serve();
    let args = [
        &["connect", "--reconnect", "--connect-timeout", "1"],
        &PINGS[..],
        &[&url],
    ]
    .concat();
    let mut client = network.start(&network.client, &args);
    client.write("before\n");
    client.stdout.expect("before\n");
    network.cable("down");
    server.stdout.expect("nothing came from the peer");
    client.stderr.expect("nothing came from the peer");
    network.cable("up");
    client.write("after\n");
    client.stdout.expect("before\nafter\n");
    assert_eq!(client.finish().status, Some(0));
}
