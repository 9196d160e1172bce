//! The laboratory with the kernel's own sockets: what the models promise must be seen by ordinary programs. Every test
//! runs in a world of its own, as root and as an ordinary user alike, and is skipped only where the kernel refuses.
#![cfg(target_os = "linux")]

use std::io::{Read, Write};
use std::net::{IpAddr, Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use kuguri_sim::lab::world::claim;
use kuguri_sim::lab::{Attachment, Lab, Machine, Machines, World, without_capabilities};
use kuguri_sim::link::{LinkConfig, Probability};
use kuguri_sim::nat::Preset;
use kuguri_sim::network::{Access, Network, RouterConfig, SegmentId};

const SERVER: &str = "203.0.113.10";
const DELAY: Duration = Duration::from_millis(10);
/// Until something must have happened, however busy the machine is.
const PATIENCE: Duration = Duration::from_secs(10);
/// Long enough that something would have happened.
const SOME_ROUND_TRIPS: Duration = Duration::from_millis(150);

/// A network under construction, and the machines on it.
struct Plan {
    network: Network,
    machines: Vec<Machine>,
}

impl Plan {
    fn new() -> Self {
        Self {
            network: Network::new(1, Instant::now()),
            machines: Vec::new(),
        }
    }

    fn machine(&mut self, name: &str, segment: SegmentId, addresses: &[&str], access: Access) {
        let addresses: Vec<IpAddr> = addresses.iter().map(|text| ip(text)).collect();
        let host = self.network.add_host();
        self.network
            .attach(host, segment, &addresses, access)
            .expect("the address is free");
        let prefix = |address: &IpAddr| if address.is_ipv4() { 24 } else { 64 };
        self.machines.push(Machine {
            name: name.to_owned(),
            host,
            addresses: addresses.iter().map(|a| (*a, prefix(a))).collect(),
            gateways: Vec::new(),
            mtu: 1500,
        });
    }

    /// A home with one machine behind a NAT.
    fn home(&mut self, name: &str, nat: Preset, outside: &str, inside: &str) {
        let config = RouterConfig::new(nat.config(), ip(outside), Access::delay(DELAY));
        let (_, lan) = self
            .network
            .add_router(Network::INTERNET, config)
            .expect("the address is free");
        self.machine(name, lan, &[inside], Access::default());
    }

    fn start(self, world: &World, attachment: Attachment) -> Lab {
        Lab::start(world, self.network, self.machines, attachment)
            .unwrap_or_else(|refusal| panic!("{refusal}"))
    }
}

/// A server, and two homes behind such NATs.
fn two_homes(one: Preset, two: Preset) -> Plan {
    let mut plan = Plan::new();
    plan.machine("server", Network::INTERNET, &[SERVER], Access::delay(DELAY));
    plan.home("one", one, "198.51.100.1", "192.168.1.2");
    plan.home("two", two, "198.51.100.2", "192.168.7.2");
    plan
}

/// Two machines on the Internet with such links.
fn two_machines(access: &Access) -> Plan {
    let mut plan = Plan::new();
    let [left, right] = [["192.0.2.1", "2001:db8::1"], [SERVER, "2001:db8::2"]];
    plan.machine("left", Network::INTERNET, &left, access.clone());
    plan.machine("right", Network::INTERNET, &right, access.clone());
    plan
}

#[test]
fn a_punched_hole_between_two_cone_nats_carries_datagrams_both_ways() {
    claim(|world| {
        let lab =
            two_homes(Preset::PortRestricted, Preset::Restricted).start(world, Attachment::Auto);
        let (one, two) = punch(&lab);
        assert!(reaches(&one, &two, PATIENCE));
        assert!(reaches(&two, &one, PATIENCE));
    });
}

#[test]
fn a_symmetric_nat_cannot_be_punched_so() {
    claim(|world| {
        let lab =
            two_homes(Preset::PortRestricted, Preset::Symmetric).start(world, Attachment::Auto);
        let (one, two) = punch(&lab);
        assert!(!reaches(&one, &two, SOME_ROUND_TRIPS));
        assert!(!reaches(&two, &one, SOME_ROUND_TRIPS));
    });
}

#[test]
fn a_round_trip_takes_what_the_links_take_in_ipv4_and_ipv6() {
    claim(|world| {
        let lab = two_machines(&Access::delay(DELAY)).start(world, Attachment::Auto);
        for server in [ip(SERVER), ip("2001:db8::2")] {
            let listener = lab
                .run_in("right", || TcpListener::bind((server, 80)))
                .expect("inside")
                .expect("a port");
            let start = Instant::now();
            let connected = lab.run_in("left", || TcpStream::connect((server, 80)));
            let took = start.elapsed();
            connected.expect("inside").expect("connects");
            drop(listener);
            // Two links there and two back; never faster, however busy the machine is.
            assert!(took >= 4 * DELAY, "{took:?}");
        }
    });
}

#[test]
fn tcp_arrives_byte_by_byte_over_a_lossy_link() {
    claim(|world| {
        let lossy = LinkConfig {
            loss: Probability::new(0.02).expect("a probability"),
            reorder: Probability::new(0.02).expect("a probability"),
            reorder_by: Duration::from_millis(2),
            ..LinkConfig::delay(Duration::from_millis(1))
        };
        let lab = two_machines(&Access::symmetric(lossy)).start(world, Attachment::Auto);
        let sent: Vec<u8> = (0..2_000_000u32)
            .flat_map(u32::to_le_bytes)
            .take(2_000_000)
            .collect();
        assert!(send_all(&lab, SERVER, &sent) == sent, "the bytes differ");
        let traffic = lab.traffic();
        assert!(
            traffic.delivered < traffic.sent,
            "nothing was lost: {traffic:?}"
        );
    });
}

#[test]
fn a_veth_pair_does_where_there_is_no_tun() {
    claim(|world| {
        let sent = vec![7; 3_000_000];
        for server in [SERVER, "2001:db8::2"] {
            // A laboratory can be built right after another one.
            let lab = two_machines(&Access::default()).start(world, Attachment::Veth);
            assert!(send_all(&lab, server, &sent) == sent, "the bytes differ");
        }
    });
}

#[test]
fn a_cut_link_and_a_changed_address_are_noticed_at_once() {
    claim(|world| {
        let plan = two_machines(&Access::default());
        let left = plan.machines[0].host;
        let lab = plan.start(world, Attachment::Auto);
        let reached = |from: &str, limit| {
            let asks = udp(&lab, "left", &format!("{from}:7"));
            let answers = udp(&lab, "right", &format!("{SERVER}:7"));
            asks.connect((SERVER, 7)).expect("the route is there");
            reaches(&asks, &answers, limit)
        };
        assert!(reached("192.0.2.1", PATIENCE));
        lab.network(|network, _| network.detach(left));
        assert!(!reached("192.0.2.1", SOME_ROUND_TRIPS));

        lab.change_address("left", (ip("192.0.2.1"), 24), (ip("192.0.2.9"), 24), None)
            .expect("the kernel does it");
        lab.network(|network, _| {
            let addresses = [ip("192.0.2.9")];
            network.attach(left, Network::INTERNET, &addresses, Access::default())
        })
        .expect("the address is free");
        assert!(reached("192.0.2.9", PATIENCE));
    });
}

#[test]
fn a_program_runs_on_its_machine_with_no_more_rights_than_it_was_given() {
    claim(|world| {
        let lab = two_machines(&Access::default()).start(world, Attachment::Auto);
        let sees = |command: &mut Command| {
            command
                .args([
                    "/proc/self/status",
                    "/proc/self/net/fib_trie",
                    "/proc/sys/kernel/hostname",
                ])
                .stdout(Stdio::piped());
            let child = lab.spawn("right", command).expect("starts");
            let output = child.wait_with_output().expect("ends");
            String::from_utf8(output.stdout).expect("text")
        };
        let root = sees(&mut Command::new("cat"));
        assert!(
            root.contains(SERVER) && !root.contains("192.0.2.1\n"),
            "{root}"
        );
        assert!(root.ends_with("\nright\n"), "{root}");
        assert!(!root.contains("CapEff:\t0000000000000000"), "{root}");
        let ordinary = sees(without_capabilities(&mut Command::new("cat")));
        assert!(ordinary.contains("CapEff:\t0000000000000000"), "{ordinary}");
    });
}

#[test]
fn everything_in_a_world_ends_with_it() {
    // A pipe that all processes of the world hold: when the last of them is gone, its reader sees the end.
    const SLEEPER: &str = "KUGURI_TEST_SLEEPER";
    if std::env::var_os(SLEEPER).is_some() {
        claim(|world| {
            let lab = two_machines(&Access::default()).start(world, Attachment::Auto);
            let mut command = Command::new("sh");
            command.args(["-c", "setsid sleep 1000 & echo ready; sleep 1000"]);
            let mut child = lab.spawn("left", &mut command).expect("starts");
            let _ = child.wait();
        });
        return;
    }
    let command = kuguri_sim::lab::world::command([
        "everything_in_a_world_ends_with_it",
        "--exact",
        "--nocapture",
    ]);
    let mut child =
        match command.map(|mut command| command.env(SLEEPER, "1").stdout(Stdio::piped()).spawn()) {
            Ok(Ok(child)) => child,
            refused => return eprintln!("skipped: {refused:?}"),
        };
    let mut output = child.stdout.take().expect("piped");
    let mut seen = String::new();
    while !seen.contains("ready") {
        let mut bytes = [0; 256];
        let length = output.read(&mut bytes).expect("reads");
        assert!(length > 0, "it ended by itself: {seen}");
        seen.push_str(&String::from_utf8_lossy(&bytes[..length]));
    }
    child.kill().expect("it runs");
    output.read_to_end(&mut Vec::new()).expect("the end comes");
    child.wait().expect("it has ended");
}

/// What every hole punching does: both ask the server who they are, then send to where the other one was seen.
fn punch(lab: &Lab) -> (UdpSocket, UdpSocket) {
    let server = udp(lab, "server", &format!("{SERVER}:3478"));
    let homes = ["one", "two"].map(|home| udp(lab, home, "0.0.0.0:4000"));
    let seen = homes.each_ref().map(|socket| {
        loop {
            socket.send_to(b"who am I?", (SERVER, 3478)).expect("sends");
            if let Ok((_, seen)) = server.recv_from(&mut [0; 64]) {
                break seen;
            }
        }
    });
    let [one, two] = homes;
    one.connect(seen[1]).expect("a route");
    two.connect(seen[0]).expect("a route");
    for socket in [&one, &two] {
        socket.send(b"open").expect("sends");
    }
    (one, two)
}

/// Whether a datagram comes through; asked again and again until the time is up.
fn reaches(from: &UdpSocket, to: &UdpSocket, limit: Duration) -> bool {
    static NUMBER: AtomicU32 = AtomicU32::new(0);
    let text = NUMBER.fetch_add(1, Ordering::Relaxed).to_be_bytes();
    let end = Instant::now() + limit;
    while Instant::now() < end {
        from.send(&text).expect("sends");
        let mut buffer = [0; 64];
        while let Ok(length) = to.recv(&mut buffer) {
            if buffer[..length] == text {
                return true;
            }
        }
    }
    false
}

fn send_all(lab: &Lab, server: &str, bytes: &[u8]) -> Vec<u8> {
    let address = SocketAddr::new(ip(server), 80);
    let listener = lab
        .run_in("right", || TcpListener::bind(address))
        .expect("inside")
        .expect("a port");
    thread::scope(|scope| {
        let receiver = scope.spawn(|| {
            let (mut stream, _) = listener.accept().expect("somebody connects");
            let mut received = Vec::new();
            stream.read_to_end(&mut received).expect("reads");
            received
        });
        let mut stream = lab
            .run_in("left", || TcpStream::connect(address))
            .expect("inside")
            .expect("connects");
        stream.write_all(bytes).expect("sends");
        stream.shutdown(Shutdown::Write).expect("ends");
        receiver.join().expect("it does not panic")
    })
}

fn udp(lab: &Lab, machine: &str, address: &str) -> UdpSocket {
    let socket = lab
        .run_in(machine, || UdpSocket::bind(address))
        .expect("inside")
        .expect("a port");
    socket.set_read_timeout(Some(8 * DELAY)).expect("not zero");
    socket
}

fn ip(text: &str) -> IpAddr {
    text.parse().expect("an address")
}
