//! What is wrong, refused: files, invites, keys, ports, rights, garbage. Each is one clear sentence on stderr that says what to
//! do, an exit code that is not 0, and nothing lost. The program runs on loopback; where it gets as far as making a card,
//! on a machine of the laboratory.
#![cfg(target_os = "linux")]

use std::fs::{self, Permissions};
use std::net::{Ipv4Addr, SocketAddr, TcpStream, UdpSocket};
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use kuguri_proto::identity::Identity;
use kuguri_proto::invite::{Invite, RendezvousRef};
use kuguri_sim::lab::world::claim;
use kuguri_sim::lab::{Attachment, Lab, Machine, World, without_capabilities};
use kuguri_sim::network::{Access, Network};
use kuguri_tests::real::process::{Ended, Program, Running};
use kuguri_tests::real::wire;
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use tempfile::TempDir;

/// One machine with nobody around; state directories in `files`.
struct Place<'l> {
    lab: Option<&'l Lab>,
    files: TempDir,
    program: Program,
}

impl Place<'static> {
    /// Here, where the claims run; for what makes no card.
    fn here() -> Self {
        Self::new(None)
    }
}

impl<'l> Place<'l> {
    fn new(lab: Option<&'l Lab>) -> Self {
        Self {
            lab,
            files: TempDir::new().expect("a directory"),
            program: Program::new(env!("CARGO_BIN_EXE_kuguri-under-test")),
        }
    }

    fn state(&self, name: &str) -> PathBuf {
        self.files.path().join(name)
    }

    fn command(&self, state: &str, arguments: &[&str]) -> Command {
        let mut command = self.program.command(arguments);
        command.arg("--state").arg(self.state(state));
        command
    }

    fn start(&self, state: &str, arguments: &[&str]) -> Running {
        self.spawn(&mut self.command(state, arguments))
    }

    fn spawn(&self, command: &mut Command) -> Running {
        Running::start(command, |command| match self.lab {
            Some(lab) => lab.spawn(MACHINE, command),
            None => command.spawn(),
        })
    }

    fn run(&self, state: &str, arguments: &[&str]) -> Ended {
        self.start(state, arguments).end()
    }

    /// Runs it and expects it to be refused by one sentence with these words in it.
    fn refused(&self, state: &str, arguments: &[&str], words: &[&str]) {
        is_refusal(&self.run(state, arguments), words);
    }

    /// A rendezvous on loopback, its address and its key.
    fn rendezvous(&self, state: &str, port: &str) -> (Running, SocketAddr, String) {
        let arguments = [
            "rendezvous",
            "--json",
            "--listen",
            "127.0.0.1",
            "--port",
            port,
        ];
        let mut process = self.start(state, &arguments);
        let said = process.event("listening");
        let address = said["addresses"][0].as_str().expect("text");
        let key = said["key"].as_str().expect("text").to_owned();
        (process, address.parse().expect("an address"), key)
    }

    fn hub(&self, rendezvous: SocketAddr) -> (Running, String) {
        let arguments = [
            "serve",
            "office",
            "--json",
            "--rendezvous",
            &rendezvous.to_string(),
        ];
        let mut hub = self.start("hub", &arguments);
        hub.event("registered");
        let invite = hub.event("invite")["invite"]
            .as_str()
            .expect("text")
            .to_owned();
        (hub, invite)
    }
}

fn is_refusal(ended: &Ended, words: &[&str]) {
    assert_eq!(ended.status.code(), Some(1), "{ended:?}");
    assert_eq!(ended.err.len(), 1, "{ended:?}");
    let sentence = &ended.err[0];
    assert!(sentence.starts_with("error: "), "{sentence}");
    for word in words {
        assert!(sentence.contains(word), "{word} is missing: {sentence}");
    }
}

/// An invite that is well made and leads to this rendezvous.
fn invite_to(rendezvous: SocketAddr, key: &str, token: [u8; 16]) -> Invite {
    Invite {
        hub: Identity::from_seed(&[9; 32]).id(),
        rendezvous: vec![RendezvousRef {
            host: rendezvous.ip().to_string(),
            port: rendezvous.port(),
            key: key.parse().expect("a key"),
        }],
        token: Some(token),
        hub_name: "office".into(),
    }
}

