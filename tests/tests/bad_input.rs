//! What is wrong, refused: invites, keys, ports, rights, garbage; files are in `bad_files`. Each is one clear sentence on stderr that says what to
//! do, an exit code that is not 0, and nothing lost. The program runs on loopback; where it gets as far as making a card,
//! on a machine of the laboratory.
#![cfg(target_os = "linux")]

use std::fs::{self, Permissions};
use std::net::{Ipv4Addr, SocketAddr, TcpStream, UdpSocket};
use std::os::unix::fs::PermissionsExt;
use std::process::Command;
use std::time::Duration;

use kuguri_proto::identity::Identity;
use kuguri_proto::invite::Invite;
use kuguri_sim::lab::world::claim;
use kuguri_sim::lab::{Lab, without_capabilities};
use kuguri_tests::real::place::{
    MACHINE, Ordinary, Place, ends_with_refusal, is_refusal, lonely_machine, some_invite,
};
use kuguri_tests::real::process::Running;
use kuguri_tests::real::program::Program;
use kuguri_tests::real::wire;
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

fn program() -> Program {
    Program::new(env!("CARGO_BIN_EXE_kuguri-under-test"))
}

#[test]
fn an_invite_that_is_none_is_refused() {
    let place = Place::here(program());
    let good = some_invite();
    let mut bad = vec![
        String::new(),
        "nonsense".into(),
        "https://vps.example/".into(),
        "kuguri://".into(),
        "kuguri://@@@@".into(),
        "no-such-file.txt".into(),
        good[..good.len() - 1].into(),
        format!("{good}AAAA"),
        good.to_uppercase(),
    ];
    // One letter is another one: in the beginning, in the middle, near the end.
    for at in [10, good.len() / 2, good.len() - 2] {
        let other = if &good[at..=at] == "A" { "B" } else { "A" };
        bad.push(format!("{}{other}{}", &good[..at], &good[at + 1..]));
    }
    for invite in bad {
        place.refused("home", &["connect", &invite], &["invite"]);
    }
    place.refused(
        "home",
        &["connect", "/nonexistent"],
        &["no file /nonexistent"],
    );
    let file = place.files.path().join("invite.txt");
    let name = file.to_str().expect("text");
    for bytes in [&b""[..], b"\xff\xfe\x00", &[b'x'; 100_000]] {
        fs::write(&file, bytes).expect("writes");
        place.refused("home", &["connect", name], &["invite"]);
    }
    // By stdin too, and it is what they have that is wrong, not how it is read.
    fs::write(&file, b"\xff\xfe\x00").expect("writes");
    let mut command = place.command("home", &["connect", "-"]);
    let by_stdin = Running::start(&mut command, |command| {
        command.stdin(fs::File::open(&file)?).spawn()
    });
    is_refusal(&by_stdin.end(), &["this is not an invite"]);
}

#[test]
fn a_rendezvous_that_is_not_there_is_told_and_waited_for() {
    let place = Place::here(program());
    // Bound by us, so that nobody else answers there; and we do not.
    let silent = UdpSocket::bind("127.0.0.1:0").expect("a port");
    let address = silent.local_addr().expect("bound").to_string();
    let mut hub = place.start("hub", &["serve", "office", "--rendezvous", &address]);
    hub.complaint("no answer from the rendezvous");
    assert!(hub.lives());
    ends_with_refusal(&hub.stop(), &["before it was registered"]);

    // Where nobody has the port, the kernel says so itself.
    drop(silent);
    let mut hub = place.start("hub", &["serve", "office", "--rendezvous", &address]);
    hub.complaint("rendezvous");
    assert!(hub.lives());
    let (_rendezvous, _, _) =
        place.rendezvous("vps", &address[address.len() - port_length(&address)..]);
    hub.complaint("registered");
    assert!(hub.stop().status.success());
}

#[test]
fn who_asks_a_hub_without_a_rendezvous_hears_why_there_is_no_answer() {
    let place = Place::here(program());
    let arguments = ["serve", "office", "--rendezvous", "nosuch.invalid"];
    let mut hub = place.start("hub", &arguments);
    hub.complaint("nosuch.invalid");
    for verb in [&["status"][..], &["status", "--json"], &["ping"]] {
        place.refused("hub", verb, &["hub-office", "not resolved"]);
    }
    ends_with_refusal(&hub.stop(), &["before it was registered"]);
}

#[test]
fn a_member_waits_for_a_rendezvous_that_is_not_there() {
    claim(|world| {
        let lab = lonely_machine(world);
        let place = Place::new(program(), Some(&lab));
        let mut member = place.start("home", &["connect", &some_invite()]);
        member.complaint("rendezvous");
        let card = || lab.run_in(MACHINE, || wire::interface("kuguri0"));
        assert!(member.lives() && card().expect("inside").is_some());
        ends_with_refusal(&member.stop(), &["before it was registered"]);
        assert_eq!(card().expect("inside"), None);
    });
}

