//! Names and errors; and real cards, in a network namespace of the test's own thread where the system lets it make one.

use std::future::Future;
use std::net::{Ipv4Addr, UdpSocket};

use kuguri_proto::offload::checksum;
use nix::sched::{CloneFlags, unshare};

use super::*;
use crate::route::Settings;

const MAC: MacAddr = MacAddr([2, 0, 0, 0, 0, 1]);
const OURS: Ipv4Addr = Ipv4Addr::new(10, 9, 0, 1);
const THEIRS: Ipv4Addr = Ipv4Addr::new(10, 9, 0, 2);
const THEIR_MAC: [u8; 6] = [2, 0, 0, 0, 0, 2];

#[test]
fn names_that_the_kernel_would_refuse_or_change_are_refused() {
    for bad in [
        "",
        "kuguri0kuguri0ku",
        "a b",
        "a/b",
        "tap%d",
        ".",
        "..",
        "a:0",
    ] {
        assert!(
            matches!(check_name(bad), Err(CardError::BadName(_))),
            "{bad}"
        );
    }
    assert!(check_name("kuguri-none-0").is_ok());
    assert!(matches!(check_name("lo"), Err(CardError::NameTaken(_))));
}

#[test]
fn refusals_of_the_system_say_what_to_do() {
    let error = |errno: Errno| io_error("kuguri0", "making it")(errno.into()).to_string();
    assert!(error(Errno::EPERM).contains("sudo"));
    assert!(error(Errno::EBUSY).contains("--interface"));
    assert!(error(Errno::ENOMEM).contains("kuguri0 cannot be made: making it"));
}

#[test]
fn a_tap_carries_whole_frames_and_keeps_its_name() {
    in_a_namespace(|routes| async move {
        match tun::open("kgt0") {
            Ok(opened) => {
                carries_whole_frames(opened, CardKind::Tap, &routes).await;
            }
            Err(error) => eprintln!("skipped: {error}"),
        }
    });
}

#[test]
fn a_veth_carries_whole_frames_and_keeps_its_name() {
    in_a_namespace(|routes| async move {
        match veth::open("kgt0", &routes).await {
            Ok(opened) => {
                carries_whole_frames(opened, CardKind::Veth, &routes).await;
            }
            Err(error) => eprintln!("skipped: {error}"),
        }
    });
}

/// A program of this machine sends a datagram to a neighbour that the test plays.
async fn carries_whole_frames(opened: Opened, kind: CardKind, routes: &Routes) {
    let made = Card::new(opened, "kgt0", kind, MAC, routes).await;
    let card = made.expect("its MAC address can be set");
    let taken = Card::open("kgt0", MAC, routes).await;
    assert!(matches!(taken, Err(CardError::NameTaken(_))), "{taken:?}");
    let settings = |address| Settings { mtu: 1400, address };
    let first = settings(Some((Ipv4Addr::new(10, 8, 0, 1).into(), 24)));
    let second = settings(Some((OURS.into(), 24)));
    let set = routes.configure(card.index(), None, first).await;
    set.expect("settings");
    let set = routes.configure(card.index(), Some(first), second).await;
    set.expect("other settings");
    assert!(
        UdpSocket::bind("10.8.0.1:0").is_err(),
        "the old address is gone"
    );

    let socket = UdpSocket::bind((OURS, 0)).expect("the address is there");
    socket.set_nonblocking(true).expect("a socket");
    socket
        .send_to(b"to the neighbour", (THEIRS, 7))
        .expect("there is a route");
    let arp = frame_that(&card, |frame| frame[12..14] == [8, 6]).await;
    assert_eq!((&arp[..6], &arp[6..12]), (&[0xff; 6][..], &MAC.0[..]));
    card.send(&answer(&arp));

    let datagram = frame_that(&card, |frame| frame.ends_with(b"to the neighbour")).await;
    assert_eq!(
        (&datagram[..6], &datagram[6..12]),
        (&THEIR_MAC[..], &MAC.0[..])
    );
    assert!(
        udp_checksum_is_right(&datagram[14..]),
        "no checksum is left to hardware"
    );
    assert_eq!(card.counters().frames_out, 1);
    card.close(routes).await;
    if kind == CardKind::Veth {
        assert!(if_nametoindex("kgt0").is_err(), "it is taken away at once");
    }
}

async fn frame_that(card: &Card, wanted: impl Fn(&[u8]) -> bool) -> Vec<u8> {
    let mut buffer = vec![0; LARGEST_FRAME];
    loop {
        while let Some((header, place)) = card.port().receive(&mut buffer) {
            let mut frame = buffer[place].to_vec();
            if header.needs_csum {
                checksum::finish_frame(&mut frame);
            }
            if wanted(&frame) {
                return frame;
            }
        }
        tokio::task::yield_now().await;
    }
}

/// The neighbour's answer to an ARP request (RFC 826): operation 2, the two addresses turned round.
fn answer(request: &[u8]) -> Vec<u8> {
    let head = [0, 1, 8, 0, 6, 4, 0, 2];
    let (asker, theirs) = (&request[22..32], THEIRS.octets());
    [
        &MAC.0[..],
        &THEIR_MAC,
        &[8, 6],
        &head,
        &THEIR_MAC,
        &theirs,
        asker,
    ]
    .concat()
}

/// RFC 768 over the pseudo header.
fn udp_checksum_is_right(packet: &[u8]) -> bool {
    let (addresses, datagram) = (&packet[12..20], &packet[20..]);
    let length = u32::try_from(datagram.len()).expect("small");
    let words = addresses.chunks(2).chain(datagram.chunks(2));
    let sum = words.fold(17 + length, |sum, word| {
        sum + u32::from(word[0]) * 256 + word.get(1).map_or(0, |low| u32::from(*low))
    });
    (sum & 0xffff) + (sum >> 16) == 0xffff
}

fn in_a_namespace<W: Future<Output = ()>>(work: impl FnOnce(Routes) -> W + Send + 'static) {
    let tested = std::thread::spawn(|| {
        if let Err(errno) = unshare(CloneFlags::CLONE_NEWNET) {
            eprintln!("skipped: no network namespace here ({errno})");
            return;
        }
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .expect("a runtime");
        runtime.block_on(async { work(Routes::connect().expect("a routing socket")).await });
    });
    if let Err(panic) = tested.join() {
        std::panic::resume_unwind(panic);
    }
}
