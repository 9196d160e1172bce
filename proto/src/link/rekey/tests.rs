//! Two sides that change keys while frames cross.

use proptest::prelude::*;
use rand::SeedableRng;

use super::*;
use crate::link::seal::OpenError;
use crate::link::seal::keys::EXPORTED;
use crate::link::seal::open::OVERLAP;
use crate::link::seal::tests::start;
use crate::wire::sealed::OVERHEAD;
use crate::wire::vectors::Vector;

const SECOND: Duration = Duration::from_secs(1);

fn side(role: Role, now: Instant) -> Rekeying {
    let keys = LinkKeys::derive(&[7; EXPORTED], role);
    let seed = match role {
        Role::Client => 1,
        Role::Server => 2,
    };
    Rekeying::new(
        keys,
        role,
        Suite::Aes256Gcm,
        9,
        StdRng::seed_from_u64(seed),
        now,
    )
}

fn pair(now: Instant) -> (Rekeying, Rekeying) {
    (side(Role::Client, now), side(Role::Server, now))
}

fn sealed(from: &Rekeying) -> Vec<u8> {
    let mut datagram = vec![0; OVERHEAD + 3];
    from.sealer().seal(&mut datagram).expect("room");
    datagram
}

/// One datagram from a side to the other, opened as the link would; gives its epoch.
fn frame(from: &Rekeying, to: &mut Rekeying, now: Instant) -> Result<u8, OpenError> {
    let epoch = to
        .opener()
        .open(&mut sealed(from), now)
        .map(|opened| opened.epoch);
    to.handle_opened(now);
    epoch
}

/// Carries the messages that a side has, each by a datagram.
fn carry(from: &mut Rekeying, to: &mut Rekeying, now: Instant) -> Result<usize, RekeyError> {
    let mut count = 0;
    while let Some(message) = from.poll_message() {
        frame(from, to, now).expect("authentic");
        to.handle_message(&message, now)?;
        count += 1;
    }
    Ok(count)
}

/// Until neither has a message; then an acknowledgement each way.
fn settle(client: &mut Rekeying, server: &mut Rekeying, now: Instant) {
    loop {
        let there = carry(client, server, now).expect("honest");
        if there + carry(server, client, now).expect("honest") == 0 {
            break;
        }
    }
    frame(client, server, now).expect("authentic");
    frame(server, client, now).expect("authentic");
}

/// What PROTOCOL.md says.
#[test]
fn the_vectors_hold() {
    let vector = Vector::named("rekey");
    let ((private, offer), (other, answer)) = (
        key_pair(&vector.array("offer-private")),
        key_pair(&vector.array("answer-private")),
    );
    assert_eq!(offer, vector.array("offer-public"));
    assert_eq!(answer, vector.array("answer-public"));
    for (private, public) in [(private, answer), (other, offer)] {
        let mut side = side(Role::Client, start());
        side.chain = Chain::from_bytes(vector.array("chain-0"));
        let agreed = agree(
            &private,
            UnparsedPublicKey::new(&X25519, &public),
            RekeyError::WeakKey,
            |agreed| Ok(agreed.to_vec()),
        );
        assert_eq!(agreed.as_deref(), Ok(vector.bytes("agreed")));
        side.step(&private, &public, &offer, &answer)
            .expect("strong");
        assert_eq!([side.epoch()], vector.array("epoch"));
        assert_eq!(*side.chain.bytes(), vector.array("chain-1"));
        side.chain.assert_keys(&vector, 1);
    }
}