fn port_length(address: &str) -> usize {
    address.rsplit(':').next().map_or(0, str::len)
}

#[test]
fn another_key_of_the_rendezvous_is_refused_by_name() {
    let place = Place::here(program());
    let (rendezvous, address, key) = place.rendezvous("vps", "0");
    let to = address.to_string();
    let wrong = Identity::from_seed(&[3; 32]).id().to_string();
    let arguments = [
        "serve",
        "office",
        "--rendezvous",
        &to,
        "--rendezvous-key",
        &wrong,
    ];
    let ended = place.run("hub", &arguments);
    is_refusal(&ended, &[&wrong, &key]);
    assert!(
        ended.out.is_empty(),
        "an invite that leads nowhere: {ended:?}"
    );

    let file = place.state("hub").join("hub-office.toml");
    let file = fs::read_to_string(file).expect("the hub has begun");
    assert!(!file.contains(&wrong), "kept without proof: {file}");

    // Trusted on first use, then another one at the same place. (Among the events an invite is said again.)
    let (hub, invite) = place.hub(address);
    assert!(hub.stop().status.success());
    assert!(rendezvous.stop().status.success());
    let known = place.state("hub").join("known-rendezvous.toml");
    let kept = fs::read(&known).expect("kept");
    let port = address.port().to_string();
    let (other, _, new) = place.rendezvous("other", &port);
    let words = [key.as_str(), &new, "--rendezvous-key"];
    let ended = place.run("hub", &["serve", "office"]);
    is_refusal(&ended, &words);
    assert!(ended.out.is_empty(), "an invite without proof: {ended:?}");
    let advices = ended.err[0].matches("; ").count();
    assert_eq!(advices, 1, "{ended:?}");
    assert_eq!(fs::read(&known).expect("kept"), kept);
    let again = place.run("hub", &["invite", "office"]);
    assert_eq!(again.out, [invite]);

    // Whoever runs already lives on: links do not need the one that is gone.
    drop(other);
    let (rendezvous, _, _) = place.rendezvous("vps", &port);
    let mut hub = place.start("hub", &["serve", "office"]);
    hub.complaint("registered");
    assert!(rendezvous.stop().status.success());
    let (_other, _, new) = place.rendezvous("other", &port);
    hub.complaint(&new);
    assert!(hub.lives());
    assert!(hub.stop().status.success());

    // A key that is none: the arguments make no sense.
    let arguments = [
        "serve",
        "office",
        "--rendezvous",
        &to,
        "--rendezvous-key",
        "x",
    ];
    assert_eq!(place.run("hub", &arguments).status.code(), Some(2));
}

#[test]
fn a_port_in_use_is_refused_by_number() {
    let place = Place::here(program());
    let (_rendezvous, address, _) = place.rendezvous("vps", "0");
    let port = address.port().to_string();
    let arguments = ["rendezvous", "--listen", "127.0.0.1", "--port", &port];
    place.refused("other", &arguments, &[&port, "--port"]);
    // A peer's socket takes all addresses.
    let taken = UdpSocket::bind("0.0.0.0:0").expect("a port");
    let port = taken.local_addr().expect("bound").port().to_string();
    let arguments = [
        "serve",
        "office",
        "--port",
        &port,
        "--rendezvous",
        "127.0.0.1",
    ];
    place.refused("hub", &arguments, &[&port, "--port"]);
}

#[test]
fn without_the_right_to_make_a_card_it_says_what_to_do() {
    let place = Place::here(program());
    let ordinary = Ordinary::new(&place);
    let state = place.state("home");
    fs::create_dir_all(&state).expect("makes it");
    ordinary.owns(&state);
    let ended = ordinary.run("home", &["connect", &some_invite()]);
    is_refusal(&ended, &["right", "sudo", "setcap cap_net_admin"]);
    assert!(!ended.err[0].contains("command -v"), "{ended:?}");
}

