//! Real `kuguri` processes on machines of the laboratory: what the program promises, as its users see it. Every claim has a
//! world of its own, as root and as an ordinary user alike, and is skipped only where the kernel refuses.
#![cfg(target_os = "linux")]

use std::collections::BTreeSet;
use std::fs;
use std::io::{Read, Write};
use std::net::{
    Ipv4Addr, Ipv6Addr, Shutdown, SocketAddr, SocketAddrV6, TcpListener, TcpStream, UdpSocket,
};
use std::path::Path;
use std::process::Stdio;
use std::thread;
use std::time::{Duration, Instant};

use kuguri_sim::lab::world::{self, claim};
use kuguri_sim::lab::{Machines, World, without_capabilities};
use kuguri_sim::nat::Preset;
use kuguri_tests::real::notices::Notices;
use kuguri_tests::real::packet::Frames;
use kuguri_tests::real::process::Running;
use kuguri_tests::real::program::Program;
use kuguri_tests::real::scene::{DESK, GATEWAY, HOME, Member, OFFICE, Rights, Scene, VPS};
use kuguri_tests::real::wire::{self, PING_TEXT};
use kuguri_tests::real::{PATIENCE, until};
use nix::net::if_::if_nameindex;
use nix::sys::signal::Signal;
use serde_json::Value;

const CARD: &str = "kuguri0";
const HUB: &str = "accounting-hub";
const NETWORK: &str = "192.168.30.1/24";
/// Long enough that something would have happened.
const SOME_ROUND_TRIPS: Duration = Duration::from_millis(200);
/// Found in a capture, it has been read.
const SECRET: &[u8] = b"Kuguri claims: nobody on the way may read this sentence.";

/// A rendezvous, a hub, and a member at home.
struct Branch {
    rendezvous: Running,
    hub: Running,
    home: Member,
    invite: String,
}

impl Branch {
    fn open(scene: &Scene) -> Self {
        let rendezvous = scene.rendezvous();
        let (hub, invite) = scene.hub(HUB, NETWORK);
        let home = scene.member(HOME, &invite);
        Self {
            rendezvous,
            hub,
            home,
            invite,
        }
    }
}

fn scene(world: &World, office: Preset, home: Preset) -> Scene {
    Scene::new(world, program(), office, home)
}

fn cones(world: &World) -> Scene {
    scene(world, Preset::PortRestricted, Preset::PortRestricted)
}

fn program() -> Program {
    Program::new(env!("CARGO_BIN_EXE_kuguri-under-test"))
}

#[test]
fn two_cone_nats_let_a_direct_path_through() {
    claim(|world| {
        let scene = cones(world);
        let branch = Branch::open(&scene);
        for machine in [HOME, OFFICE] {
            scene.wait_for_path(machine, "direct");
        }
        assert!(pings(&scene, HOME, GATEWAY));
        ping_tells(&scene, "direct");
        has_no_capability(&branch.hub);
    });
}

#[test]
fn two_symmetric_nats_leave_it_to_the_relay() {
    claim(|world| {
        let scene = scene(world, Preset::Symmetric, Preset::Symmetric);
        let branch = Branch::open(&scene);
        assert!(pings(&scene, HOME, GATEWAY));
        for machine in [HOME, OFFICE] {
            scene.wait_for_path(machine, "relayed");
        }
        ping_tells(&scene, "relayed");
        has_no_capability(&branch.hub);
    });
}

/// As the kernel knows it; `/proc` numbers processes as outside, so the hub is found by its number in our PID namespace.
fn has_no_capability(hub: &Running) {
    let inner = hub.id().to_string();
    let is_hub = |status: &String| {
        let pids = status.lines().find(|line| line.starts_with("NSpid:"));
        let last = pids.and_then(|pids| pids.split_whitespace().last());
        last == Some(&inner) && is_ours(status)
    };
    let status = fs::read_dir("/proc")
        .expect("there")
        .filter_map(|entry| fs::read_to_string(entry.ok()?.path().join("status")).ok())
        .find(is_hub)
        .expect("the hub runs");
    for set in ["CapPrm:", "CapEff:", "CapAmb:"] {
        let line = status.lines().find(|line| line.starts_with(set));
        assert_eq!(line, Some(format!("{set}\t0000000000000000").as_str()));
    }
}

