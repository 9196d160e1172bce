//! Others agree: programs that we did not write, and the kernel's own NAT, come to the verdicts that we set.
//!
//! A server with two addresses and two ports each answers binding requests as RFC 5780 says. Who is behind a NAT finds out
//! by it for which destinations its endpoint stays the same, and who may send to it: our own prober, and coturn's
//! `turnutils_natdiscovery` where it is installed.
#![cfg(target_os = "linux")]

use std::net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV4, UdpSocket};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use kuguri_sim::lab::world::claim;
use kuguri_sim::lab::{Attachment, Lab, Machine, World};
use kuguri_sim::nat::{Allocation, Behavior, NatConfig, Preset};
use kuguri_sim::network::{Access, Network, RouterConfig};
use kuguri_sim::oracle::Kind;

mod places;

use places::{Place, ip};

const FIRST: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 1);
const SECOND: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 2);
const PORT: u16 = 3478;
/// How long an answer is waited for; on a busy machine it may take long, so that no answer is asked for again and again.
const PATIENCE: Duration = Duration::from_millis(400);
const TRIES: usize = 4;

// ---- the server

/// The four sockets: first and second address, each with the port and the next one. To be called where they live.
fn bind_server() -> Vec<UdpSocket> {
    let ends = [FIRST, SECOND].into_iter();
    let ends = ends.flat_map(|address| [PORT, PORT + 1].map(|port| (address, port)));
    ends.map(|end| UdpSocket::bind(end).expect("a free port"))
        .collect()
}

/// Answers for ever.
fn serve(sockets: Vec<UdpSocket>) {
    let sockets = Arc::new(sockets);
    for number in 0..sockets.len() {
        let sockets = Arc::clone(&sockets);
        thread::spawn(move || {
            let mut buffer = [0; 2000];
            while let Ok((length, from)) = sockets[number].recv_from(&mut buffer) {
                if let Some((change, answer)) = answer(&buffer[..length], from, number) {
                    // Bit 0 of the number is the port, bit 1 the address.
                    let _ = sockets[number ^ change].send_to(&answer, from);
                }
            }
        });
    }
}

/// By which other socket the answer leaves, and the answer (RFC 8489; RFC 5780, section 7; RFC 3489 for old clients).
fn answer(request: &[u8], from: SocketAddr, number: usize) -> Option<(usize, Vec<u8>)> {
    let (header, SocketAddr::V4(from)) = (request.first_chunk::<20>()?, from) else {
        return None;
    };
    if header[..2] != [0, 1] {
        return None;
    }
    let flags = attribute(request, CHANGE_REQUEST).and_then(|value| value.get(3).copied());
    let flags = usize::from(flags.unwrap_or(0));
    let change = (flags >> 1 & 1) | (flags >> 1 & 2);
    let end = |number: usize| {
        let address = if number & 2 == 0 { FIRST } else { SECOND };
        SocketAddrV4::new(address, if number & 1 == 0 { PORT } else { PORT + 1 })
    };
    let cookie = u32::from_be_bytes([header[4], header[5], header[6], header[7]]);
    let [high, low, ..] = cookie.to_be_bytes();
    let masked = SocketAddrV4::new(
        Ipv4Addr::from_bits(from.ip().to_bits() ^ cookie),
        from.port() ^ u16::from_be_bytes([high, low]),
    );
    let mut body = Vec::new();
    for (kind, address) in [
        (MAPPED_ADDRESS, from),
        (XOR_MAPPED_ADDRESS, masked),
        (SOURCE_ADDRESS, end(number ^ change)),
        (CHANGED_ADDRESS, end(number ^ 3)),
        (RESPONSE_ORIGIN, end(number ^ change)),
        (OTHER_ADDRESS, end(number ^ 3)),
    ] {
        body.extend(kind.to_be_bytes());
        body.extend([0, 8, 0, 1]);
        body.extend(address.port().to_be_bytes());
        body.extend(address.ip().octets());
    }
    let length = u16::try_from(body.len()).ok()?;
    let head = [&[1, 1][..], &length.to_be_bytes(), &header[4..20]].concat();
    Some((change, [head, body].concat()))
}