#[test]
fn without_dev_net_tun_it_takes_a_pair_of_cards_or_says_what_to_do() {
    claim(|world| {
        let lab = lonely_machine(world);
        let place = Place::new(program(), Some(&lab));
        let invite = some_invite();
        let mut command = place.command("home", &["connect", &invite]);
        let refused = start_without_tun(&lab, without_capabilities(&mut command), None).end();
        is_refusal(&refused, &["/dev/net/tun", "modprobe"]);
        // Kept from this user, it is of no use with one capability alone.
        let nobodys = Some(Permissions::from_mode(0o000));
        let mut command = place.command("home", &["connect", &invite]);
        let refused = start_without_tun(&lab, without_capabilities(&mut command), nobodys).end();
        is_refusal(&refused, &["setcap cap_net_admin,cap_net_raw+ep"]);

        let (_rendezvous, address, _) = place.rendezvous("vps", "0");
        let (_hub, invite) = place.hub(address);
        let mut command = place.command("home", &["connect", &invite, "--json"]);
        let mut member = start_without_tun(&lab, &mut command, None);
        assert_eq!(member.event("card")["kind"], "veth");
    });
}

/// Without the device, or with something of these permissions in its place.
fn start_without_tun(lab: &Lab, command: &mut Command, instead: Option<Permissions>) -> Running {
    Running::start(command, |command| {
        lab.run_in(MACHINE, || {
            // Only this thread's view, and what it starts.
            unshare(CloneFlags::CLONE_NEWNS)?;
            let none: Option<&str> = None;
            mount(none, "/", none, MsFlags::MS_PRIVATE | MsFlags::MS_REC, none)?;
            mount(
                Some("tmpfs"),
                "/dev/net",
                Some("tmpfs"),
                MsFlags::empty(),
                none,
            )?;
            if let Some(permissions) = instead {
                fs::write("/dev/net/tun", "")?;
                fs::set_permissions("/dev/net/tun", permissions)?;
            }
            command.env_remove("KUGURI_WORLD_OUTSIDE").spawn()
        })?
    })
}

#[test]
fn a_token_that_the_hub_does_not_know_is_refused_and_the_hub_goes_on() {
    claim(|world| {
        let lab = lonely_machine(world);
        let place = Place::new(program(), Some(&lab));
        let (_rendezvous, address, _) = place.rendezvous("vps", "0");
        let (mut hub, invite) = place.hub(address);
        let mut other: Invite = invite.parse().expect("good");
        other.token = Some([0x5a; 16]);
        let other = other.to_text().expect("short");
        let ended = place.run("stranger", &["connect", &other, "--json"]);
        is_refusal(&ended, &["does not know this invite"]);
        hub.event("member-refused");
        let mut member = place.start("home", &["connect", &invite, "--json"]);
        member.event("card");
    });
}

#[test]
fn nothing_running_is_said_by_status_and_ping() {
    let place = Place::here(program());
    for verb in [
        &["status"][..],
        &["status", "--json"],
        &["ping"],
        &["ping", "home"],
    ] {
        place.refused("empty", verb, &["runs here", "kuguri serve"]);
    }
    place.refused("empty", &["invite"], &["no hub"]);
    place.refused("empty", &["invite", "office"], &["no hub office"]);
    assert!(
        !place.state("empty").exists(),
        "who only looks makes nothing"
    );
    // What no flag means is clap's to say, with the code for that.
    for wrong in [
        &["fly"][..],
        &["serve", "a/b"],
        &["serve", "o", "--port", "x"],
    ] {
        let ended = place.run("empty", wrong);
        assert_eq!(ended.status.code(), Some(2), "{ended:?}");
    }
}

#[test]
fn garbage_at_every_port_is_survived_and_never_answered_with_more() {
    claim(|world| {
        let lab = lonely_machine(world);
        let place = Place::new(program(), Some(&lab));
        let (mut rendezvous, address, _) = place.rendezvous("vps", "0");
        let (mut hub, invite) = place.hub(address);
        let mut member = place.start("home", &["connect", &invite, "--json"]);
        member.event("card");
        let stun = SocketAddr::new(address.ip(), address.port() + 1);
        let port = |state: &str| {
            let status = place.run(state, &["status", "--json"]).out.concat();
            let status: serde_json::Value = serde_json::from_str(&status).expect("JSON");
            let port = status[0]["port"].as_u64().expect("a port");
            SocketAddr::from((Ipv4Addr::LOCALHOST, u16::try_from(port).expect("a port")))
        };
        for target in [address, stun, port("hub"), port("home")] {
            let answers = lab.run_in(MACHINE, || throw_garbage(target));
            answers.expect("inside");
            lab.run_in(MACHINE, || throw_at_tcp(target))
                .expect("inside");
        }
        for process in [&mut rendezvous, &mut hub, &mut member] {
            assert!(process.lives());
        }
        let pinged = place.run("home", &["ping", "-c", "2", "-i", "0"]);
        assert!(pinged.status.success(), "{pinged:?}");
        // All of them still take somebody new.
        let again = ["connect", &invite, "--json", "--interface", "lan1"];
        let mut second = place.start("second", &again);
        second.event("card");
        for process in [second, member, hub, rendezvous] {
            let ended = process.stop();
            assert!(ended.status.success(), "{ended:?}");
        }
    });
}