/// Whether the process of this `/proc/PID/status` lives in the same PID namespace as we do.
fn is_ours(status: &str) -> bool {
    let pid = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name));
        line.map(|pid| pid.trim().to_owned()).unwrap_or_default()
    };
    let ours = fs::read_link("/proc/self/ns/pid").expect("there");
    fs::read_link(format!("/proc/{}/ns/pid", pid("Pid:"))).is_ok_and(|theirs| theirs == ours)
}

fn ping_tells(scene: &Scene, path: &str) {
    let told = scene.call(HOME, &["ping", "--json", "-c", "3", "-i", "0.01"]);
    assert!(told.status.success(), "{told:?}");
    assert_eq!(told.out.len(), 3, "{told:?}");
    for line in &told.out {
        let answer: Value = serde_json::from_str(line).expect("JSON");
        assert_eq!(answer["path"], path, "{line}");
        assert!(answer["ms"].as_f64().is_some_and(|ms| ms > 10.0), "{line}");
    }
    let told = scene.call(OFFICE, &["ping", HOME, "-c", "2", "-i", "0.01"]);
    assert!(told.status.success(), "{told:?}");
    assert!(told.out[0].ends_with(&format!(" ms, {path}")), "{told:?}");
    assert!(told.out[2].starts_with("2 sent, 2 answered"), "{told:?}");
}

#[test]
fn what_is_sent_arrives_byte_by_byte_and_cannot_be_read_on_the_way() {
    claim(|world| {
        let scene = cones(world);
        let branch = Branch::open(&scene);
        let desk = scene.member(DESK, &branch.invite);
        assert!(pings(&scene, HOME, desk.address));
        datagrams_of_every_size(&scene, &branch.home, &desk);
        a_stream(&scene, &desk);
        raw_frames(&scene, &branch.home, &desk);
        ipv6_of_the_link(&scene);
        nothing_was_read(&scene, &branch, &desk);
    });
}

fn datagrams_of_every_size(scene: &Scene, home: &Member, desk: &Member) {
    let open = |machine: &str, own: Ipv4Addr| {
        let socket = scene.lab.run_in(machine, || UdpSocket::bind((own, 5000)));
        let socket = socket.expect("inside").expect("the address is there");
        socket
            .set_read_timeout(Some(SOME_ROUND_TRIPS))
            .expect("not zero");
        socket
    };
    let (at_home, at_desk) = (open(HOME, home.address), open(DESK, desk.address));
    // Of which the last ones are cut into several packets, some of them full frames of 1514 bytes where the card takes such.
    for size in [0, 1, 17, 500, home.mtu - 28, 1472, 1473, 9000] {
        let payload: Vec<u8> = SECRET.iter().copied().cycle().take(size).collect();
        let ways = [(&at_home, &at_desk, desk), (&at_desk, &at_home, home)];
        for (from, to, target) in ways {
            until(&format!("a datagram of {size} bytes"), || {
                from.send_to(&payload, (target.address, 5000))
                    .expect("sends");
                let mut buffer = [0; 10_000];
                let length = to.recv(&mut buffer).ok()?;
                (buffer[..length] == payload).then_some(())
            });
        }
    }
}

fn a_stream(scene: &Scene, desk: &Member) {
    let address = SocketAddr::from((desk.address, 5001));
    let listener = scene.lab.run_in(DESK, || TcpListener::bind(address));
    let listener = listener.expect("inside").expect("a port");
    let sent: Vec<u8> = SECRET.iter().copied().cycle().take(1_000_000).collect();
    thread::scope(|scope| {
        let echo = scope.spawn(|| {
            let (stream, _) = listener.accept().expect("somebody connects");
            patient(&stream);
            std::io::copy(&mut &stream, &mut &stream).expect("echoes");
        });
        let connect = || TcpStream::connect_timeout(&address, PATIENCE);
        let stream = scene.lab.run_in(HOME, connect).expect("inside");
        let mut stream = stream.expect("connects");
        patient(&stream);
        let mut other_half = stream.try_clone().expect("a descriptor");
        let sent = &sent;
        let writer = scope.spawn(move || {
            other_half.write_all(sent).expect("sends");
            other_half.shutdown(Shutdown::Write).expect("ends");
        });
        let mut received = Vec::new();
        stream.read_to_end(&mut received).expect("receives");
        writer.join().expect("does not panic");
        echo.join().expect("does not panic");
        assert!(received == *sent, "the bytes differ");
    });
}

fn patient(stream: &TcpStream) {
    stream.set_read_timeout(Some(PATIENCE)).expect("not zero");
    stream.set_write_timeout(Some(PATIENCE)).expect("not zero");
}

