//! The ways out of guarded networks: real processes, real firewall rules of the kernel, and the proxies that the distribution
//! has. A claim about a program that is not installed says so and is skipped.
#![cfg(target_os = "linux")]

use std::fs;
use std::net::{IpAddr, Ipv4Addr, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use kuguri_sim::lab::world::claim;
use kuguri_sim::lab::{Machines, World};
use kuguri_sim::nat::Preset;
use kuguri_tests::real::process::Running;
use kuguri_tests::real::program::Program;
use kuguri_tests::real::scene::{DESK, GATEWAY, HOME, OFFICE, Rights, Scene, VPS, VPS_ADDRESS};
use kuguri_tests::real::wire;
use kuguri_tests::real::{PATIENCE, until};
use nix::ifaddrs::getifaddrs;
use serde_json::Value;

const HUB: &str = "accounting-hub";
const NETWORK: &str = "192.168.30.1/24";
/// What may not pass to the machine's network.
const NO_UDP: &str = "oifname \"eth0\" meta l4proto udp drop";
const ONLY_443: &str =
    "oifname \"eth0\" tcp dport != 443 drop; oifname \"eth0\" meta l4proto != tcp drop";

fn scene(world: &World) -> Scene {
    let program = Program::new(env!("CARGO_BIN_EXE_kuguri-under-test"));
    Scene::new(
        world,
        program,
        Preset::PortRestricted,
        Preset::PortRestricted,
    )
}

/// A firewall on a machine, until [`open`].
fn guard(scene: &Scene, machine: &str, rules: &str) {
    let rules = format!(
        "table inet guard {{\n chain out {{ type filter hook output priority 0; {rules}; }}\n}}\n"
    );
    nft(scene, machine, &rules);
}

fn open(scene: &Scene, machine: &str) {
    nft(scene, machine, "delete table inet guard\n");
}

fn nft(scene: &Scene, machine: &str, text: &str) {
    let file = file(scene, &format!("{machine}.nft"), text);
    let mut command = Command::new("nft");
    command.arg("-f").arg(file);
    let nft = Running::start(&mut command, |command| scene.lab.spawn(machine, command));
    let ended = nft.end();
    assert!(ended.status.success(), "{ended:?}");
}

fn file(scene: &Scene, name: &str, text: &str) -> PathBuf {
    let path = scene.state(name);
    fs::write(&path, text).expect("written");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).expect("ours");
    path
}

/// Whether a program is here; says so where not.
fn has(program: &str) -> bool {
    let places = ["/usr/sbin", "/usr/bin", "/usr/lib/squid"];
    let here = places
        .iter()
        .any(|place| Path::new(place).join(program).exists());
    if !here {
        eprintln!("skipped: there is no {program} on this machine");
    }
    here
}

/// A rendezvous that may have port 443, and its key.
fn rendezvous(scene: &Scene) -> (Running, String) {
    let mut rendezvous = scene.start(VPS, Rights::Root, &["rendezvous", "--json"]);
    let said = rendezvous.event("listening");
    assert_eq!(said["https_ports"], serde_json::json!([443, 7777]));
    let key = said["key"].as_str().expect("text").to_owned();
    (rendezvous, key)
}

/// A hub in the office that reaches the rendezvous by this way.
fn hub(scene: &Scene, key: &str, via: &[&str]) -> Running {
    let address = VPS_ADDRESS.to_string();
    let mut arguments = vec!["serve", HUB, "--json", "--address", NETWORK];
    arguments.extend(["--rendezvous", &address, "--rendezvous-key", key]);
    arguments.extend(via);
    scene.start(OFFICE, Rights::None, &arguments)
}

fn invite(hub: &mut Running) -> String {
    hub.event("registered");
    let invite = hub.event("invite");
    invite["invite"].as_str().expect("text").to_owned()
}

fn way(scene: &Scene, machine: &str) -> Value {
    scene.status(machine)[0]["way"]["name"].clone()
}