fn attribute(message: &[u8], kind: u16) -> Option<&[u8]> {
    let mut rest = message.get(20..)?;
    loop {
        let head: &[u8; 4] = rest.first_chunk()?;
        let length = usize::from(u16::from_be_bytes([head[2], head[3]]));
        let value = rest.get(4..4 + length)?;
        if u16::from_be_bytes([head[0], head[1]]) == kind {
            return Some(value);
        }
        rest = rest.get(4 + length.next_multiple_of(4)..)?;
    }
}

const MAPPED_ADDRESS: u16 = 0x0001;
const CHANGE_REQUEST: u16 = 0x0003;
const SOURCE_ADDRESS: u16 = 0x0004;
const CHANGED_ADDRESS: u16 = 0x0005;
const XOR_MAPPED_ADDRESS: u16 = 0x0020;
const RESPONSE_ORIGIN: u16 = 0x802b;
const OTHER_ADDRESS: u16 = 0x802c;

// ---- the prober

/// What a host finds out about its NAT (RFC 5780, sections 4.3 and 4.4). `bind` gives sockets of that host.
fn probe(bind: impl Fn() -> UdpSocket) -> Kind {
    let mapping = {
        let socket = bind();
        let seen = |to| ask(&socket, to, 0).expect("the server answers");
        let (one, two) = (seen((FIRST, PORT)), seen((SECOND, PORT)));
        let three = seen((SECOND, PORT + 1));
        match (one == two, two == three) {
            (true, _) => Behavior::EndpointIndependent,
            (false, true) => Behavior::AddressDependent,
            (false, false) => Behavior::AddressAndPortDependent,
        }
    };
    // Each question by a socket of its own: what was sent before must not open the way.
    let answered = |change| ask(&bind(), (FIRST, PORT), change).is_some();
    let filtering = match (answered(6), answered(2)) {
        (true, _) => Behavior::EndpointIndependent,
        (false, true) => Behavior::AddressDependent,
        (false, false) => Behavior::AddressAndPortDependent,
    };
    Kind::new(mapping, filtering)
}

/// How the server sees this socket; with a change of 4 it answers from its other address, with 2 from its other port.
fn ask(socket: &UdpSocket, to: (Ipv4Addr, u16), change: u8) -> Option<SocketAddrV4> {
    let mut request = vec![0, 1, 0, 8, 0x21, 0x12, 0xa4, 0x42];
    request.extend([change; 12]);
    request.extend([0, 3, 0, 4, 0, 0, 0, change]);
    socket.set_read_timeout(Some(PATIENCE)).expect("not zero");
    for _ in 0..TRIES {
        socket.send_to(&request, to).expect("a route");
        let end = Instant::now() + PATIENCE;
        let mut buffer = [0; 500];
        while let Ok((length, _)) = socket.recv_from(&mut buffer) {
            let value = attribute(&buffer[..length], MAPPED_ADDRESS)?;
            let port = u16::from_be_bytes([value[2], value[3]]);
            let address = Ipv4Addr::from(*value.get(4..)?.first_chunk::<4>()?);
            if buffer[8] == change {
                return Some(SocketAddrV4::new(address, port));
            }
            if Instant::now() > end {
                break;
            }
        }
    }
    None
}

// ---- our box

/// The server, and a host behind a NAT of each of the nine kinds.
fn nine_homes(world: &World) -> (Lab, Vec<(Kind, String)>) {
    let mut network = Network::new(1, Instant::now());
    let mut machines = Vec::new();
    let server = network.add_host();
    let addresses = [FIRST, SECOND].map(IpAddr::V4);
    network
        .attach(server, Network::INTERNET, &addresses, Access::default())
        .expect("free addresses");
    machines.push(Machine {
        name: "server".to_owned(),
        host: server,
        addresses: addresses.map(|address| (address, 24)).to_vec(),
        gateways: Vec::new(),
        mtu: 1500,
    });
    let mut homes = Vec::new();
    for (number, kind) in (10u8..).zip(Kind::all()) {
        let nat = NatConfig::of(kind.mapping, kind.filtering, Allocation::Random);
        let outside = Ipv4Addr::new(203, 0, 113, number).into();
        let access = Access::delay(Duration::from_millis(1));
        let (_, lan) = network
            .add_router(Network::INTERNET, RouterConfig::new(nat, outside, access))
            .expect("a free address");
        let (host, address) = (network.add_host(), IpAddr::from([10, 0, number, 2]));
        network
            .attach(host, lan, &[address], Access::default())
            .expect("a free address");
        let name = format!("home{number}");
        machines.push(Machine {
            name: name.clone(),
            host,
            addresses: vec![(address, 24)],
            gateways: Vec::new(),
            mtu: 1500,
        });
        homes.push((kind, name));
    }
    let lab = Lab::start(world, network, machines, Attachment::Auto).expect("it can be built");
    let sockets = lab.run_in("server", bind_server).expect("inside");
    serve(sockets);
    (lab, homes)
}