/// Of an experimental EtherType (IEEE 802, 88B5), which no kernel knows; from the smallest to the largest.
fn raw_frames(scene: &Scene, home: &Member, desk: &Member) {
    let open = |machine| {
        scene
            .lab
            .run_in(machine, || Frames::at(CARD))
            .expect("inside")
    };
    let (at_home, at_desk) = (open(HOME), open(DESK));
    for size in [14, 60, 1000, home.mtu + 14, 1514] {
        let ways = [
            (&at_home, home.mac, &at_desk, desk.mac),
            (&at_desk, desk.mac, &at_home, home.mac),
        ];
        for (from, source, to, target) in ways {
            for target in [target, [0xff; 6]] {
                let mut frame = [target, source].concat();
                frame.extend([0x88, 0xb5]);
                frame.extend(SECRET.iter().copied().cycle().take(size - 14));
                until(&format!("a frame of {size} bytes"), || {
                    from.send(&frame).expect("the card takes it");
                    to.sees(&frame).then_some(())
                });
            }
        }
    }
}

fn ipv6_of_the_link(scene: &Scene) {
    let look = |machine| {
        until("an IPv6 address of the link", || {
            let card = scene.lab.run_in(machine, || wire::interface(CARD));
            let card = card.expect("inside")?;
            Some((card.index, card.link_local?))
        })
    };
    let (scope, _) = look(HOME);
    let (_, target) = look(DESK);
    let open = |machine| {
        let socket = scene
            .lab
            .run_in(machine, || UdpSocket::bind((Ipv6Addr::UNSPECIFIED, 5006)));
        let socket = socket.expect("inside").expect("a port");
        socket
            .set_read_timeout(Some(SOME_ROUND_TRIPS))
            .expect("not zero");
        socket
    };
    let (at_home, at_desk) = (open(HOME), open(DESK));
    // The kernel uses the addresses only after it has asked whether somebody else has them (RFC 4862).
    until("a datagram to an address of the link", || {
        let _ = at_home.send_to(SECRET, SocketAddrV6::new(target, 5006, 0, scope));
        let mut buffer = [0; 100];
        let (length, _) = at_desk.recv_from(&mut buffer).ok()?;
        (buffer[..length] == *SECRET).then_some(())
    });
}

/// After all that: of the text, names, addresses and secrets not as much as a piece is in the capture.
fn nothing_was_read(scene: &Scene, branch: &Branch, desk: &Member) {
    let token = branch.invite.trim_start_matches("kuguri://");
    let file = scene.state(OFFICE).join(format!("hub-{HUB}.toml"));
    let file = fs::read_to_string(file).expect("the hub's file");
    let raw_token = file.split('"').find_map(raw_token).expect("a token");
    let mut secrets: Vec<Vec<u8>> = SECRET
        .windows(16)
        .chain(PING_TEXT.windows(16))
        .chain(token.as_bytes().windows(16))
        .map(Vec::from)
        .collect();
    secrets.push(raw_token);
    for name in [HOME, DESK, OFFICE, HUB] {
        secrets.push(name.into());
    }
    for mac in [branch.home.mac, desk.mac] {
        secrets.push(mac.into());
    }
    let pieces: BTreeSet<[u8; 6]> = secrets
        .iter()
        .map(|secret| *secret.first_chunk().expect("six bytes and more"))
        .collect();
    let captured = scene.captured();
    let bytes: usize = captured.iter().map(Vec::len).sum();
    assert!(bytes > 2_000_000, "everything passed there: {bytes}");
    for payload in &captured {
        for (at, window) in payload.windows(6).enumerate() {
            let suspicious = window
                .try_into()
                .is_ok_and(|six: [u8; 6]| pieces.contains(&six));
            let read = secrets
                .iter()
                .find(|secret| suspicious && payload[at..].starts_with(secret));
            assert_eq!(read, None, "{}", String::from_utf8_lossy(payload));
        }
    }
}

fn raw_token(text: &str) -> Option<Vec<u8>> {
    let number = u128::from_str_radix(text, 16).ok()?;
    (text.len() == 32).then(|| number.to_be_bytes().into())
}