fn pings(scene: &Scene, machine: &str, target: Ipv4Addr) -> bool {
    scene
        .lab
        .run_in(machine, || wire::answers(target, PATIENCE))
        .expect("a thread")
}

/// The address of a machine in its LAN.
fn address_of(scene: &Scene, machine: &str) -> IpAddr {
    let own = || {
        let all = getifaddrs().expect("the kernel tells");
        let mut addresses = all
            .filter(|it| it.interface_name == "eth0")
            .filter_map(|it| Some(IpAddr::V4(it.address?.as_sockaddr_in()?.ip())));
        addresses.next().expect("it has one")
    };
    scene.lab.run_in(machine, own).expect("a thread")
}

/// Waits until a server on a machine takes connections.
fn listens(scene: &Scene, machine: &str, port: u16) {
    let address = address_of(scene, machine);
    until(&format!("a server at port {port}"), || {
        let connect = || TcpStream::connect((address, port)).is_ok();
        scene
            .lab
            .run_in(machine, connect)
            .expect("a thread")
            .then_some(())
    });
}

#[test]
fn when_udp_ends_frames_go_by_https_and_straight_again_when_it_is_back() {
    claim(|world| {
        if !has("nft") {
            return;
        }
        let scene = scene(world);
        let (_rendezvous, key) = rendezvous(&scene);
        let mut hub = hub(&scene, &key, &[]);
        let invite = invite(&mut hub);
        let home = scene.member(HOME, &invite);
        scene.wait_for_path(HOME, "direct");
        assert!(pings(&scene, HOME, GATEWAY));
        for machine in [HOME, OFFICE] {
            guard(&scene, machine, NO_UDP);
        }
        let since = Instant::now();
        assert!(pings(&scene, HOME, GATEWAY), "UDP has ended");
        eprintln!("by HTTPS after {:?}", since.elapsed());
        for machine in [HOME, OFFICE] {
            until("the way", || {
                (way(&scene, machine) == "https").then_some(())
            });
        }
        for machine in [HOME, OFFICE] {
            open(&scene, machine);
        }
        let since = Instant::now();
        scene.wait_for_path(HOME, "direct");
        eprintln!("direct again after {:?}", since.elapsed());
        until("the way", || (way(&scene, HOME) == "udp").then_some(()));
        assert!(pings(&scene, HOME, GATEWAY));
        assert_eq!(
            scene.status(HOME)[0]["node"]["links"]
                .as_array()
                .map(Vec::len),
            Some(1)
        );
        drop(home);
    });
}

#[test]
fn where_only_443_gets_out_a_network_is_joined_all_the_same() {
    claim(|world| {
        if !has("nft") {
            return;
        }
        let scene = scene(world);
        let (_rendezvous, key) = rendezvous(&scene);
        let mut hub = hub(&scene, &key, &[]);
        let invite = invite(&mut hub);
        guard(&scene, HOME, ONLY_443);
        let _home = scene.member(HOME, &invite);
        assert_eq!(way(&scene, HOME), "https");
        assert_eq!(way(&scene, OFFICE), "udp");
        assert!(pings(&scene, HOME, GATEWAY));
        // Nobody tells others of a loopback address as one to be reached at.
        let links = scene.status(OFFICE)[0]["node"]["links"].clone();
        assert_eq!(links[0]["path"], "relayed", "{links}");
    });
}

#[test]
fn with_via_udp_nothing_else_is_tried() {
    claim(|world| {
        if !has("nft") {
            return;
        }
        let scene = scene(world);
        let (_rendezvous, key) = rendezvous(&scene);
        guard(&scene, OFFICE, NO_UDP);
        let mut hub = hub(&scene, &key, &["--via", "udp"]);
        hub.event("rendezvous-failed");
        assert!(!hub.has_said("way") && !hub.has_said("registered"));
    });
}

/// What a proxy on the desk needs to run, and how it is used.
struct Guarded<'l> {
    scene: &'l Scene,
    key: String,
    _rendezvous: Running,
    _proxy: Running,
}