#[test]
fn our_prober_finds_what_was_set_in_every_cell() {
    claim(|world| {
        let (lab, homes) = nine_homes(world);
        thread::scope(|scope| {
            let found: Vec<_> = homes
                .iter()
                .map(|(kind, name)| {
                    let bind = || {
                        let socket = lab.run_in(name, || UdpSocket::bind("0.0.0.0:0"));
                        socket.expect("inside").expect("a port")
                    };
                    (kind, scope.spawn(move || probe(bind)))
                })
                .collect();
            for (kind, probed) in found {
                assert_eq!(probed.join().expect("it does not panic"), *kind);
            }
        });
    });
}

#[test]
fn coturn_finds_what_was_set_in_every_cell() {
    claim(|world| {
        let program = "turnutils_natdiscovery";
        let there = Command::new(program)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status();
        if there.is_err() {
            return eprintln!("skipped: no {program} (Debian: coturn)");
        }
        let (lab, homes) = nine_homes(world);
        let mut running = Vec::new();
        for (kind, name) in &homes {
            for (option, behavior, what) in [
                ("-m", kind.mapping, "Mapping"),
                ("-f", kind.filtering, "Filtering"),
            ] {
                let server = FIRST.to_string();
                let mut command = Command::new(program);
                command
                    .args([option, &server])
                    .stdout(Stdio::piped())
                    .stderr(Stdio::piped());
                let child = lab.run_in(name, || command.spawn());
                let child = child.expect("inside").expect("it starts");
                running.push((kind, said_by_coturn(behavior, what), child));
            }
        }
        for (kind, expected, child) in running {
            let output = child.wait_with_output().expect("it ends");
            let text = String::from_utf8_lossy(&output.stdout);
            assert!(
                text.contains(&expected),
                "{kind}: no `{expected}` in {text}"
            );
        }
    });
}

/// `stun` (stun-client 0.97) asks as RFC 3489 does. Both kinds of dependent mapping are one to it.
#[test]
fn stun_client_finds_what_was_set_in_every_cell() {
    claim(|world| {
        let there = Command::new("stun")
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status();
        if there.is_err() {
            return eprintln!("skipped: no stun (Debian: stun-client)");
        }
        let (lab, homes) = nine_homes(world);
        let mut running = Vec::new();
        for (kind, name) in &homes {
            let mut command = Command::new("stun");
            command
                .arg(FIRST.to_string())
                .stdout(Stdio::piped())
                .stderr(Stdio::piped());
            let child = lab.run_in(name, || command.spawn());
            running.push((kind, child.expect("inside").expect("it starts")));
        }
        for (kind, child) in running {
            let output = child.wait_with_output().expect("it ends");
            let text = String::from_utf8_lossy(&output.stdout);
            for part in said_by_stun(*kind) {
                assert!(text.contains(part), "{kind}: no `{part}` in {text}");
            }
        }
    });
}

/// Of filters it says nothing where mappings depend on anything.
fn said_by_stun(kind: Kind) -> Vec<&'static str> {
    match (kind.mapping, kind.filtering) {
        (Behavior::AddressDependent | Behavior::AddressAndPortDependent, _) => {
            vec!["Primary: Dependent Mapping"]
        }
        (_, Behavior::None | Behavior::EndpointIndependent) => {
            vec!["Primary: Independent Mapping", "Independent Filter"]
        }
        (_, Behavior::AddressDependent) => {
            vec!["Primary: Independent Mapping", "Address Dependent Filter"]
        }
        (_, Behavior::AddressAndPortDependent) => {
            vec!["Primary: Independent Mapping", "Port Dependent Filter"]
        }
    }
}