/// RFC 7748, section 6.1: Bob's side.
#[test]
fn x25519_is_that_of_the_rfc() {
    let secret = [
        0x5d, 0xab, 0x08, 0x7e, 0x62, 0x4a, 0x8a, 0x4b, 0x79, 0xe1, 0x7f, 0x8b, 0x83, 0x80, 0x0e,
        0xe6, 0x6f, 0x3b, 0xb1, 0x29, 0x26, 0x18, 0xb6, 0xfd, 0x1c, 0x2f, 0x8b, 0x27, 0xff, 0x88,
        0xe0, 0xeb,
    ];
    let alice = [
        0x85, 0x20, 0xf0, 0x09, 0x89, 0x30, 0xa7, 0x54, 0x74, 0x8b, 0x7d, 0xdc, 0xb4, 0x3e, 0xf7,
        0x5a, 0x0d, 0xbf, 0x3a, 0x0d, 0x26, 0x38, 0x1a, 0xf4, 0xeb, 0xa4, 0xa9, 0x8e, 0xaa, 0x9b,
        0x4e, 0x6a,
    ];
    let expected = [
        0x4a, 0x5d, 0x9d, 0x5b, 0xa4, 0xce, 0x2d, 0xe1, 0x72, 0x8e, 0x3b, 0xf4, 0x80, 0x35, 0x0f,
        0x25, 0xe0, 0x7e, 0x21, 0xc9, 0x47, 0xd1, 0x9e, 0x33, 0x76, 0xf0, 0x9b, 0x3c, 0x1e, 0x16,
        0x17, 0x42,
    ];
    let (bob, _) = key_pair(&secret);
    let peer = UnparsedPublicKey::new(&X25519, alice);
    let agreed = agree(&bob, peer, (), |agreed| Ok(agreed.to_vec()));
    assert_eq!(agreed.as_deref(), Ok(expected.as_slice()));
}

#[test]
fn the_client_offers_when_keys_are_two_minutes_old() {
    let now = start();
    let (mut client, mut server) = pair(now);
    assert_eq!(client.poll_timeout(), Some(now + REKEY_INTERVAL));
    client.handle_timeout(now + REKEY_INTERVAL - SECOND);
    assert_eq!(client.poll_message(), None);
    let due = now + REKEY_INTERVAL;
    client.handle_timeout(due);
    server.handle_timeout(due);
    assert_eq!(carry(&mut client, &mut server, due), Ok(1));
    assert_eq!(
        frame(&server, &mut client, due),
        Ok(0),
        "the answering side waits"
    );
    let waiting = server.poll_timeout();
    assert_eq!(waiting, Some(due + LOOK));
    assert_eq!(carry(&mut server, &mut client, due), Ok(1));
    assert_eq!(frame(&client, &mut server, due), Ok(1));
    assert_eq!(frame(&server, &mut client, due), Ok(1));
    assert_eq!((client.epoch(), server.epoch()), (1, 1));
    assert_eq!(
        client.poll_timeout(),
        Some(due + OVERLAP.min(REKEY_INTERVAL))
    );
}

#[test]
fn the_answering_side_finds_out_by_itself_what_the_data_plane_opened() {
    let now = start();
    let (mut client, mut server) = pair(now);
    client.handle_timeout(now + REKEY_INTERVAL);
    carry(&mut client, &mut server, now).expect("honest");
    let answer = server.poll_message().expect("an answer");
    client.handle_message(&answer, now).expect("honest");
    server
        .opener()
        .open(&mut sealed(&client), now)
        .expect("authentic");
    assert_eq!(server.sealer().epoch(), 0);
    let look = server.poll_timeout().expect("a look");
    server.handle_timeout(look);
    assert_eq!(server.sealer().epoch(), 1);
}

#[test]
fn the_next_offer_may_be_what_the_first_datagram_of_an_epoch_carries() {
    let now = start();
    let (mut client, mut server) = pair(now);
    client.handle_timeout(now + REKEY_INTERVAL);
    carry(&mut client, &mut server, now).expect("honest");
    let answer = server.poll_message().expect("an answer");
    client.handle_message(&answer, now).expect("honest");
    client.handle_timeout(now + REKEY_INTERVAL);
    let offer = client.poll_message().expect("a second offer");
    let mut datagram = sealed(&client);
    server.opener().open(&mut datagram, now).expect("authentic");
    assert_eq!(server.handle_message(&offer, now), Ok(()));
    assert_eq!((server.sealer().epoch(), server.epoch()), (1, 2));
}