impl<'l> Guarded<'l> {
    /// An office whose hub's machine reaches the desk alone, where a proxy runs.
    fn new(scene: &'l Scene, proxy: &mut Command, port: u16) -> Self {
        let (rendezvous, key) = rendezvous(scene);
        let proxy = Running::start(proxy, |command| scene.lab.spawn(DESK, command));
        listens(scene, DESK, port);
        let desk = address_of(scene, DESK);
        guard(
            scene,
            OFFICE,
            &format!(
                "oifname \"eth0\" ip daddr != {desk} drop; oifname \"eth0\" meta nfproto ipv6 drop"
            ),
        );
        Self {
            scene,
            key,
            _rendezvous: rendezvous,
            _proxy: proxy,
        }
    }

    /// It lets a network through by this way, which is called so.
    fn lets_through(&self, via: &str, more: &[&str], called: &str) {
        let mut arguments = vec!["--via", via];
        arguments.extend(more);
        let mut hub = hub(self.scene, &self.key, &arguments);
        let invite = invite(&mut hub);
        assert_eq!(way(self.scene, OFFICE), called);
        let member = self.scene.member(HOME, &invite);
        assert!(pings(self.scene, HOME, GATEWAY), "{via}");
        drop(member);
        assert!(hub.stop().status.success());
    }

    /// It does not, and one sentence with these words says why, once.
    fn refuses(&self, via: &str, words: &[&str]) {
        let mut hub = hub(self.scene, &self.key, &["--via", via]);
        let failed = hub.event("rendezvous-failed");
        let reason = failed["reason"].as_str().expect("text");
        for word in words {
            assert!(reason.contains(word), "{word} is missing: {reason}");
        }
        assert!(
            !reason.contains("secret") && !reason.contains('\n'),
            "{reason}"
        );
        let ended = hub.stop();
        let told = ended
            .out
            .iter()
            .filter(|line| line.contains("rendezvous-failed"));
        assert_eq!(told.count(), 1, "{ended:?}");
    }
}

/// The proxies refuse to be root, and give up rights that nobody in a world has: they run as somebody else in one of their own.
fn as_user(id: u32, program: &str) -> Command {
    let mut command = Command::new("unshare");
    command.args([
        "--user",
        &format!("--map-user={id}"),
        &format!("--map-group={id}"),
        "--",
    ]);
    command.arg(program);
    command
}

#[test]
fn squid_lets_through_who_answers_its_digest() {
    claim(|world| {
        if !(has("nft") && has("squid") && has("digest_file_auth")) {
            return;
        }
        let scene = scene(world);
        let users = file(&scene, "digest", "alice:secret\n");
        let log = scene.state("squid.log");
        let configuration = format!(
            "http_port 3128\npid_filename none\ncache_log {}\naccess_log none\ncache deny all\nshutdown_lifetime 0 seconds\n\
             pinger_enable off\nvisible_hostname desk\nunique_hostname desk\ndns_nameservers 127.0.0.1\n\
             auth_param digest program /usr/lib/squid/digest_file_auth {}\nauth_param digest realm kuguri\n\
             auth_param digest children 1\nacl known proxy_auth REQUIRED\nacl secure port 443\n\
             http_access deny CONNECT !secure\nhttp_access allow known\nhttp_access deny all\n",
            log.display(),
            users.display()
        );
        let configuration = file(&scene, "squid.conf", &configuration);
        let mut squid = as_user(1000, "squid");
        squid.args(["-N", "-f"]).arg(configuration);
        let guarded = Guarded::new(&scene, &mut squid, 3128);
        let desk = address_of(&scene, DESK);
        let called = format!("https through the HTTP proxy {desk}:3128");
        guarded.lets_through(
            &format!("http-proxy=http://alice:secret@{desk}:3128"),
            &[],
            &called,
        );
        let password = file(&scene, "password", "secret\n");
        let password = password.to_str().expect("text");
        let from_file = ["--proxy-password-file", password];
        guarded.lets_through(
            &format!("http-proxy=http://alice@{desk}:3128"),
            &from_file,
            &called,
        );
        guarded.refuses(
            &format!("http-proxy=http://alice:wrong@{desk}:3128"),
            &["refuses this user and password"],
        );
        guarded.refuses(
            &format!("http-proxy={desk}"),
            &["wants a user and a password"],
        );
    });
}

