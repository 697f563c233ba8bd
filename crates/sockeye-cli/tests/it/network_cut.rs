//! Networks that are cut and come back, that swallow what is sent, and whose addresses change: two network
//! namespaces with a cable between them.

use std::{
    fs,
    path::PathBuf,
    process::Command,
    sync::atomic::{AtomicU32, Ordering},
};

use crate::program::{Program, eventually};

/// Two machines and a cable.
struct Network {
    server: String,
    client: String,
}

/// What the server's machine is called on the wire.
const ADDRESS: &str = "192.0.2.1";
const ADDRESS_6: &str = "2001:db8::1";

/// An address of the same network that nothing answers for: what goes there leaves the client's machine
/// addressed to a card that is not there.
const BLACK_HOLE: &str = "2001:db8::dead";

impl Network {
    /// `None` where this system or user may not make one: it takes root, and `ip` of iproute2.
    fn new() -> Option<Self> {
        static NETWORKS: AtomicU32 = AtomicU32::new(0);
        let id = std::process::id();
        let number = NETWORKS.fetch_add(1, Ordering::Relaxed);
        // Names of interfaces have at most 15 letters.
        let network = Self {
            server: format!("sks{id}-{number}"),
            client: format!("skc{id}-{number}"),
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
            // Without a wait for whoever else might have the address.
            format!("-n {server} address add {ADDRESS_6}/64 dev {server} nodad"),
            format!("-n {client} address add 2001:db8::2/64 dev {client} nodad"),
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
        self.serve_at(&format!("{ADDRESS}:0"))
    }

    fn serve_at(&self, listen: &str) -> (Program, String) {
        let args = [&["serve", "--listen", listen], &PINGS[..]].concat();
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

/// What the client's machine takes names for, `/etc/hosts` within its namespace.
struct Hosts {
    directory: PathBuf,
}

impl Hosts {
    fn new(network: &Network) -> Self {
        let directory = PathBuf::from("/etc/netns").join(&network.client);
        fs::create_dir_all(&directory).unwrap();
        Self { directory }
    }

    /// Written in place: the programs of the namespace see this very file.
    fn say(&self, address: &str, name: &str) {
        fs::write(self.directory.join("hosts"), format!("{address} {name}\n")).unwrap();
    }
}

impl Drop for Hosts {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.directory);
        // Unless it was there, or others use it.
        let _ = fs::remove_dir("/etc/netns");
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

const RECONNECT: [&str; 4] = ["connect", "--reconnect", "--connect-timeout", "1"];

const PINGS: [&str; 4] = ["--ping-interval", "0.3", "--ping-timeout", "0.6"];

/// No packet says that anything has ended: both find out by their pings, and the client is back when the
/// network is.
#[test]
fn both_ends_notice_and_the_client_comes_back() {
    let Some(network) = Network::new() else {
        return;
    };
    let (server, url) = network.serve();
    let args = [&RECONNECT[..], &PINGS[..], &[&url]].concat();
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

/// What goes to the first address of a name, of IPv6, is swallowed: 250 ms later its IPv4 address is tried as
/// well (RFC 8305 §5).
#[test]
fn a_live_address_beside_a_black_hole_is_reached_within_400_ms() {
    let Some(network) = Network::new() else {
        return;
    };
    let Network { client, .. } = &network;
    ip(&format!(
        "-n {client} neighbour add {BLACK_HOLE} lladdr 02:00:00:00:00:66 dev {client} nud permanent"
    ))
    .unwrap();
    let (_server, url) = network.serve();
    let port = url.split([':', '/']).nth(4).unwrap();
    let connect = |addresses: &str, more: &[&str]| {
        let resolve = format!("server.test:{port}:{addresses}");
        let url = format!("ws://server.test:{port}/");
        let args = ["connect", "--linger", "0", "--resolve", &resolve, &url];
        network.start(client, &[&args[..], more].concat()).finish()
    };

    // Alone, nothing answers: neither that it refuses, nor that it cannot be reached.
    let alone = connect(BLACK_HOLE, &["--connect-timeout", "0.5"]);
    assert_eq!(alone.status, Some(1), "{}", alone.stderr);
    assert!(alone.stderr.contains("connect timeout"), "{}", alone.stderr);

    // The best of five: the machine may have other things to do.
    let took = (0..5).map(|_| {
        let end = connect(&format!("{BLACK_HOLE},{ADDRESS}"), &[]);
        assert_eq!(end.status, Some(0), "{}", end.stderr);
        assert!(
            end.stderr.contains(&format!("({ADDRESS}:{port}) in ")),
            "{}",
            end.stderr
        );
        let took = end.stderr.split(" in ").nth(1).unwrap();
        let (number, unit) = took.split_once(' ').unwrap();
        match unit.starts_with("ms") {
            true => number.parse::<f64>().unwrap(),
            false => f64::INFINITY,
        }
    });
    let took = took.fold(f64::INFINITY, f64::min);
    assert!((249.0..400.0).contains(&took), "{took} ms");

    // Where the first is alive, it is taken, and at once.
    let (_server, url) = network.serve_at(&format!("[{ADDRESS_6}]:0"));
    let port = url.rsplit(':').next().unwrap().trim_end_matches('/');
    let resolve = format!("server.test:{port}:{ADDRESS_6},{ADDRESS}");
    let url = format!("ws://server.test:{port}/");
    let args = ["connect", "--linger", "0", "--resolve", &resolve, &url];
    let end = network.start(client, &args).finish();
    assert_eq!(end.status, Some(0), "{}", end.stderr);
    assert!(end.stderr.contains(ADDRESS_6), "{}", end.stderr);
}

/// The server moves: its name leads to another address, and nothing answers at the first any more.
#[test]
fn a_server_that_moves_is_found_at_its_new_address() {
    let Some(network) = Network::new() else {
        return;
    };
    let Network { server, client } = &network;
    let hosts = Hosts::new(&network);
    hosts.say(ADDRESS, "server.test");
    let (first, url) = network.serve();
    let port = url.split([':', '/']).nth(4).unwrap();
    let url = format!("ws://server.test:{port}/");
    let args = [&RECONNECT[..], &PINGS[..], &[&url]].concat();
    let mut program = network.start(client, &args);
    program.write("before\n");
    program.stdout.expect("before\n");

    // No Close, and no packet: the address is gone.
    ip(&format!(
        "-n {server} address delete {ADDRESS}/24 dev {server}"
    ))
    .unwrap();
    ip(&format!(
        "-n {server} address add 192.0.2.77/24 dev {server}"
    ))
    .unwrap();
    drop(first);
    let (_second, _) = network.serve_at(&format!("192.0.2.77:{port}"));
    hosts.say("192.0.2.77", "server.test");
    program.stderr.expect(&format!("(192.0.2.77:{port})"));
    program.write("after\n");
    program.stdout.expect("before\nafter\n");
    assert_eq!(program.finish().status, Some(0));
}

/// The client moves, as a phone does from one network to the next: the connection from its old address is dead,
/// and nobody says so.
#[test]
fn a_client_that_moves_comes_back_from_its_new_address() {
    let Some(network) = Network::new() else {
        return;
    };
    let Network { client, .. } = &network;
    let (server, url) = network.serve();
    let args = [&RECONNECT[..], &PINGS[..], &[&url]].concat();
    let mut program = network.start(client, &args);
    program.write("before\n");
    program.stdout.expect("before\n");
    server.stdout.expect("192.0.2.2:");

    ip(&format!(
        "-n {client} address delete 192.0.2.2/24 dev {client}"
    ))
    .unwrap();
    ip(&format!(
        "-n {client} address add 192.0.2.99/24 dev {client}"
    ))
    .unwrap();
    // What goes out before that goes nowhere.
    program.stderr.expect("nothing came from the peer");
    program.write("after\n");
    program.stdout.expect("before\nafter\n");
    server.stdout.expect("192.0.2.99:");
    // The server, too, has noticed, and nothing of the first connection is left.
    server.stdout.expect("nothing came from the peer");
    eventually("one connection is left", || {
        let sockets = Command::new("ip")
            .args(["netns", "exec", client, "cat", "/proc/net/tcp"])
            .output()
            .unwrap();
        // Established ones have the state 01.
        let sockets = String::from_utf8(sockets.stdout).unwrap();
        sockets.lines().filter(|line| line.contains(" 01 ")).count() == 1
    });
    assert_eq!(program.finish().status, Some(0));
}

/// Has the client's machine connect from these ports only.
fn connects_from(network: &Network, ports: &str) {
    let client = &network.client;
    ip(&format!("-n {client} link set lo up")).unwrap();
    let set = format!("echo {ports} > /proc/sys/net/ipv4/ip_local_port_range");
    let set = Command::new("ip")
        .args(["netns", "exec", client, "sh", "-c", &set])
        .status();
    assert!(set.unwrap().success());
}

/// A bug: where nobody listened on a port that the system connects from, a socket was sometimes connected with itself,
/// and the answer to the request was the request.
#[test]
fn nobody_is_connected_with_itself() {
    let Some(network) = Network::new() else {
        return;
    };
    connects_from(&network, "40000 40003");
    for port in (40_000..40_004).cycle().take(24) {
        let url = format!("ws://127.0.0.1:{port}/");
        let end = network.start(&network.client, &["connect", &url]).finish();
        assert_eq!(end.status, Some(1), "{}", end.stderr);
        assert!(end.stderr.contains("refused"), "{}", end.stderr);
    }
}

/// A bug: a client that was to use one family only took a port for itself, for all servers together.
#[test]
fn one_family_only_takes_no_more_ports() {
    let Some(network) = Network::new() else {
        return;
    };
    connects_from(&network, "40000 40001");
    let servers = [network.serve(), network.serve()];
    let clients = servers.iter().flat_map(|(_, url)| [url, url]).map(|url| {
        let mut client = network.start(&network.client, &["connect", "-4", url]);
        client.write("hello\n");
        client.stdout.expect("hello\n");
        client
    });
    for client in clients.collect::<Vec<_>>() {
        assert_eq!(client.finish().status, Some(0));
    }
}
