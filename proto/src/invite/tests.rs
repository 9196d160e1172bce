//! Invites as people receive them: whole, wrapped, cut, mistyped and forged.

use proptest::prelude::*;

use super::*;
use crate::wire::vectors::Vector;

const HOST: &str = "vps.example.com";

fn invite() -> Invite {
    Invite {
        hub: PeerId([0x11; 32]),
        rendezvous: vec![rendezvous(HOST)],
        token: Some([0xa5; 16]),
        hub_name: "office".into(),
    }
}

fn rendezvous(host: &str) -> RendezvousRef {
    RendezvousRef {
        host: host.into(),
        port: 47_001,
        key: PeerId([0x22; 32]),
    }
}

fn text() -> String {
    invite().to_text().expect("within the limits")
}

fn parse(text: &str) -> Result<Invite, InviteError> {
    text.parse()
}

/// What PROTOCOL.md says.
#[test]
fn the_vectors_hold() {
    let second = RendezvousRef {
        host: "2001:db8::1".into(),
        port: 7777,
        key: PeerId([0x33; 32]),
    };
    let first = RendezvousRef {
        port: 7777,
        ..rendezvous("192.0.2.1")
    };
    let without_token = Invite {
        rendezvous: vec![first, second],
        token: None,
        hub_name: String::new(),
        ..invite()
    };
    for (name, invite) in [
        ("invite", invite()),
        ("invite-without-token", without_token),
    ] {
        let vector = Vector::named(name);
        assert_eq!(invite.to_text().as_deref(), Ok(vector.text("text")));
        assert_eq!(parse(vector.text("text")), Ok(invite));
        let content = vector.bytes("content");
        assert_eq!(checksum(content), vector.array("checksum"));
        assert_eq!(sealed(content), vector.text("text"));
    }
}

/// A well-formed text around any bytes.
fn sealed(content: &[u8]) -> String {
    let bytes = [content, &checksum(content)].concat();
    format!("{SCHEME}{}", URL_SAFE_NO_PAD.encode(bytes))
}

#[test]
fn it_is_short_enough_for_a_line_of_chat() {
    let bytes = 1 + 32 + 1 + (1 + HOST.len() + 3 + 32) + (1 + 16) + (1 + "office".len()) + 4;
    assert_eq!(text().len(), SCHEME.len() + (bytes * 4).div_ceil(3));
    assert_eq!(text().len(), 160);
}

#[test]
fn the_largest_one_fits_into_a_text() {
    let host = [vec!["a".repeat(63); 3].join("."), "b".repeat(61)].join(".");
    assert_eq!(host.len(), MAX_HOST);
    let largest = Invite {
        rendezvous: vec![rendezvous(&host); MAX_RENDEZVOUS],
        hub_name: "n".repeat(MAX_NAME),
        ..invite()
    };
    let text = largest.to_text().expect("within the limits");
    assert!(text.len() * 4 < MAX_TEXT);
    assert_eq!(parse(&text), Ok(largest));
}

#[test]
fn what_mail_and_chat_put_around_it_is_forgiven() {
    let text = text();
    let (a, b) = text.split_at(76);
    let upper = text.replacen("kuguri", "Kuguri", 1);
    for received in [
        format!("  {text}\r\n"),
        format!("<{text}>"),
        format!("\"{text}\""),
        format!("“{text}”."),
        format!("({text})"),
        format!("kuguri connect '{text}'"),
        format!("Here it is: {text}!"),
        format!("{a}\r\n{b}"),
        format!("{a}=\r\n{b}"),
        format!("> {a}\n> {b}\n"),
        format!("\u{feff}{a}\u{200b} {b}/"),
        upper,
    ] {
        assert_eq!(parse(&received), Ok(invite()), "{received}");
    }
}

#[test]
fn what_is_not_an_invite_is_told_apart() {
    for nothing in ["", "  \n", "<>", "\"\""] {
        assert_eq!(parse(nothing), Err(InviteError::Empty), "{nothing}");
    }
    let bare = text().replacen(SCHEME, "", 1);
    let long = "kuguri://A".repeat(MAX_TEXT);
    for other in ["https://example.com/", "office", "kuguri:", &bare, &long] {
        assert_eq!(parse(other), Err(InviteError::NotAnInvite));
    }
    for damaged in ["kuguri://", "kuguri://AA", "kuguri://ä", &sealed(&[])] {
        assert_eq!(parse(damaged), Err(InviteError::Mangled), "{damaged}");
    }
    assert_eq!(parse(&sealed(&[0, 1, 2])), Err(InviteError::Mangled));
    assert_eq!(parse(&sealed(&[2, 1, 2])), Err(InviteError::Newer(2)));
    assert_eq!(parse(&sealed(&[1, 1, 2])), Err(InviteError::Mangled));
}

#[test]
fn every_error_is_one_sentence_that_says_what_to_do() {
    for error in [
        InviteError::Empty,
        InviteError::NotAnInvite,
        InviteError::Mangled,
        InviteError::Newer(2),
        InviteError::Invalid("no rendezvous"),
    ] {
        let text = error.to_string();
        let advice = text.split_once("; ").expect("what is wrong; what to do").1;
        assert!(
            ["paste", "an invite begins", "copy", "update", "ask"]
                .iter()
                .any(|verb| advice.starts_with(verb))
        );
        assert!(!text.contains('\n'));
    }
}