#[test]
fn tinyproxy_lets_through_who_shows_it_a_password() {
    claim(|world| {
        if !(has("nft") && has("tinyproxy")) {
            return;
        }
        let scene = scene(world);
        let configuration = file(
            &scene,
            "tinyproxy.conf",
            "Port 8888\nMaxClients 20\nTimeout 600\nBasicAuth alice secret\nConnectPort 443\n",
        );
        let mut tinyproxy = Command::new("tinyproxy");
        tinyproxy.arg("-d").arg("-c").arg(configuration);
        let guarded = Guarded::new(&scene, &mut tinyproxy, 8888);
        let desk = address_of(&scene, DESK);
        let called = format!("https through the HTTP proxy {desk}:8888");
        guarded.lets_through(
            &format!("http-proxy=http://alice:secret@{desk}:8888"),
            &[],
            &called,
        );
        guarded.refuses(
            &format!("http-proxy=http://alice:wrong@{desk}:8888"),
            &["refuses this user and password"],
        );
    });
}

#[test]
fn the_environments_proxy_is_taken_when_nothing_else_gets_out() {
    claim(|world| {
        if !(has("nft") && has("tinyproxy")) {
            return;
        }
        let scene = scene(world);
        let configuration = file(
            &scene,
            "tinyproxy.conf",
            "Port 8888\nMaxClients 20\nTimeout 600\nConnectPort 443\n",
        );
        let mut tinyproxy = Command::new("tinyproxy");
        tinyproxy.arg("-d").arg("-c").arg(configuration);
        let guarded = Guarded::new(&scene, &mut tinyproxy, 8888);
        let desk = address_of(&scene, DESK);
        let program = Program::new(env!("CARGO_BIN_EXE_kuguri-under-test"));
        let address = VPS_ADDRESS.to_string();
        let arguments = [
            "serve",
            HUB,
            "--json",
            "--rendezvous",
            &address,
            "--rendezvous-key",
            &guarded.key,
        ];
        let mut command = program.command(&arguments);
        command
            .arg("--state")
            .arg(scene.state(OFFICE))
            .env("https_proxy", format!("http://{desk}:8888"));
        let mut hub = Running::start(&mut command, |command| scene.lab.spawn(OFFICE, command));
        hub.event("registered");
        assert_eq!(
            way(&scene, OFFICE),
            format!("https through the HTTP proxy {desk}:8888")
        );
    });
}

#[test]
fn dante_lets_through_by_socks() {
    claim(|world| {
        if !(has("nft") && has("danted")) {
            return;
        }
        let scene = scene(world);
        let desk = address_of(&scene, DESK);
        let log = scene.state("danted.log");
        let configuration = format!(
            "logoutput: {}\ninternal: {desk} port = 1080\nexternal: {desk}\nclientmethod: none\nsocksmethod: none\n\
             client pass {{ from: 0.0.0.0/0 to: 0.0.0.0/0 }}\nsocks pass {{ from: 0.0.0.0/0 to: 0.0.0.0/0 }}\n",
            log.display()
        );
        let configuration = file(&scene, "danted.conf", &configuration);
        let mut dante = Command::new("danted");
        dante.arg("-f").arg(configuration);
        let guarded = Guarded::new(&scene, &mut dante, 1080);
        guarded.lets_through(
            &format!("socks={desk}"),
            &[],
            &format!("https through the SOCKS proxy {desk}:1080"),
        );
    });
}