/// Datagrams of every first byte and many sizes, each from a socket of its own, so that every answer has its question.
fn throw_garbage(target: SocketAddr) {
    let mut rng = StdRng::seed_from_u64(1);
    let mut questions: Vec<Vec<u8>> = Vec::new();
    for first in 0..=255 {
        for size in [1, 3, 20, 64, 1200, 1472] {
            let mut datagram = vec![0; size];
            rng.fill(&mut datagram[..]);
            datagram[0] = first;
            questions.push(datagram);
        }
    }
    questions.push(Vec::new());
    questions.push(vec![0; 65_507]);
    questions.extend(stun_junk(&mut rng));
    questions.extend(quic_junk(&mut rng));
    for some in questions.chunks(64) {
        let asked: Vec<_> = some
            .iter()
            .map(|question| {
                let socket = UdpSocket::bind("127.0.0.1:0").expect("a port");
                socket.connect(target).expect("a route");
                // Too large for loopback is no matter of theirs.
                let _ = socket.send(question);
                (socket, question)
            })
            .collect();
        // Asked last, answered last: a question that the rendezvous answers; of the others nothing is expected.
        settle(target);
        for (socket, question) in asked {
            socket.set_nonblocking(true).expect("can");
            let mut buffer = vec![0; 70_000];
            let mut answered = 0;
            while let Ok(length) = socket.recv(&mut buffer) {
                answered += length;
            }
            assert!(
                answered <= question.len(),
                "{answered} bytes for {}, which begins {:?}",
                question.len(),
                &question[..question.len().min(24)]
            );
        }
    }
}

/// Waits until the target has taken everything in: a server answers a good STUN request, others are given some time.
fn settle(target: SocketAddr) {
    let socket = UdpSocket::bind("127.0.0.1:0").expect("a port");
    let limit = Duration::from_millis(50);
    socket.set_read_timeout(Some(limit)).expect("not zero");
    socket.connect(target).expect("a route");
    let _ = socket.send(&stun(0x0001, &[], 0));
    let _ = socket.recv(&mut [0; 1500]);
}

/// Type, length, magic cookie, transaction id (RFC 8489, section 5), body; `lie` is added to the length.
fn stun(kind: u16, body: &[u8], lie: u16) -> Vec<u8> {
    let length = u16::try_from(body.len()).expect("short").wrapping_add(lie);
    let mut message = [kind.to_be_bytes(), length.to_be_bytes()].concat();
    message.extend(0x2112_a442_u32.to_be_bytes());
    message.extend([7; 12]);
    message.extend(body);
    message
}

fn stun_junk(rng: &mut StdRng) -> Vec<Vec<u8>> {
    let mut junk = vec![stun(0x0001, &[], 4), stun(0x0001, &[], 0xffff)];
    for kind in [0x0001, 0x0101, 0x0111, 0x0003, 0x0017, 0x3fff] {
        for size in [0, 4, 8, 24, 100, 400] {
            let mut body = vec![0; size];
            rng.fill(&mut body[..]);
            junk.push(stun(kind, &body, 0));
        }
    }
    // Attributes that claim to be longer than there is, and RESPONSE-PORT, CHANGE-REQUEST, USERNAME with nothing good.
    for attribute in [0x0003_u16, 0x0006, 0x0008, 0x0026, 0x0027, 0x8028] {
        for length in [0_u16, 4, 8, 0x7fff] {
            let mut body = [attribute.to_be_bytes(), length.to_be_bytes()].concat();
            body.extend([0xff; 8]);
            junk.push(stun(0x0001, &body, 0));
        }
    }
    junk
}

/// Long headers (RFC 9000, section 17.2) of version 1, of none and of another one.
fn quic_junk(rng: &mut StdRng) -> Vec<Vec<u8>> {
    let mut junk = Vec::new();
    for version in [1_u32, 0, 0x0a0a_0a0a, 0xff00_001d] {
        for first in [0xc0, 0xc3, 0xd0, 0xe0, 0xf0] {
            for size in [30, 200, 1200, 1452] {
                let mut packet = vec![0; size];
                rng.fill(&mut packet[..]);
                packet[0] = first;
                packet[1..5].copy_from_slice(&version.to_be_bytes());
                (packet[5], packet[14]) = (8, 8);
                junk.push(packet);
            }
        }
    }
    junk
}

/// Nobody listens there by TCP; if somebody did, it would get junk too.
fn throw_at_tcp(target: SocketAddr) {
    if let Ok(mut stream) = TcpStream::connect(target) {
        let _ = std::io::Write::write_all(&mut stream, &[0xff; 10_000]);
    }
}
