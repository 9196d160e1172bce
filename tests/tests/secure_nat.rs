//! SecureNAT with real processes: a member at home reaches the office's LAN through a hub that has no right at all.
#![cfg(target_os = "linux")]

use std::io::{Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::process::{Command, Stdio};
use std::thread;
use std::time::Duration;

use kuguri_sim::lab::world::claim;
use kuguri_sim::lab::{Machines, World};
use kuguri_sim::nat::Preset;
use kuguri_tests::real::process::Running;
use kuguri_tests::real::program::Program;
use kuguri_tests::real::scene::{DESK, GATEWAY, HOME, Member, OFFICE, Rights, Scene, VPS_ADDRESS};
use kuguri_tests::real::wire;
use kuguri_tests::real::{PATIENCE, until};

/// In the office's LAN; it knows nothing of Kuguri.
const SERVER: Ipv4Addr = Ipv4Addr::new(192, 168, 1, 20);

/// A rendezvous, a hub with SecureNAT, and a member at home that knows the office's network.
struct Office {
    _rendezvous: Running,
    hub: Running,
    home: Member,
}

fn program() -> Program {
    Program::new(env!("CARGO_BIN_EXE_kuguri-under-test"))
}

fn scene(world: &World) -> Scene {
    Scene::new(
        world,
        program(),
        Preset::PortRestricted,
        Preset::PortRestricted,
    )
}

impl Office {
    fn open(scene: &Scene, flags: &[&str]) -> Self {
        let rendezvous = scene.rendezvous();
        let address = VPS_ADDRESS.to_string();
        let mut arguments = vec![
            "serve",
            "office",
            "--json",
            "--rendezvous",
            &address,
            "--secure-nat",
        ];
        arguments.extend(flags);
        let mut hub = scene.start(OFFICE, Rights::None, &arguments);
        hub.event("registered");
        let invite = hub.event("invite");
        let invite = invite["invite"].as_str().expect("text").to_owned();
        let mut home = scene.member(HOME, &invite);
        let network = home.process.event("network");
        assert_eq!(network["routes"][0], "192.168.1.0/24", "{network}");
        Self {
            _rendezvous: rendezvous,
            hub,
            home,
        }
    }
}

/// A server in the office's LAN that gives back what it gets.
fn echo_server(scene: &Scene) -> SocketAddr {
    let listener = scene.lab.run_in(DESK, || TcpListener::bind((SERVER, 8080)));
    let listener = listener.expect("inside").expect("the address is there");
    let address = listener.local_addr().expect("bound");
    thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(mut stream) = stream else { return };
            thread::spawn(move || {
                let mut copy = stream.try_clone().expect("a descriptor");
                // The other side may go whenever it likes.
                let _ = std::io::copy(&mut stream, &mut copy);
                let _ = copy.shutdown(Shutdown::Write);
            });
        }
    });
    address
}

fn call(scene: &Scene, to: SocketAddr) -> std::io::Result<TcpStream> {
    let stream = scene
        .lab
        .run_in(HOME, || TcpStream::connect_timeout(&to, PATIENCE))
        .expect("inside")?;
    stream.set_read_timeout(Some(PATIENCE))?;
    Ok(stream)
}

#[test]
fn a_member_reads_a_server_in_the_offices_lan() {
    claim(|world| {
        let scene = scene(world);
        let mut office = Office::open(&scene, &[]);
        let server = echo_server(&scene);
        let mut stream = call(&scene, server).expect("the server is reached");
        let sent: Vec<u8> = (0..1_000_000u32)
            .map(|n| u8::try_from(n % 251).expect("small"))
            .collect();
        let expected = sent.clone();
        let mut writer = stream.try_clone().expect("a descriptor");
        let writing = thread::spawn(move || {
            writer.write_all(&sent).expect("it takes all");
            writer.shutdown(Shutdown::Write).expect("still open");
        });
        let mut received = Vec::new();
        stream.read_to_end(&mut received).expect("all comes back");
        writing.join().expect("written");
        assert!(received == expected, "byte by byte");
        let connected = office
            .hub
            .hear("the connection", |event| event["nat"] == "tcp-connected");
        assert_eq!(
            (&connected["host"], &connected["port"]),
            (&"192.168.1.20".into(), &8080.into())
        );
        office.hub.hear("its end", |event| {
            event["nat"] == "tcp-deleted" && event["reason"] == "finished"
        });
    });
}