#[test]
fn looking_in_vain_goes_on() {
    let now = start();
    let (mut client, mut server) = pair(now);
    client.handle_timeout(now + REKEY_INTERVAL);
    carry(&mut client, &mut server, now).expect("honest");
    for _ in 0..3 {
        let look = server.poll_timeout().expect("a look");
        server.handle_timeout(look);
        assert_eq!(server.poll_timeout(), Some(look + LOOK));
    }
    assert_eq!(server.sealer().epoch(), 0);
}

#[test]
fn the_server_offers_when_the_client_does_not() {
    let now = start();
    let (mut client, mut server) = pair(now);
    server.handle_timeout(now + REKEY_INTERVAL);
    assert_eq!(server.poll_message(), None);
    server.handle_timeout(now + OVERDUE);
    settle(&mut client, &mut server, now + OVERDUE);
    assert_eq!((client.sealer().epoch(), server.sealer().epoch()), (1, 1));
}

#[test]
fn either_side_offers_when_it_has_sealed_too_much() {
    let now = start();
    let (mut client, mut server) = pair(now);
    for (from, epoch) in [(Role::Client, 1), (Role::Server, 2)] {
        let side = if from == Role::Client {
            &mut client
        } else {
            &mut server
        };
        side.sealer()
            .skip(REKEY_DATAGRAMS - 1 - side.sealer().sealed_in_epoch());
        side.handle_timeout(now);
        assert!(side.message.is_none());
        side.sealer().skip(1);
        side.handle_timeout(now);
        settle(&mut client, &mut server, now);
        assert_eq!(
            (client.sealer().epoch(), server.sealer().epoch()),
            (epoch, epoch)
        );
    }
}

#[test]
fn when_both_offer_at_once_the_client_wins() {
    let now = start();
    let (mut client, mut server) = pair(now);
    let late = now + OVERDUE;
    client.handle_timeout(late);
    server.handle_timeout(late);
    let (one, two) = (
        client.poll_message().expect("offer"),
        server.poll_message().expect("offer"),
    );
    server.handle_message(&one, late).expect("an offer");
    client
        .handle_message(&two, late)
        .expect("an offer, ignored");
    settle(&mut client, &mut server, late);
    assert_eq!((client.sealer().epoch(), server.sealer().epoch()), (1, 1));
    assert_eq!(
        client.counters(),
        RekeyCounters {
            epochs: 1,
            collisions: 1
        }
    );
    assert_eq!(client.counters(), server.counters());
    assert_eq!(client.chain.bytes(), server.chain.bytes());
}

#[test]
fn the_epoch_wraps_around_and_every_frame_is_opened() {
    let mut now = start();
    let (mut client, mut server) = pair(now);
    for round in 0..300u32 {
        let expected = u8::try_from(round % 256).expect("a byte");
        assert_eq!(frame(&client, &mut server, now), Ok(expected));
        assert_eq!(frame(&server, &mut client, now), Ok(expected));
        let late = [sealed(&client), sealed(&server)];
        now += REKEY_INTERVAL;
        client.handle_timeout(now);
        server.handle_timeout(now);
        settle(&mut client, &mut server, now);
        for (mut datagram, to) in late.into_iter().zip([&server, &client]) {
            assert!(
                to.opener().open(&mut datagram, now).is_ok(),
                "still on its way"
            );
        }
    }
    assert_eq!((client.epoch(), server.epoch()), (44, 44));
    assert_eq!(client.chain.bytes(), server.chain.bytes());
    assert_eq!(
        client.sealer().sealed(),
        server.opener().counters().opened,
        "numbers count on"
    );
}

#[test]
fn old_keys_are_wiped_after_the_overlap() {
    let now = start();
    let (mut client, mut server) = pair(now);
    let mut late = sealed(&client);
    client.handle_timeout(now + REKEY_INTERVAL);
    settle(&mut client, &mut server, now);
    let wiped = server.poll_timeout().expect("a time");
    assert_eq!(wiped, now + OVERLAP);
    server.handle_timeout(wiped);
    assert_eq!(
        server.opener().open(&mut late, wiped),
        Err(OpenError::UnknownEpoch(0))
    );
}

