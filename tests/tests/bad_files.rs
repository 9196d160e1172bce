//! Files that are wrong, refused: keys, hub files, what is known of rendezvous. Each is named in one sentence that says what
//! to do, and is left as it is. What root writes in a user's directory stays the user's.
#![cfg(target_os = "linux")]

use std::fs::{self, OpenOptions, Permissions};
use std::net::UdpSocket;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, symlink};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use kuguri_proto::identity::Identity;
use kuguri_proto::invite::Invite;
use kuguri_tests::real::place::{
    NOBODY, Ordinary, Place, ends_with_refusal, is_refusal, some_invite,
};
use kuguri_tests::real::process::Running;
use kuguri_tests::real::program::Program;
use kuguri_tests::real::until;
use nix::sys::stat::Mode;
use nix::unistd::mkfifo;

fn program() -> Program {
    Program::new(env!("CARGO_BIN_EXE_kuguri-under-test"))
}

#[test]
fn a_key_file_that_cannot_be_used_is_named_and_kept() {
    let place = Place::here(program());
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
    let secret = "secret AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE\n";
    let public = Identity::from_seed(&[1; 32]).id();
    let good = &format!("{secret}public {public}\n");
    let damaged = [
        b"".to_vec(),
        b"# only a comment\n".to_vec(),
        good.as_bytes()[..20].to_vec(),
        secret.as_bytes().to_vec(),
        // One letter is another one.
        good.replacen("AQEB", "AQEC", 1).into_bytes(),
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
        no_file_in_its_place(&place, name, arguments);
        an_unreadable_one(&place, name, arguments, good);
        somebody_elses(&place, name, arguments, good);
    }
}

/// With another key every invite would lead nowhere, and nobody would have been told.
#[test]
fn a_hub_whose_key_is_gone_is_not_begun_anew() {
    let place = Place::here(program());
    let file = write_private(&place.state("gone"), "hub-office.toml", b"tokens = []\n");
    let arguments = ["serve", "office", "--rendezvous", "127.0.0.1:9"];
    place.refused("gone", &arguments, &["hub-office.key", "is gone"]);
    assert_eq!(fs::read(&file).expect("still there"), b"tokens = []\n");
    assert!(!place.state("gone").join("hub-office.key").exists());
}

/// A directory, and a pipe that nobody writes to: neither is waited for.
fn no_file_in_its_place(place: &Place<'_>, name: &str, arguments: &[&str]) {
    let state = format!("{name}-directory");
    let directory = place.state(&state).join(name);
    fs::create_dir_all(&directory).expect("makes it");
    place.refused(&state, arguments, &[directory.to_str().expect("text")]);
    assert!(directory.is_dir());
    let state = format!("{name}-pipe");
    let pipe = place.state(&state).join(name);
    fs::create_dir(place.state(&state)).expect("makes it");
    mkfifo(&pipe, Mode::S_IRUSR | Mode::S_IWUSR).expect("makes it");
    place.refused(
        &state,
        arguments,
        &[pipe.to_str().expect("text"), "no file"],
    );
    assert!(pipe.exists());
}