#[test]
fn datagrams_and_pings_pass_too() {
    claim(|world| {
        let scene = scene(world);
        let office = Office::open(&scene, &[]);
        assert!(wire_answers(&scene, GATEWAY), "the virtual host");
        let bind = |machine: &str, address: (Ipv4Addr, u16)| {
            let socket = scene.lab.run_in(machine, || UdpSocket::bind(address));
            let socket = socket.expect("inside").expect("the address is there");
            socket
                .set_read_timeout(Some(Duration::from_millis(200)))
                .expect("not zero");
            socket
        };
        let at_desk = bind(DESK, (SERVER, 5000));
        let at_home = bind(HOME, (office.home.address, 5000));
        for size in [0, 1, 1472, 1473, 9000] {
            let payload = vec![7; size];
            let mut buffer = vec![0; 10_000];
            let from = until(&format!("a datagram of {size} bytes"), || {
                at_home.send_to(&payload, (SERVER, 5000)).expect("sends");
                at_desk
                    .recv_from(&mut buffer)
                    .ok()
                    .filter(|(length, _)| *length == size)
            })
            .1;
            assert_eq!(
                from.ip(),
                Ipv4Addr::new(192, 168, 1, 10),
                "the office speaks for it"
            );
            until(&format!("its answer of {size} bytes"), || {
                at_desk.send_to(&payload, from).expect("sends");
                at_home
                    .recv_from(&mut buffer)
                    .ok()
                    .filter(|(length, from)| *length == size && from.ip() == SERVER)
            });
        }
    });
}

fn wire_answers(scene: &Scene, target: Ipv4Addr) -> bool {
    scene
        .lab
        .run_in(HOME, move || wire::answers(target, PATIENCE))
        .expect("inside")
}

#[test]
fn the_hubs_own_loopback_is_out_of_reach() {
    claim(|world| {
        let scene = scene(world);
        let mut office = Office::open(&scene, &["--deny", "192.168.1.20:8081"]);
        let server = echo_server(&scene);
        assert!(call(&scene, server).is_ok());
        let mut denied = server;
        denied.set_port(8081);
        assert!(call(&scene, denied).is_err());
        let refused = office
            .hub
            .hear("the refusal", |event| event["nat"] == "refused");
        assert_eq!(refused["destination"], "192.168.1.20:8081");
    });
}

#[test]
fn nobody_at_home_means_a_reset_at_once() {
    claim(|world| {
        let scene = scene(world);
        let _office = Office::open(&scene, &[]);
        let error = call(&scene, SocketAddr::from((SERVER, 9))).expect_err("nobody listens");
        assert_eq!(error.kind(), std::io::ErrorKind::ConnectionRefused);
    });
}

/// Not all machines have it.
#[test]
fn curl_reads_a_page() {
    if Command::new("curl")
        .arg("--version")
        .stdout(Stdio::null())
        .status()
        .is_err()
    {
        return;
    }
    claim(|world| {
        let scene = scene(world);
        let _office = Office::open(&scene, &[]);
        let listener = scene.lab.run_in(DESK, || TcpListener::bind((SERVER, 80)));
        let listener = listener.expect("inside").expect("the address is there");
        thread::spawn(move || {
            let (mut stream, _) = listener.accept().expect("curl calls");
            let mut request = [0; 1024];
            let _ = stream.read(&mut request);
            let _ = stream.write_all(b"HTTP/1.0 200 OK\r\nContent-Length: 6\r\n\r\noffice");
        });
        let mut curl = Command::new("curl");
        curl.args(["-s", "--max-time", "20", "http://192.168.1.20/"])
            .stdout(Stdio::piped());
        let output = scene
            .lab
            .spawn(HOME, &mut curl)
            .expect("starts")
            .wait_with_output()
            .expect("ends");
        assert_eq!(String::from_utf8_lossy(&output.stdout), "office");
    });
}

/// What `kuguri` on a machine answers.
fn asks(scene: &Scene, machine: &str, arguments: &[&str]) -> serde_json::Value {
    let ended = scene.call(machine, arguments);
    assert!(ended.status.success(), "{ended:?}");
    serde_json::from_str(&ended.out.join("\n")).expect("JSON")
}