#[test]
fn what_cannot_be_is_refused() {
    let now = start();
    let rekey = |epoch, answer| Rekey {
        epoch,
        answer,
        public: [9; 32],
    };
    let (mut client, mut server) = pair(now);
    for got in [0, 2, 255] {
        let unexpected = RekeyError::UnexpectedEpoch { expected: 1, got };
        assert_eq!(
            server.handle_message(&rekey(got, false), now),
            Err(unexpected)
        );
    }
    assert_eq!(
        server.handle_message(&rekey(1, true), now),
        Err(RekeyError::UnexpectedAnswer)
    );
    assert_eq!(server.handle_message(&rekey(1, false), now), Ok(()));
    assert_eq!(
        server.handle_message(&rekey(2, false), now),
        Err(RekeyError::UnexpectedOffer)
    );
    assert_eq!(
        server.handle_message(&rekey(2, true), now),
        Err(RekeyError::UnexpectedAnswer)
    );
    client.handle_timeout(now + REKEY_INTERVAL);
    let unexpected = RekeyError::UnexpectedEpoch {
        expected: 1,
        got: 2,
    };
    assert_eq!(client.handle_message(&rekey(2, true), now), Err(unexpected));
}

#[test]
fn keys_that_agree_on_nothing_are_refused() {
    let now = start();
    // Points of small order: 0, 1 and p − 1 (RFC 7748, section 5, p = 2^255 − 19).
    let mut minus_one = [0xff; 32];
    (minus_one[0], minus_one[31]) = (0xec, 0x7f);
    let mut one = [0; 32];
    one[0] = 1;
    for public in [[0; 32], one, minus_one] {
        for answer in [false, true] {
            let (mut client, mut server) = pair(now);
            client.handle_timeout(now + REKEY_INTERVAL);
            let side = if answer { &mut client } else { &mut server };
            let weak = side.handle_message(
                &Rekey {
                    epoch: 1,
                    answer,
                    public,
                },
                now,
            );
            assert_eq!(weak, Err(RekeyError::WeakKey));
            assert_eq!(
                (side.epoch(), side.sealer().epoch()),
                (0, 0),
                "no step was made"
            );
        }
    }
}

#[test]
fn one_seed_makes_one_key() {
    let now = start();
    let offers = [(); 2].map(|()| {
        let mut client = side(Role::Client, now);
        client.handle_timeout(now + REKEY_INTERVAL);
        client.poll_message()
    });
    assert!(offers[0].is_some());
    assert_eq!(offers[0], offers[1]);
}

/// What happens next in a run: time passes, messages are delivered, frames cross.
fn step(
    client: &mut Rekeying,
    server: &mut Rekeying,
    wires: &mut [Vec<Rekey>; 2],
    choice: u8,
    now: Instant,
) {
    match choice % 6 {
        0 => client.handle_timeout(now),
        1 => server.handle_timeout(now),
        2 => wires[0].extend(client.poll_message()),
        3 => wires[1].extend(server.poll_message()),
        4 => {
            frame(client, server, now).expect("every frame is opened");
            for message in wires[0].drain(..) {
                server
                    .handle_message(&message, now)
                    .expect("an honest client");
            }
        }
        _ => {
            frame(server, client, now).expect("every frame is opened");
            for message in wires[1].drain(..) {
                client
                    .handle_message(&message, now)
                    .expect("an honest server");
            }
        }
    }
}

proptest! {
    #[test]
    fn whatever_comes_first_both_stay_together(choices in prop::collection::vec((any::<u8>(), 0u64..60), 1..400)) {
        let mut now = start();
        let (mut client, mut server) = pair(now);
        let mut wires = [Vec::new(), Vec::new()];
        for (choice, seconds) in choices {
            now += SECOND * u32::try_from(seconds).expect("small");
            step(&mut client, &mut server, &mut wires, choice, now);
        }
        for choice in [2, 3, 4, 5, 2, 3, 4, 5, 4, 5] {
            step(&mut client, &mut server, &mut wires, choice, now);
        }
        prop_assert_eq!(client.chain.bytes(), server.chain.bytes());
        prop_assert_eq!(client.sealer().epoch(), server.sealer().epoch());
    }
}