/// Who has the file could know and change the key. Only root can give it away, so only root can be in this case here.
fn somebody_elses(place: &Place<'_>, name: &str, arguments: &[&str], key: &str) {
    if !Ordinary::new(place).is_another() {
        return;
    }
    let state = format!("{name}-foreign");
    let file = write_private(&place.state(&state), name, key.as_bytes());
    chown(&file, Some(NOBODY), Some(NOBODY)).expect("root may");
    let words = [file.to_str().expect("text"), "belongs to user 65534"];
    place.refused(&state, arguments, &words);
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
    assert_eq!(ended.err[0].matches("ermission denied").count(), 1);
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

/// A hub's file without its key is refused for that alone.
fn write_hub(directory: &Path, text: &str) -> PathBuf {
    let secret = "secret AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE";
    let public = Identity::from_seed(&[1; 32]).id();
    let key = format!("{secret}\npublic {public}\n");
    write_private(directory, "hub-office.key", key.as_bytes());
    write_private(directory, "hub-office.toml", text.as_bytes())
}

#[test]
fn a_hub_file_that_is_damaged_is_named_by_line_and_kept() {
    let place = Place::here(program());
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
        // More than anybody wrote.
        ("\n".repeat(17 << 20), 1 + (16 << 20) + 1),
    ]
    .into_iter()
    .enumerate()
    {
        let state = format!("hub-{number}");
        let file = write_hub(&place.state(&state), &text);
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
fn a_hub_file_that_others_can_read_is_refused() {
    let place = Place::here(program());
    let token = "00112233445566778899aabbccddeeff";
    let text = format!("tokens = [\"{token}\"]\n");
    let file = write_hub(&place.state("hub"), &text);
    fs::set_permissions(&file, Permissions::from_mode(0o640)).expect("ours");
    let words = [file.to_str().expect("text"), "chmod 600"];
    for arguments in [
        &["serve", "office", "--rendezvous", "127.0.0.1:9"][..],
        &["invite", "office", "--new"],
    ] {
        place.refused("hub", arguments, &words);
        assert_eq!(fs::read_to_string(&file).expect("still there"), text);
    }
}

#[test]
fn what_root_writes_in_a_users_directory_stays_the_users() {
    let place = Place::here(program());
    let user = Ordinary::new(&place);
    let (_rendezvous, address, _) = place.rendezvous("vps", "0");
    let state = place.state("hub");
    fs::create_dir(&state).expect("makes it");
    user.owns(&state);
    let address = address.to_string();
    let arguments = ["serve", "office", "--json", "--rendezvous", &address];
    let mut hub = user.start("hub", &arguments);
    let first = hub.event("invite");
    let owner = fs::metadata(&state).expect("there").uid();

    let told = place.run("hub", &["invite", "office", "--new", "--json"]);
    assert!(told.status.success(), "{told:?}");
    let status = place.run("hub", &["status", "--json"]);
    assert!(status.status.success(), "{status:?}");
    assert!(hub.stop().status.success());
    let after = place.run("hub", &["status"]);
    is_refusal(&after, &["runs here"]);
    everything_is_of(&state, owner);

    let mut hub = user.start("hub", &arguments);
    let second = hub.event("invite");
    assert_ne!(first["invite"], second["invite"], "the new token counts");
    assert!(hub.stop().status.success());
}

fn everything_is_of(directory: &Path, owner: u32) {
    for entry in fs::read_dir(directory).expect("there") {
        let entry = entry.expect("there");
        let found = entry.metadata().expect("there");
        assert_eq!(found.uid(), owner, "{}", entry.path().display());
        if found.is_dir() {
            everything_is_of(&entry.path(), owner);
        }
    }
}

/// Its stdout is a disk with no room.
fn start_full(place: &Place<'_>, state: &str, arguments: &[&str]) -> Running {
    let mut command = place.command(state, arguments);
    Running::start(&mut command, |command| {
        let full = OpenOptions::new().write(true).open("/dev/full")?;
        command.stdout(full).spawn()
    })
}

#[test]
fn what_cannot_be_written_is_no_success() {
    let place = Place::here(program());
    let (_rendezvous, address, _) = place.rendezvous("vps", "0");
    let address = address.to_string();
    let serve = ["serve", "office", "--rendezvous", &address];
    let mut full = start_full(&place, "full", &["rendezvous", "--port", "0"]);
    full.complaint(NO_ROOM);
    assert!(full.lives(), "peers are served");
    ends_with_refusal(&full.stop(), &[NO_ROOM]);
    let mut hub = start_full(&place, "hub", &serve);
    hub.complaint(NO_ROOM);
    assert!(hub.lives(), "the network goes on");
    let status = start_full(&place, "hub", &["status"]).end();
    is_refusal(&status, &[NO_ROOM]);
    ends_with_refusal(&hub.stop(), &[NO_ROOM]);
    for arguments in [
        &["invite"][..],
        &["invite", "--json"],
        &["sim", "matrix", "--seeds", "1", "--ports", "preserving"],
    ] {
        ends_with_refusal(&start_full(&place, "hub", arguments).end(), &[NO_ROOM]);
    }
}

/// A name that was mistyped, or a rendezvous: what is left of it stands in nobody's way.
#[test]
fn a_hub_that_was_never_registered_makes_no_invite_ambiguous() {
    let place = Place::here(program());
    let (_rendezvous, address, _) = place.rendezvous("vps", "0");
    let (hub, invite) = place.hub(address);
    assert!(hub.stop().status.success());
    let silent = UdpSocket::bind("127.0.0.1:0").expect("a port");
    let nowhere = silent.local_addr().expect("bound").to_string();
    let other = place.start("hub", &["serve", "ofice", "--rendezvous", &nowhere]);
    let file = place.state("hub").join("hub-ofice.toml");
    until("its file", || file.exists().then_some(()));
    assert!(!other.stop().status.success());
    let shown = place.run("hub", &["invite"]);
    assert_eq!(shown.out, [invite], "{shown:?}");
}

/// Two who change the same file at once, each its own line of it.
#[test]
fn invites_that_are_made_at_once_are_all_good() {
    let place = Place::here(program());
    let (_rendezvous, address, _) = place.rendezvous("vps", "0");
    let (hub, _) = place.hub(address);
    let making: Vec<Running> = (0..MANY)
        .map(|_| place.start("hub", &["invite", "--new"]))
        .collect();
    for made in making {
        let made = made.end();
        assert!(made.status.success(), "{made:?}");
    }
    assert!(hub.stop().status.success());
    let file = place.state("hub").join("hub-office.toml");
    let tokens = fs::read_to_string(file).expect("there");
    let lines = tokens.lines().filter(|line| line.starts_with("    \""));
    assert_eq!(lines.count(), MANY + 1, "{tokens}");
}

/// What a user has put into his own directory leads root nowhere else, and holds nobody up.
#[test]
fn traps_in_the_state_directory_are_not_walked_into() {
    let place = Place::here(program());
    let (_rendezvous, address, _) = place.rendezvous("vps", "0");
    let (hub, invite) = place.hub(address);
    assert!(hub.stop().status.success());
    let state = place.state("hub");
    let secret = place.files.path().join("secret");
    fs::write(&secret, "mine").expect("writes");
    symlink(&secret, state.join("hub-office.toml.new")).expect("a link");
    let shown = place.run("hub", &["invite", "--new"]);
    assert!(shown.status.success() && shown.out != [invite], "{shown:?}");

    let lock = state.join("run/hub-office.lock");
    fs::remove_file(&lock).expect("there");
    symlink(&secret, &lock).expect("a link");
    let lock_is_named = ["hub-office.lock"];
    place.refused("hub", &["serve", "office"], &lock_is_named);
    assert_eq!(fs::read_to_string(&secret).expect("there"), "mine");

    fs::remove_file(&lock).expect("there");
    mkfifo(&lock, Mode::from_bits_truncate(0o600)).expect("a pipe");
    place.refused("hub", &["serve", "office"], &lock_is_named);
    drop(UnixListener::bind(state.join("run/hub-office.sock")).expect("a socket"));
    place.refused("hub", &["status"], &["runs here"]);
}

const MANY: usize = 8;
const NO_ROOM: &str = "stdout cannot be written";