#[test]
fn it_is_off_by_default_and_goes_on_and_off_while_the_hub_runs() {
    claim(|world| {
        let scene = scene(world);
        let rendezvous = scene.rendezvous();
        let (_hub, invite) = scene.hub("office", "192.168.30.1/24");
        let mut home = scene.member(HOME, &invite);
        let server = echo_server(&scene);
        let status = asks(&scene, OFFICE, &["secure-nat", "status", "--json"]);
        assert_eq!(
            (&status["nat"], &status["dhcp"]),
            (&false.into(), &false.into())
        );
        assert!(
            !home.process.has_said("network"),
            "nothing is told of the LAN"
        );
        asks(&scene, OFFICE, &["SecureNatEnable", "--json"]);
        let network = home.process.event("network");
        assert_eq!(network["routes"][0], "192.168.1.0/24");
        let open = call(&scene, server).expect("the server is reached");
        let table = asks(&scene, OFFICE, &["NATTABLE", "--json"]);
        assert_eq!(table["sessions"][0]["destination"], server.to_string());
        home.process.forget();
        let status = asks(&scene, OFFICE, &["nat", "off", "--json"]);
        assert_eq!(
            (&status["nat"], &status["dhcp"]),
            (&false.into(), &true.into())
        );
        // Nobody is led to a gateway that does not lead on (E16).
        assert_eq!(
            (&status["gateway"], &status["routes"]),
            (&serde_json::Value::Null, &serde_json::json!([]))
        );
        home.process.event("network");
        let mut rest = Vec::new();
        let ended = (&open).read_to_end(&mut rest);
        assert!(ended.is_err() || rest.is_empty(), "its connection is over");
        drop(rendezvous);
    });
}

/// A client of the distribution's on the office's switch, by a card of its own that a member bridges nothing to: it asks on the
/// member's card itself.
fn leased(scene: &Scene, client: &str, arguments: &[&str]) -> Option<String> {
    if Command::new("which")
        .arg(client)
        .stdout(Stdio::null())
        .status()
        .is_ok_and(|found| !found.success())
    {
        return None;
    }
    let mut command = Command::new(client);
    command
        .args(arguments)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let output = scene
        .lab
        .spawn(HOME, &mut command)
        .expect("starts")
        .wait_with_output()
        .expect("ends");
    Some(format!(
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    ))
}

#[test]
fn udhcpc_gets_the_same_address_as_its_member() {
    claim(|world| {
        let scene = scene(world);
        let mut office = Office::open(&scene, &[]);
        let arguments = [
            "-i",
            "kuguri0",
            "-n",
            "-q",
            "-f",
            "-s",
            "/bin/true",
            "-x",
            "hostname:laptop",
        ];
        let Some(said) = leased(&scene, "udhcpc", &arguments) else {
            return;
        };
        assert!(
            said.contains(&format!("lease of {} obtained", office.home.address)),
            "{said}"
        );
        let created = office
            .hub
            .hear("the lease", |event| event["nat"] == "dhcp-created");
        assert_eq!(created["address"], office.home.address.to_string());
        let table = asks(&scene, OFFICE, &["dhcp", "table", "--json"]);
        let row = &table["leases"][0];
        assert_eq!(
            (&row["address"], &row["host_name"]),
            (&created["address"], &"laptop".into())
        );
        // Another station behind the same member is somebody else.
        let other = [
            "-i",
            "kuguri0",
            "-n",
            "-q",
            "-f",
            "-s",
            "/bin/true",
            "-x",
            "0x3d:00616263",
        ];
        let said = leased(&scene, "udhcpc", &other).expect("it was there");
        assert!(said.contains("obtained"), "{said}");
    });
}

#[test]
fn names_are_asked_at_the_hosts_resolver() {
    claim(|world| {
        let scene = scene(world);
        let resolver = scene.lab.run_in(DESK, || UdpSocket::bind((SERVER, 53)));
        let resolver = resolver.expect("inside").expect("the address is there");
        thread::spawn(move || {
            let mut buffer = [0; 512];
            while let Ok((length, from)) = resolver.recv_from(&mut buffer) {
                buffer[2] |= 0x80;
                let _ = resolver.send_to(&buffer[..length], from);
            }
        });
        let office = Office::open(&scene, &["--resolver", "192.168.1.20"]);
        let socket = scene
            .lab
            .run_in(HOME, move || UdpSocket::bind((office.home.address, 0)));
        let socket = socket.expect("inside").expect("the address is there");
        socket.set_read_timeout(Some(PATIENCE)).expect("not zero");
        let question = b"\x12\x34\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00\x06office\x07example\x00\x00\x01\x00\x01";
        socket.send_to(question, (GATEWAY, 53)).expect("sends");
        let mut buffer = [0; 512];
        let (length, from) = socket.recv_from(&mut buffer).expect("an answer");
        assert_eq!(from, SocketAddr::from((GATEWAY, 53)));
        assert_eq!((&buffer[..2], buffer[2]), (&question[..2], 0x81));
        assert_eq!(buffer[3..length], question[3..]);
    });
}