#[test]
fn a_killed_hub_comes_back_and_the_card_stays_up_all_the_time() {
    claim(|world| {
        let scene = cones(world);
        let mut branch = Branch::open(&scene);
        assert!(pings(&scene, HOME, GATEWAY));
        let before = card(&scene, HOME).expect("there");
        let notices = scene.lab.run_in(HOME, Notices::new).expect("inside");
        branch.home.process.forget();
        branch.hub.kill();
        let start = Instant::now();
        let (hub, invite) = scene.hub(HUB, NETWORK);
        assert_eq!(invite, branch.invite, "an invite stays good");
        branch.home.process.event("joined");
        eprintln!(
            "the member was back {:?} after the hub's death",
            start.elapsed()
        );
        assert!(pings(&scene, HOME, GATEWAY));
        assert!(notices.is_untouched(before.index), "the card went down");
        assert_eq!(card(&scene, HOME), Some(before));
        drop(hub);
        // What would have been noticed is noticed: with its process the card goes.
        let index = card(&scene, HOME).expect("there").index;
        branch.home.process.kill();
        until("the card is gone", || {
            (!notices.is_untouched(index)).then_some(())
        });
    });
}

#[test]
fn ctrl_c_ends_hub_and_member_cleanly() {
    claim(|world| {
        let scene = cones(world);
        let branch = Branch::open(&scene);
        for (machine, process) in [(HOME, branch.home.process), (OFFICE, branch.hub)] {
            let ended = process.stop_by(Signal::SIGINT);
            assert!(ended.status.success() && ended.err.is_empty(), "{ended:?}");
            let last = ended.out.last().expect("it has said something");
            assert!(last.contains("\"stopped\""), "{ended:?}");
            let left = fs::read_dir(scene.state(machine).join("run")).expect("there");
            let sockets = left.filter_map(|it| it.ok()?.file_name().into_string().ok());
            assert_eq!(sockets.filter(|name| name.ends_with(".sock")).count(), 0);
        }
        assert_eq!(card(&scene, HOME), None);
    });
}

#[test]
fn a_direct_link_does_not_need_the_rendezvous() {
    claim(|world| {
        let scene = cones(world);
        let mut branch = Branch::open(&scene);
        for machine in [HOME, OFFICE] {
            scene.wait_for_path(machine, "direct");
        }
        branch.rendezvous.kill();
        assert!(pings(&scene, HOME, GATEWAY));
        branch.hub.forget();
        branch.home.process.forget();
        let start = Instant::now();
        branch.rendezvous = scene.rendezvous();
        let mut answered = 0;
        until("both are registered again", || {
            answered += u32::from(pings(&scene, HOME, GATEWAY));
            let both =
                branch.hub.has_said("registered") && branch.home.process.has_said("registered");
            both.then_some(())
        });
        eprintln!(
            "registered again {:?} after the restart; {answered} pings answered meanwhile",
            start.elapsed()
        );
        assert!(
            !branch.home.process.has_said("link-down"),
            "the link went on"
        );
        scene.wait_for_path(HOME, "direct");
        // Somebody new can come in by it.
        let desk = scene.member(DESK, &branch.invite);
        assert!(pings(&scene, HOME, desk.address));
    });
}

#[test]
fn before_connect_there_is_no_way_and_after_its_death_there_is_no_trace() {
    claim(|world| {
        let scene = cones(world);
        let rendezvous = scene.rendezvous();
        let (hub, invite) = scene.hub(HUB, NETWORK);
        let reached = scene
            .lab
            .run_in(HOME, || wire::answers(GATEWAY, SOME_ROUND_TRIPS));
        assert!(!reached.expect("inside"), "there is a way already");
        assert_eq!(card(&scene, HOME), None);

        let start = Instant::now();
        let mut process = scene.start(HOME, Rights::Root, &["connect", &invite, "--json"]);
        assert!(pings(&scene, HOME, GATEWAY));
        eprintln!("connect to the first answered ping: {:?}", start.elapsed());

        process.kill();
        until("card and addresses are gone", || {
            card(&scene, HOME).is_none().then_some(())
        });
        let reached = scene
            .lab
            .run_in(HOME, || wire::answers(GATEWAY, SOME_ROUND_TRIPS));
        assert!(!reached.expect("inside"), "the way is still there");
        for process in [hub, rendezvous] {
            let ended = process.stop();
            assert!(ended.status.success(), "{ended:?}");
        }
    });
}