#[test]
fn what_breaks_a_limit_is_refused_both_ways() {
    let hosts = [
        "",
        "a b",
        "-a.example",
        "a-.example",
        "a..example",
        "example.",
        "[::1]",
        "1.2.3",
        "1.2.3.256",
        "a_b",
        "vps.example/\n",
        "ä.example",
        &"a".repeat(64),
        &["a"; 128].join("."),
    ];
    let mut broken: Vec<Invite> = hosts
        .map(|host| Invite {
            rendezvous: vec![rendezvous(host)],
            ..invite()
        })
        .into();
    let mut no_port = invite();
    no_port.rendezvous[0].port = 0;
    broken.extend([
        no_port,
        Invite {
            rendezvous: vec![],
            ..invite()
        },
        Invite {
            rendezvous: vec![rendezvous(HOST); MAX_RENDEZVOUS + 1],
            ..invite()
        },
        Invite {
            hub_name: "n".repeat(MAX_NAME + 1),
            ..invite()
        },
        Invite {
            hub_name: "a\u{1b}[2J".into(),
            ..invite()
        },
        Invite {
            hub_name: "a\u{202e}b".into(),
            ..invite()
        },
    ]);
    for invite in broken {
        assert!(
            matches!(invite.to_text(), Err(InviteError::Invalid(_))),
            "{invite:?}"
        );
        let forged = sealed(&[vec![VERSION], codec::encode(&invite).expect("small")].concat());
        assert!(
            matches!(parse(&forged), Err(InviteError::Invalid(_))),
            "{invite:?}"
        );
    }
}

#[test]
fn names_and_addresses_are_hosts() {
    for host in [
        "localhost",
        "a",
        "vps-1.example.com",
        "3com.com",
        "192.0.2.1",
        "2001:db8::1",
        "xn--bcher-kva.example",
    ] {
        let invite = Invite {
            rendezvous: vec![rendezvous(host)],
            ..invite()
        };
        assert_eq!(parse(&invite.to_text().expect("a host")), Ok(invite));
    }
}

#[test]
fn the_token_is_not_shown() {
    let shown = format!("{:?}", invite());
    assert!(!shown.contains("165") && !shown.contains("a5") && shown.contains("office"));
}

fn any_invite() -> impl Strategy<Value = Invite> {
    let label = "[a-z]([a-z0-9-]{0,10}[a-z0-9])?";
    let host = prop_oneof![
        prop::collection::vec(label, 1..5).prop_map(|labels| labels.join(".")),
        any::<IpAddr>().prop_map(|address| address.to_string()),
    ];
    let server = (host, 1u16.., any::<[u8; 32]>());
    let server = server.prop_map(|(host, port, key)| RendezvousRef {
        host,
        port,
        key: PeerId(key),
    });
    let servers = prop::collection::vec(server, 1..=MAX_RENDEZVOUS);
    (
        any::<[u8; 32]>(),
        servers,
        any::<Option<[u8; 16]>>(),
        "[ -~]{0,63}",
    )
        .prop_map(|(hub, rendezvous, token, hub_name)| Invite {
            hub: PeerId(hub),
            rendezvous,
            token,
            hub_name,
        })
}

proptest! {
    #[test]
    fn text_and_back(invite in any_invite()) {
        let text = invite.to_text().expect("within the limits");
        prop_assert!(text.bytes().all(|b| b.is_ascii_alphanumeric() || b":/-_".contains(&b)));
        prop_assert_eq!(parse(&text), Ok(invite));
    }

    #[test]
    fn one_other_character_anywhere_is_found(invite in any_invite(), at: prop::sample::Index, other in "[ -~äß]") {
        let text = invite.to_text().expect("within the limits");
        let at = at.index(text.len());
        let mut mistyped = text.clone();
        mistyped.replace_range(at..=at, &other);
        let harmless = at < SCHEME.len() && mistyped.eq_ignore_ascii_case(&text);
        let expected = if harmless || mistyped == text {
            Ok(invite)
        } else if at < SCHEME.len() {
            Err(InviteError::NotAnInvite)
        } else {
            Err(InviteError::Mangled)
        };
        prop_assert_eq!(parse(&mistyped), expected);
    }

    #[test]
    fn cut_off_anywhere_is_found(invite in any_invite(), at: prop::sample::Index) {
        let text = invite.to_text().expect("within the limits");
        let rest = &text[..at.index(text.len())];
        prop_assert!(matches!(parse(rest), Err(InviteError::Empty | InviteError::NotAnInvite | InviteError::Mangled)));
    }

    #[test]
    fn line_breaks_and_spaces_anywhere_are_forgiven(
        invite in any_invite(), breaks in prop::collection::vec((any::<prop::sample::Index>(), "[ \t\r\n<>\"=]{1,3}"), 0..6),
    ) {
        let mut text = invite.to_text().expect("within the limits");
        for (at, wrapping) in breaks {
            text.insert_str(at.index(text.len()), &wrapping);
        }
        prop_assert_eq!(parse(&text), Ok(invite));
    }

    #[test]
    fn any_text_is_an_invite_or_an_error(any: String, content: Vec<u8>) {
        let _ = parse(&any);
        let _ = parse(&format!("{SCHEME}{any}"));
        let _ = parse(&sealed(&content));
        let _ = parse(&sealed(&[vec![VERSION], content].concat()));
    }
}