#[test]
fn a_published_port_leads_to_a_member() {
    claim(|world| {
        let scene = scene(world);
        let rendezvous = scene.rendezvous();
        let (mut hub, invite) = scene.hub("office", "192.168.30.1/24");
        let home = scene.member(HOME, &invite);
        let mapping = format!("tcp:8080:{}:80", home.address);
        asks(&scene, OFFICE, &["secure-nat", "on", "--json"]);
        asks(
            &scene,
            OFFICE,
            &["nat", "set", "--publish", &mapping, "--json"],
        );
        let address = home.address;
        let listener = scene
            .lab
            .run_in(HOME, move || TcpListener::bind((address, 80)));
        let listener = listener.expect("inside").expect("the address is there");
        let serving = thread::spawn(move || {
            let (mut stream, from) = listener.accept().expect("somebody calls");
            stream.write_all(b"hello from home").expect("it takes it");
            from
        });
        let to = SocketAddr::from(([192, 168, 1, 10], 8080));
        let mut stream = scene
            .lab
            .run_in(DESK, move || TcpStream::connect_timeout(&to, PATIENCE))
            .expect("inside")
            .expect("the port is open");
        let mut text = String::new();
        stream.read_to_string(&mut text).expect("it says something");
        assert_eq!(text, "hello from home");
        drop(stream);
        assert_eq!(
            serving.join().expect("served").ip(),
            GATEWAY,
            "the virtual host calls"
        );
        hub.hear("its end", |event| event["nat"] == "tcp-deleted");
        drop(rendezvous);
    });
}

#[test]
fn a_loop_through_the_own_hub_is_broken_at_once() {
    claim(|world| {
        let scene = scene(world);
        let mut office = Office::open(&scene, &[]);
        let invite = office.hub.event("invite")["invite"]
            .as_str()
            .expect("text")
            .to_owned();
        // The hub's own machine joins it too, and somebody leads a network through it there.
        let _itself = scene.member(OFFICE, &invite);
        let mut ip = Command::new("ip");
        ip.args(["route", "add", "10.77.0.0/16", "via", "192.168.30.1"]);
        let Ok(mut routed) = scene.lab.spawn(OFFICE, &mut ip) else {
            return; // Not all machines have it.
        };
        assert!(routed.wait().expect("ends").success());
        let to = SocketAddr::from(([10, 77, 0, 1], 80));
        let limit = Duration::from_secs(1);
        let called = scene
            .lab
            .run_in(OFFICE, move || TcpStream::connect_timeout(&to, limit));
        assert!(called.expect("inside").is_err());
        let event = office.hub.hear("the loop", |event| event["nat"] == "loop");
        assert_eq!(event["destination"], "10.77.0.1");
    });
}

/// Not all machines have it.
#[test]
fn traceroute_shows_the_virtual_host_and_then_the_server() {
    if Command::new("traceroute")
        .arg("--version")
        .stdout(Stdio::null())
        .status()
        .is_err()
    {
        return;
    }
    claim(|world| {
        let scene = scene(world);
        let _office = Office::open(&scene, &[]);
        let mut traceroute = Command::new("traceroute");
        traceroute
            .args(["-n", "-q", "1", "-w", "3", "-m", "4", "192.168.1.20"])
            .stdout(Stdio::piped());
        let output = scene
            .lab
            .spawn(HOME, &mut traceroute)
            .expect("starts")
            .wait_with_output()
            .expect("ends");
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        let hops: Vec<&str> = said
            .lines()
            .skip(1)
            .filter_map(|line| line.split_whitespace().nth(1))
            .collect();
        assert_eq!(hops, ["192.168.30.1", "192.168.1.20"], "{said}");
    });
}