/// What it can tell apart. Its third question about mappings goes to the other address that the second answer named, which is
/// the first server's: so an address-dependent mapping looks address-and-port-dependent to it (4.6.1).
fn said_by_coturn(behavior: Behavior, what: &str) -> String {
    let words = match (behavior, what) {
        (Behavior::None | Behavior::EndpointIndependent, _) => "Endpoint Independent",
        (Behavior::AddressDependent, "Filtering") => "Address Dependent",
        (Behavior::AddressDependent | Behavior::AddressAndPortDependent, _) => {
            "Address and Port Dependent"
        }
    };
    format!("{words} {what}!")
}

// ---- the kernel's NAT

/// One cell by the kernel and by our model, with the same prober.
fn compare(rule: &str, preset: Preset) {
    claim(|world| match kernel_verdict(rule) {
        None => eprintln!("skipped: no ip, no nft, or no right to forward"),
        Some(kernel) => assert_eq!(kernel, model_verdict(world, preset), "{rule}"),
    });
}

#[test]
fn the_kernels_masquerade_is_our_linux() {
    compare("masquerade", Preset::Linux);
}

#[test]
fn the_kernels_random_masquerade_is_our_symmetric() {
    compare("masquerade random", Preset::Symmetric);
}

#[test]
fn the_kernels_fully_random_masquerade_is_our_symmetric() {
    compare("masquerade fully-random", Preset::Symmetric);
}

/// World: the server. In it a namespace that masquerades, and behind that one the prober.
fn kernel_verdict(rule: &str) -> Option<Kind> {
    let router = Place::new(1, "wan", "198.51.100.7/24", None)?;
    ip("link set wan arp on")?;
    ip("link set lo up")?;
    for address in [FIRST, SECOND] {
        ip(&format!("address add {address}/24 dev wan"))?;
    }
    let client = Place::new(2, "spare", "192.168.1.10/24", None)?;
    router.take("spare")?;
    router.ip("address add 192.168.1.1/24 dev spare")?;
    router.ip("link set spare up arp on")?;
    client.ip("route add default via 192.168.1.1")?;
    let forward = "echo 1 > /proc/sys/net/ipv4/ip_forward";
    let nat = format!(
        "nft 'add table ip n; add chain ip n c {{ type nat hook postrouting priority 100; }}; add rule ip n c oifname far1 {rule}'"
    );
    for line in [forward, &nat] {
        router.shell(line)?;
    }
    serve(bind_server());
    Some(probe(|| {
        client.run(|| UdpSocket::bind("0.0.0.0:0")).expect("a port")
    }))
}

fn model_verdict(world: &World, preset: Preset) -> Kind {
    let mut network = Network::new(1, Instant::now());
    let (server, home) = (network.add_host(), network.add_host());
    let addresses = [FIRST, SECOND].map(IpAddr::V4);
    let outside = Ipv4Addr::new(203, 0, 113, 9).into();
    let config = RouterConfig::new(preset.config(), outside, Access::default());
    let own = IpAddr::from([10, 0, 0, 2]);
    network
        .attach(server, Network::INTERNET, &addresses, Access::default())
        .expect("free addresses");
    let (_, lan) = network
        .add_router(Network::INTERNET, config)
        .expect("a free address");
    network
        .attach(home, lan, &[own], Access::default())
        .expect("a free address");
    let machine = |name: &str, host, addresses: &[IpAddr]| Machine {
        name: name.to_owned(),
        host,
        addresses: addresses.iter().map(|&address| (address, 24)).collect(),
        gateways: Vec::new(),
        mtu: 1500,
    };
    let machines = vec![
        machine("server", server, &addresses),
        machine("home", home, &[own]),
    ];
    let lab = Lab::start(world, network, machines, Attachment::Auto).expect("it can be built");
    serve(lab.run_in("server", bind_server).expect("inside"));
    probe(|| {
        let socket = lab.run_in("home", || UdpSocket::bind("0.0.0.0:0"));
        socket.expect("inside").expect("a port")
    })
}
