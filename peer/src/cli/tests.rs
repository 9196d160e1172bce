//! Arguments as people write them.

use clap::CommandFactory;
use kuguri_proto::identity::PeerId;
use kuguri_proto::wire::ethernet::MacAddr;

use super::*;

fn parse(line: &str) -> Result<Verb, String> {
    let words = line.split_whitespace();
    Arguments::try_parse_from(words)
        .map(|arguments| arguments.verb)
        .map_err(|error| error.to_string())
}

#[test]
fn the_definition_is_sound() {
    Arguments::command().debug_assert();
}

#[test]
fn serve_has_defaults_for_all_but_its_name() {
    let Ok(Verb::Serve(flags)) = parse("kuguri serve office") else {
        panic!("not understood");
    };
    assert_eq!(flags.name, "office");
    assert_eq!(flags.address.to_string(), "192.168.30.1/24");
    assert_eq!(
        (flags.common.port, flags.rendezvous, flags.common.json),
        (0, None, false)
    );
}

#[test]
fn serve_takes_a_rendezvous_and_its_key() {
    let key = PeerId([5; 32]);
    let line = format!(
        "kuguri serve office --rendezvous VPS.example --rendezvous-key {key} --port 4500 --json"
    );
    let Ok(Verb::Serve(flags)) = parse(&line) else {
        panic!("not understood");
    };
    let rendezvous = flags.rendezvous.expect("given").to_string();
    assert_eq!(rendezvous, "vps.example:7777");
    assert_eq!(
        (flags.rendezvous_key, flags.common.port, flags.common.json),
        (Some(key), 4500, true)
    );
}

#[test]
fn connect_takes_an_invite_and_settings_of_the_card() {
    let line = "kuguri connect kuguri://x --interface lan0 --mac 02:00:00:00:00:01 --no-address";
    let Ok(Verb::Connect(flags)) = parse(line) else {
        panic!("not understood");
    };
    assert_eq!(
        (flags.invite.as_str(), flags.interface.as_str()),
        ("kuguri://x", "lan0")
    );
    assert_eq!(flags.mac, Some(MacAddr([2, 0, 0, 0, 0, 1])));
    assert!(flags.no_address);
}

#[test]
fn the_state_directory_may_stand_anywhere() {
    for line in ["kuguri --state /x status", "kuguri status --state /x"] {
        let arguments = Arguments::try_parse_from(line.split(' ')).expect("understood");
        assert_eq!(arguments.state, Some(PathBuf::from("/x")));
    }
}

#[test]
fn nonsense_is_refused_with_what_to_write() {
    for (line, part) in [
        ("kuguri", "Usage"),
        ("kuguri fly", "unrecognized subcommand"),
        ("kuguri serve", "<NAME>"),
        ("kuguri serve ../x", "letters, digits"),
        ("kuguri serve -x", "unexpected argument"),
        ("kuguri serve a --rendezvous a:b", "HOST:PORT"),
        ("kuguri serve a --rendezvous-key x", "43 characters"),
        ("kuguri serve a --address 10.0.0.1", "192.168.30.1/24"),
        ("kuguri serve a --address 10.0.0.1/31", "192.168.30.1/24"),
        ("kuguri serve a --address 10.0.0.0/24", "ordinary address"),
        ("kuguri serve a --address 10.0.0.255/24", "ordinary address"),
        ("kuguri serve a --port 65536", "65536"),
        ("kuguri connect x --mac 01:00:00:00:00:01", "even"),
        ("kuguri connect x --mac 02", "six pairs"),
        ("kuguri ping --count 0", "0"),
        ("kuguri ping --interval -1", "from 0 to 3600"),
        ("kuguri ping -i -1", "from 0 to 3600"),
        ("kuguri demo --nat office", "office=TYPE"),
        ("kuguri demo --nat office=", "cone"),
        ("kuguri demo --nat home=bamboo", "bamboo"),
        ("kuguri demo --nat home=cone,home=open", "twice"),
    ] {
        let error = parse(line).expect_err(line);
        assert!(error.contains(part), "{line}: {error}");
    }
}

#[test]
fn what_is_not_wrapped_fits_on_a_screen() {
    let mut all = Arguments::command();
    all.build();
    let verbs = all.get_subcommands();
    for verb in verbs.filter(|verb| verb.get_name() != "help") {
        let text = verb.get_long_about().or_else(|| verb.get_about());
        let text = text.expect("every verb says what it does").to_string();
        // The first line is wrapped as one sentence; the others are taken as they are.
        for line in text.lines().skip(1) {
            let name = verb.get_name();
            assert!(line.chars().count() <= SCREEN, "{name}: {line}");
        }
    }
}

const SCREEN: usize = 85;

#[test]
fn the_rendezvous_says_where_its_key_is() {
    let mut all = Arguments::command();
    let rendezvous = all.find_subcommand_mut("rendezvous").expect("a verb");
    let help = rendezvous.render_long_help().to_string();
    for part in ["XDG_STATE_HOME", "KUGURI_STATE", "/var/lib/kuguri"] {
        assert!(help.contains(part), "{help}");
    }
}

#[test]
fn a_members_mac_is_its_own_and_stays() {
    let mac = connect::mac_of(PeerId([1; 32]));
    assert_eq!(mac, connect::mac_of(PeerId([1; 32])));
    assert_ne!(mac, connect::mac_of(PeerId([2; 32])));
    assert!(!mac.is_group() && mac.0[0] & 2 == 2);
}