fn some_invite() -> String {
    let nobody = SocketAddr::from(([127, 0, 0, 1], 9));
    let key = Identity::from_seed(&[8; 32]).id().to_string();
    let invite = invite_to(nobody, &key, [7; 16]);
    invite.to_text().expect("short")
}

#[test]
fn an_invite_that_is_none_is_refused() {
    let place = Place::here();
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
    let file = place.files.path().join("invite.txt");
    let name = file.to_str().expect("text");
    for bytes in [&b""[..], b"\xff\xfe\x00", &[b'x'; 100_000]] {
        fs::write(&file, bytes).expect("writes");
        place.refused("home", &["connect", name], &["invite"]);
    }
}

#[test]
fn a_rendezvous_that_is_not_there_is_told_and_waited_for() {
    let place = Place::here();
    // Bound by us, so that nobody else answers there; and we do not.
    let silent = UdpSocket::bind("127.0.0.1:0").expect("a port");
    let address = silent.local_addr().expect("bound").to_string();
    let mut hub = place.start("hub", &["serve", "office", "--rendezvous", &address]);
    hub.complaint("no answer from the rendezvous");
    assert!(hub.lives());
    let ended = hub.stop();
    assert!(ended.status.success(), "{ended:?}");

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
fn a_member_waits_for_a_rendezvous_that_is_not_there() {
    claim(|world| {
        let lab = lonely_machine(world);
        let place = Place::new(Some(&lab));
        let mut member = place.start("home", &["connect", &some_invite()]);
        member.complaint("rendezvous");
        let card = || lab.run_in(MACHINE, || wire::interface("kuguri0"));
        assert!(member.lives() && card().expect("inside").is_some());
        let ended = member.stop();
        assert!(ended.status.success(), "{ended:?}");
        assert_eq!(card().expect("inside"), None);
    });
}

fn port_length(address: &str) -> usize {
    address.rsplit(':').next().map_or(0, str::len)
}

#[test]
fn another_key_of_the_rendezvous_is_refused_by_name() {
    let place = Place::here();
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
    let (_other, _, new) = place.rendezvous("other", &address.port().to_string());
    let words = [key.as_str(), &new, "--rendezvous-key"];
    place.refused("hub", &["serve", "office", "--json"], &words);
    assert_eq!(fs::read(&known).expect("kept"), kept);
    let again = place.run("hub", &["invite", "office"]);
    assert_eq!(again.out, [invite]);

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
    let place = Place::here();
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
fn a_key_file_that_cannot_be_used_is_named_and_kept() {
    let place = Place::here();
    let invite = some_invite();
    let hub: Invite = invite.parse().expect("good");
    let member: String = hub.hub.to_string().chars().take(16).collect();
    let verbs: [(&str, &[&str]); 3] = [
        (
            "rendezvous.key",
            &["rendezvous", "--listen", "127.0.0.1", "--port", "0"],
        ),
        (
            "hub-office.key",
            &["serve", "office", "--rendezvous", "127.0.0.1:9"],
        ),
        (&format!("member-{member}.key"), &["connect", &invite]),
    ];
    let good = "AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE\n";
    let damaged = [
        b"".to_vec(),
        b"# only a comment\n".to_vec(),
        good.as_bytes()[..20].to_vec(),
        format!("{good}{good}").into_bytes(),
        vec![0xff; 43],
        vec![b'A'; 100_000],
    ];
    for (name, arguments) in verbs {
        for (number, bytes) in damaged.iter().enumerate() {
            let state = format!("{name}-{number}");
            let file = write_private(&place.state(&state), name, bytes);
            place.refused(&state, arguments, &[file.to_str().expect("text")]);
            assert_eq!(&fs::read(&file).expect("still there"), bytes);
        }
        let state = format!("{name}-open");
        let file = write_private(&place.state(&state), name, good.as_bytes());
        fs::set_permissions(&file, Permissions::from_mode(0o644)).expect("ours");
        let words = [file.to_str().expect("text"), "chmod 600"];
        place.refused(&state, arguments, &words);
        assert_eq!(fs::read(&file).expect("still there"), good.as_bytes());
        a_directory_in_its_place(&place, name, arguments);
        an_unreadable_one(&place, name, arguments, good);
    }
}

fn a_directory_in_its_place(place: &Place<'_>, name: &str, arguments: &[&str]) {
    let state = format!("{name}-directory");
    let directory = place.state(&state).join(name);
    fs::create_dir_all(&directory).expect("makes it");
    place.refused(&state, arguments, &[directory.to_str().expect("text")]);
    assert!(directory.is_dir());
}

/// For root there is none, so then the program runs as nobody.
fn an_unreadable_one(place: &Place<'_>, name: &str, arguments: &[&str], key: &str) {
    let ordinary = Ordinary::new(place);
    let state = format!("{name}-unreadable");
    let file = write_private(&place.state(&state), name, key.as_bytes());
    ordinary.owns(&place.state(&state));
    ordinary.owns(&file);
    fs::set_permissions(&file, Permissions::from_mode(0o000)).expect("ours");
    let ended = ordinary.run(&state, arguments);
    is_refusal(&ended, &[file.to_str().expect("text")]);
    fs::set_permissions(&file, Permissions::from_mode(0o600)).expect("ours");
    assert_eq!(fs::read_to_string(&file).expect("still there"), key);
}

fn write_private(directory: &Path, name: &str, bytes: &[u8]) -> PathBuf {
    fs::create_dir_all(directory).expect("makes it");
    let file = directory.join(name);
    fs::write(&file, bytes).expect("writes");
    fs::set_permissions(&file, Permissions::from_mode(0o600)).expect("ours");
    file
}

/// A user without any right: nobody, when the claims are made by root; else who makes them.
struct Ordinary<'p> {
    place: &'p Place<'p>,
    /// A copy that nobody may reach too.
    program: Option<PathBuf>,
}

impl<'p> Ordinary<'p> {
    fn new(place: &'p Place<'p>) -> Self {
        let root = nix::unistd::geteuid().is_root();
        let program = root.then(|| {
            let copy = place.files.path().join("kuguri");
            if !copy.exists() {
                // By another process: a child that a claim beside this one starts meanwhile would inherit our descriptor,
                // and a file that is open for writing cannot be executed (ETXTBSY).
                let mut copying = Command::new("cp");
                copying.arg(place.program.path()).arg(&copy);
                assert!(copying.status().expect("cp starts").success());
                let all = Permissions::from_mode(0o755);
                fs::set_permissions(place.files.path(), all.clone()).expect("ours");
                fs::set_permissions(&copy, all).expect("ours");
            }
            copy
        });
        Self { place, program }
    }

    fn owns(&self, path: &Path) {
        if self.program.is_some() {
            chown(path, Some(NOBODY), Some(NOBODY)).expect("root may");
        }
    }

    fn run(&self, state: &str, arguments: &[&str]) -> Ended {
        let mut command = match &self.program {
            None => self.place.program.command(arguments),
            Some(copy) => Program::new(copy.to_str().expect("text")).command(arguments),
        };
        command.arg("--state").arg(self.place.state(state));
        if let Some(copy) = &self.program {
            let mut by_nobody = Command::new(copy);
            by_nobody.args(command.get_args()).uid(NOBODY).gid(NOBODY);
            by_nobody.env_clear().current_dir("/");
            command = by_nobody;
        }
        self.place.spawn(&mut command).end()
    }
}

#[test]
fn without_the_right_to_make_a_card_it_says_what_to_do() {
    let place = Place::here();
    let ordinary = Ordinary::new(&place);
    let state = place.state("home");
    fs::create_dir_all(&state).expect("makes it");
    ordinary.owns(&state);
    let ended = ordinary.run("home", &["connect", &some_invite()]);
    is_refusal(&ended, &["right", "sudo"]);
}

#[test]
fn without_dev_net_tun_it_takes_a_pair_of_cards_or_says_what_to_do() {
    claim(|world| {
        let lab = lonely_machine(world);
        let place = Place::new(Some(&lab));
        let invite = some_invite();
        let mut command = place.command("home", &["connect", &invite]);
        let refused = start_without_tun(&lab, without_capabilities(&mut command)).end();
        is_refusal(&refused, &["/dev/net/tun", "modprobe"]);

        let (_rendezvous, address, _) = place.rendezvous("vps", "0");
        let (_hub, invite) = place.hub(address);
        let mut command = place.command("home", &["connect", &invite, "--json"]);
        let mut member = start_without_tun(&lab, &mut command);
        assert_eq!(member.event("card")["kind"], "veth");
    });
}

fn start_without_tun(lab: &Lab, command: &mut Command) -> Running {
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
            command.env_remove("KUGURI_WORLD_OUTSIDE").spawn()
        })?
    })
}