#[test]
fn one_state_directory_serves_two_memberships_but_not_one_twice() {
    claim(|world| {
        let scene = cones(world);
        let _rendezvous = scene.rendezvous();
        let (_one, invite) = scene.hub("one", NETWORK);
        let (_two, other) = scene.hub("two", "10.9.0.1/24");
        let member = scene.member(HOME, &invite);
        let arguments = ["connect", &other, "--json", "--interface", "lan1"];
        let mut second = scene.start(HOME, Rights::Root, &arguments);
        second.event("card");
        for gateway in [GATEWAY, Ipv4Addr::new(10, 9, 0, 1)] {
            assert!(pings(&scene, HOME, gateway));
        }
        let status = scene.status(HOME);
        assert_eq!(status.as_array().map(Vec::len), Some(2), "{status}");

        let again = ["connect", &invite, "--interface", "lan2"];
        let refused = scene.start(HOME, Rights::Root, &again).end();
        assert_eq!(refused.status.code(), Some(1));
        assert_eq!(refused.err.len(), 1, "{refused:?}");
        let pid = format!("process {};", member.process.id());
        assert!(refused.err[0].contains(&pid), "{refused:?}");
        assert!(
            pings(&scene, HOME, GATEWAY),
            "the first one is not disturbed"
        );
    });
}

#[test]
fn nothing_is_left_when_a_world_ends() {
    const FILES: &str = "KUGURI_TEST_FILES";
    if let Some(files) = std::env::var_os(FILES) {
        claim(|world| run_for_ever(&cones(world), Path::new(&files)));
        return;
    }
    let files = tempfile::tempdir().expect("a directory");
    let test = [
        "nothing_is_left_when_a_world_ends",
        "--exact",
        "--nocapture",
    ];
    let command = world::command(test).map(|mut command| {
        command
            .env(FILES, files.path())
            .stdout(Stdio::piped())
            .spawn()
    });
    let mut child = match command {
        Ok(Ok(child)) => child,
        refused => return eprintln!("skipped: {refused:?}"),
    };
    let interfaces = names_of_interfaces();
    // Every process of the world holds this pipe: its end is the last one's.
    let mut output = child.stdout.take().expect("piped");
    let told = files.path().join("namespaces");
    until("everything runs in the world", || {
        told.exists().then_some(())
    });
    let inside = fs::read_to_string(told).expect("text");
    assert!(
        inside.lines().all(|name| namespaces().contains(name)),
        "{inside}"
    );
    child.kill().expect("it runs");
    child.wait().expect("it has ended");
    output.read_to_end(&mut Vec::new()).expect("the end comes");
    until("the namespaces are gone", || {
        let left = namespaces();
        inside
            .lines()
            .all(|name| !left.contains(name))
            .then_some(())
    });
    assert_eq!(names_of_interfaces(), interfaces);
}

/// The inner half: starts everything, tells by a file which namespaces the processes are in, and never ends.
fn run_for_ever(scene: &Scene, files: &Path) {
    let branch = Branch::open(scene);
    // One that holds the outer test's pipe, on the machine and in the same way as the others.
    let mut listener = program().command(&["rendezvous", "--port", "0", "--state"]);
    listener.arg(files.join("more")).stdout(Stdio::inherit());
    let mut more = scene
        .lab
        .spawn(VPS, without_capabilities(&mut listener))
        .expect("starts");
    let names: String = [VPS, OFFICE, HOME]
        .map(|machine| {
            let link = || fs::read_link("/proc/thread-self/ns/net").expect("there");
            let link = scene.lab.run_in(machine, link).expect("inside");
            format!("{}\n", link.display())
        })
        .concat();
    let half = files.join("half");
    fs::write(&half, names).expect("writes");
    fs::rename(half, files.join("namespaces")).expect("renames");
    // The outer test ends us; were it gone, nothing would wait for ever.
    let _ = more.wait();
    drop(branch);
}

/// The network namespaces of all processes that we may look at.
fn namespaces() -> BTreeSet<String> {
    let processes = fs::read_dir("/proc").expect("there").flatten();
    processes
        .filter_map(|process| fs::read_link(process.path().join("ns/net")).ok())
        .map(|link| link.display().to_string())
        .collect()
}

fn names_of_interfaces() -> BTreeSet<String> {
    let all = if_nameindex().expect("the kernel tells");
    all.iter()
        .map(|interface| interface.name().to_string_lossy().into_owned())
        .collect()
}

fn pings(scene: &Scene, machine: &str, target: Ipv4Addr) -> bool {
    let answered = scene
        .lab
        .run_in(machine, || wire::answers(target, PATIENCE));
    answered.expect("inside")
}

fn card(scene: &Scene, machine: &str) -> Option<wire::Interface> {
    let card = scene.lab.run_in(machine, || wire::interface(CARD));
    card.expect("inside")
}