#[test]
fn openssh_lets_through_and_a_changed_host_key_is_named() {
    claim(|world| {
        if !(has("nft") && has("sshd") && has("ssh") && has("ssh-keygen")) {
            return;
        }
        let scene = scene(world);
        let desk = address_of(&scene, DESK);
        let key = |name: &str| {
            let path = scene.state(name);
            let made = Command::new("ssh-keygen")
                .args(["-q", "-t", "ed25519", "-N", "", "-f"])
                .arg(&path)
                .status();
            assert!(made.expect("it is there").success());
            (
                path.clone(),
                fs::read_to_string(path.with_extension("pub")).expect("made"),
            )
        };
        let ((host_key, host), (user_key, user), (_, other)) =
            (key("host"), key("user"), key("other"));
        let authorized = file(&scene, "authorized", &user);
        let server = file(
            &scene,
            "sshd.conf",
            &format!(
                "Port 2222\nHostKey {}\nAuthorizedKeysFile {}\nStrictModes no\nUsePAM no\nPidFile none\n",
                host_key.display(),
                authorized.display()
            ),
        );
        let known = |host: &str| file(&scene, "known", &format!("[{desk}]:2222 {host}"));
        let client = file(
            &scene,
            "ssh.conf",
            &format!(
                "Host desk\n HostName {desk}\n Port 2222\n User daemon\n IdentityFile {}\n UserKnownHostsFile {}\n GlobalKnownHostsFile none\n",
                user_key.display(),
                known(&host).display()
            ),
        );
        // The user's own settings, which ssh looks for in the home directory that the system knows of.
        let tools = scene.state("tools");
        fs::create_dir(&tools).expect("made");
        let script = format!(
            "#!/bin/sh\nexec /usr/bin/ssh -F {} \"$@\"\n",
            client.display()
        );
        fs::write(tools.join("ssh"), script).expect("written");
        fs::set_permissions(tools.join("ssh"), fs::Permissions::from_mode(0o755)).expect("ours");
        let path = std::env::var("PATH").unwrap_or_default();

        // User 1 is `daemon` wherever there is a distribution.
        let mut sshd = as_user(1, "/usr/sbin/sshd");
        sshd.args(["-D", "-e", "-f"]).arg(server);
        let guarded = Guarded::new(&scene, &mut sshd, 2222);
        let hub = |key: &str| {
            let address = VPS_ADDRESS.to_string();
            let arguments = [
                "serve",
                HUB,
                "--json",
                "--rendezvous",
                &address,
                "--rendezvous-key",
                key,
                "--via",
                "ssh=desk",
            ];
            let program = Program::new(env!("CARGO_BIN_EXE_kuguri-under-test"));
            let mut command = program.command(&arguments);
            command
                .arg("--state")
                .arg(scene.state(OFFICE))
                .env("PATH", format!("{}:{path}", tools.display()));
            Running::start(&mut command, |command| scene.lab.spawn(OFFICE, command))
        };
        let mut through = hub(&guarded.key);
        through.event("registered");
        assert_eq!(way(&scene, OFFICE), "https through ssh desk");
        assert!(through.stop().status.success());
        known(&other);
        let mut refused = hub(&guarded.key);
        let failed = refused.event("rendezvous-failed");
        let reason = failed["reason"].as_str().expect("text");
        assert!(
            reason.contains("the host key of desk is not the one"),
            "{reason}"
        );
    });
}

#[test]
fn a_key_is_needed_where_a_server_is_known_by_its_key_alone() {
    claim(|world| {
        let scene = scene(world);
        let address = VPS_ADDRESS.to_string();
        let ended = scene.call(
            OFFICE,
            &["serve", HUB, "--rendezvous", &address, "--via", "https"],
        );
        assert!(!ended.status.success());
        assert!(
            ended.err.join(" ").contains("--rendezvous-key"),
            "{ended:?}"
        );
        for bad in [
            "--via=carrier-pigeon",
            "--via=ssh=-oProxyCommand=true",
            "--via=http-proxy=socks5://a",
        ] {
            let ended = scene.call(OFFICE, &["serve", HUB, "--rendezvous", &address, bad]);
            assert_eq!(ended.status.code(), Some(2), "{bad} {ended:?}");
        }
    });
}