#[test]
fn a_hub_file_that_is_damaged_is_named_by_line_and_kept() {
    let place = Place::here();
    let token = "00112233445566778899aabbccddeeff";
    for (number, (text, line)) in [
        (format!("tokens = [\"{token}\"]\nrendezvous = = 2\n"), 2),
        (format!("tokens = [\"{token}\"\n"), 1),
        ("tokens = [\"short\"]\n".to_owned(), 1),
        (
            format!("tokens = [\"{token}\"]\nrendezvous_key = \"x\"\n"),
            2,
        ),
        (String::new(), 1),
    ]
    .into_iter()
    .enumerate()
    {
        let state = format!("hub-{number}");
        let file = write_private(&place.state(&state), "hub-office.toml", text.as_bytes());
        let place_of_error = format!("{}, line {line}", file.display());
        for arguments in [
            &["serve", "office", "--rendezvous", "127.0.0.1:9"][..],
            &["invite", "office", "--new"],
        ] {
            place.refused(&state, arguments, &[&place_of_error]);
            assert_eq!(fs::read_to_string(&file).expect("still there"), text);
        }
    }
    let text = "[keys]\n\"127.0.0.1:9\" = 7\n";
    let file = write_private(
        &place.state("known"),
        "known-rendezvous.toml",
        text.as_bytes(),
    );
    let arguments = ["serve", "office", "--rendezvous", "127.0.0.1:9"];
    place.refused(
        "known",
        &arguments,
        &[&format!("{}, line 2", file.display())],
    );
    assert_eq!(fs::read_to_string(&file).expect("still there"), text);
}

