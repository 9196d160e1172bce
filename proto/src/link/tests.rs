//! Two links, joined by a relay channel that loses nothing.

use std::time::{Duration, Instant};

use super::*;
use crate::identity::Identity;

const ONE_WAY: Duration = Duration::from_millis(10);

struct Pair {
    links: [Link; 2],
    /// What is on its way: when it arrives, at which side, and the datagram.
    flight: Vec<(Instant, usize, Vec<u8>)>,
    /// Nothing arrives any more.
    cut: bool,
    now: Instant,
}

impl Pair {
    /// A starter that wants to reach the key of seed `wanted`, and the peer of seed 2 that answers.
    fn new(wanted: u8) -> Self {
        let now = seal::tests::start();
        let (starter, answerer) = (Identity::from_seed(&[1; 32]), Identity::from_seed(&[2; 32]));
        let setup = |identity, peer, local_index| Setup {
            identity,
            peer,
            local_index,
            relay: Channel(2),
            aes_in_hardware: true,
            relay_only: false,
            seed: [3; 32],
        };
        let wanted = Identity::from_seed(&[wanted; 32]).id();
        let links = [
            Link::connect(&setup(&starter, wanted, 10), now),
            Link::accept(&setup(&answerer, starter.id(), 20), 10, now),
        ];
        Self {
            links,
            flight: Vec::new(),
            cut: false,
            now,
        }
    }

    fn run_for(&mut self, time: Duration) {
        let end = self.now + time;
        while self.now <= end {
            for (side, link) in self.links.iter_mut().enumerate() {
                link.handle_timeout(self.now);
                while let Some(outgoing) = link.poll_transmit(self.now) {
                    if let Outgoing::Relay(_, datagram) = outgoing {
                        self.flight.push((self.now + ONE_WAY, 1 - side, datagram));
                    }
                }
            }
            let now = self.now;
            if self.cut {
                self.flight.clear();
            }
            for (_, side, mut datagram) in self.flight.extract_if(.., |(at, ..)| *at <= now) {
                match Indices::parse(&datagram) {
                    Some((indices, body)) => self.links[side].handle_clear(indices, body, now),
                    None => {
                        self.links[side].handle_sealed(&mut datagram, Via::Relay(Channel(2)), now)
                    }
                }
            }
            self.now += Duration::from_millis(1);
        }
    }

    fn events(&mut self, side: usize) -> Vec<LinkEvent> {
        std::iter::from_fn(|| self.links[side].poll_event()).collect()
    }
}

fn closed(events: &[LinkEvent]) -> Option<&str> {
    events.iter().find_map(|event| {
        let LinkEvent::Closed { reason } = event else {
            return None;
        };
        Some(reason.as_str())
    })
}

#[test]
fn a_peer_with_keys_that_never_asks_to_join_does_not_stay() {
    let mut pair = Pair::new(2);
    pair.run_for(Duration::from_secs(1));
    assert!(pair.links.iter().all(Link::is_established));
    pair.run_for(ADMISSION_TIMEOUT);
    assert_eq!(
        closed(&pair.events(1)),
        Some("the peer did not ask to join")
    );
}

fn welcome() -> Welcome {
    Welcome {
        hub_name: String::new(),
        address: None,
        gateway: None,
        mtu: 1500,
        features: 0,
    }
}

#[test]
fn a_hub_lets_in_once_on_one_link() {
    let mut pair = Pair::new(2);
    pair.run_for(Duration::from_secs(1));
    pair.links[1].welcome(welcome(), None, pair.now);
    pair.run_for(Duration::from_secs(1));
    assert_eq!(closed(&pair.events(0)), None);
    pair.links[1].welcome(welcome(), None, pair.now);
    pair.run_for(Duration::from_secs(1));
    let events = pair.events(0);
    assert!(closed(&events).is_some_and(|it| it.contains("twice")));
    let welcomes = events.iter();
    let welcomes = welcomes.filter(|it| matches!(it, LinkEvent::Welcome(_)));
    assert_eq!(welcomes.count(), 0, "the second one is not told");
}

#[test]
fn silence_is_told_once_each_time_before_the_link_ends() {
    let mut pair = Pair::new(2);
    pair.run_for(Duration::from_secs(1));
    pair.links[1].welcome(welcome(), None, pair.now);
    pair.run_for(4 * SILENCE);
    let silences = |pair: &mut Pair| {
        let events = pair.events(0);
        let silent = events.iter().filter(|it| **it == LinkEvent::Silent);
        (silent.count(), closed(&events).is_some())
    };
    assert_eq!(silences(&mut pair), (0, false));
    for _ in 0..2 {
        pair.cut = true;
        pair.run_for(DOUBT + Duration::from_secs(2));
        assert_eq!(silences(&mut pair), (1, false));
        pair.cut = false;
        pair.run_for(Duration::from_secs(2));
        assert_eq!(silences(&mut pair), (0, false));
    }
    pair.cut = true;
    pair.run_for(SILENCE);
    assert_eq!(silences(&mut pair), (1, true));
}

#[test]
fn a_link_that_is_rejected_ends_with_the_fault_and_the_other_side_is_told() {
    let mut pair = Pair::new(2);
    pair.run_for(Duration::from_secs(1));
    pair.links[0].reject("bad hub".to_owned(), pair.now);
    pair.run_for(Duration::from_secs(1));
    assert_eq!(closed(&pair.events(0)), Some("bad hub"));
    assert_eq!(closed(&pair.events(1)), Some("the peer disconnected"));
}

#[test]
fn an_established_link_with_nothing_to_say_stays() {
    let mut pair = Pair::new(2);
    pair.run_for(Duration::from_secs(1));
    pair.links[1].welcome(welcome(), None, pair.now);
    pair.run_for(4 * SILENCE);
    assert_eq!(
        (closed(&pair.events(0)), closed(&pair.events(1))),
        (None, None)
    );
}

#[test]
fn another_key_than_the_wanted_one_is_refused_by_name() {
    let mut pair = Pair::new(9);
    pair.run_for(Duration::from_secs(1));
    let events = pair.events(0);
    let reason = closed(&events).expect("the starter gives up");
    for seed in [2, 9] {
        let key = Identity::from_seed(&[seed; 32]).id().to_string();
        assert!(reason.contains(&key), "{reason}");
    }
    assert!(!pair.links[1].is_established());
}