#[test]
fn a_token_that_the_hub_does_not_know_is_refused_and_the_hub_goes_on() {
    claim(|world| {
        let lab = lonely_machine(world);
        let place = Place::new(Some(&lab));
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
    let place = Place::here();
    for verb in [
        &["status"][..],
        &["status", "--json"],
        &["ping"],
        &["ping", "home"],
    ] {
        place.refused("empty", verb, &["nothing runs here", "kuguri serve"]);
    }
    place.refused("empty", &["invite"], &["no hub"]);
    place.refused("empty", &["invite", "office"], &["no hub office"]);
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
        let place = Place::new(Some(&lab));
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

fn lonely_machine(world: &World) -> Lab {
    let mut network = Network::new(1, Instant::now());
    let host = network.add_host();
    let address = Ipv4Addr::new(203, 0, 113, 10).into();
    network
        .attach(host, Network::INTERNET, &[address], Access::default())
        .expect("the address is free");
    let machine = Machine {
        name: MACHINE.to_owned(),
        host,
        addresses: vec![(address, 24)],
        gateways: Vec::new(),
        mtu: 1500,
    };
    Lab::start(world, network, vec![machine], Attachment::Auto)
        .unwrap_or_else(|refusal| panic!("{refusal}"))
}

const MACHINE: &str = "alone";
/// By its number, since the program has no list of users.
const NOBODY: u32 = 65534;
