//! The switch against a naive one: a list of stations, searched from end to end, and credits counted by hand.

use std::num::NonZeroU32;

use proptest::prelude::*;
use rand::SeedableRng;
use rand::rngs::StdRng;

use super::*;

const A: PortId = PortId(1);
const B: PortId = PortId(2);
const C: PortId = PortId(3);

fn mac(station: u8) -> MacAddr {
    MacAddr([2, 0, 0, 0, 0, station])
}

fn frame(destination: MacAddr, source: MacAddr) -> Vec<u8> {
    [&destination.0[..], &source.0, &[0x08, 0x00], &[0; 46]].concat()
}

fn rate(per_second: u32, burst: u32) -> Rate {
    let count = |n| NonZeroU32::new(n).expect("not zero");
    Rate::new(count(per_second), Duration::from_secs(1), count(burst))
}

fn switch(config: Config, now: Instant) -> Switch {
    let mut switch = Switch::new(config, &mut StdRng::seed_from_u64(1));
    for port in [A, B, C] {
        switch.add_port(port, now);
    }
    switch
}

#[test]
fn the_third_port_sees_broadcast_and_no_learnt_unicast() {
    let now = Instant::now();
    let mut switch = switch(Config::default(), now);
    let hello = switch.forward(A, &frame(MacAddr::BROADCAST, mac(1)), now);
    assert_eq!(hello, Forwarding::Flood);
    assert_eq!(switch.flood_ports(A).collect::<Vec<_>>(), [B, C]);
    let answer = switch.forward(B, &frame(mac(1), mac(2)), now);
    assert_eq!(answer, Forwarding::To(A));
    let next = switch.forward(A, &frame(mac(2), mac(1)), now);
    assert_eq!(next, Forwarding::To(B));
}

#[test]
fn what_cannot_be_forwarded_is_filtered_for_its_reason() {
    let now = Instant::now();
    let mut switch = switch(Config::default(), now);
    let _ = switch.forward(A, &frame(MacAddr::BROADCAST, mac(1)), now);
    for (from, frame, reason) in [
        (PortId(9), frame(mac(1), mac(2)), Filtered::UnknownPort),
        (A, vec![0; 13], Filtered::Short),
        (A, vec![], Filtered::Short),
        (B, frame(mac(1), MacAddr::BROADCAST), Filtered::GroupSource),
        (A, frame(mac(1), mac(2)), Filtered::SamePort),
        (A, frame(mac(1), mac(1)), Filtered::SamePort),
    ] {
        assert_eq!(
            switch.forward(from, &frame, now),
            Forwarding::Filtered(reason)
        );
    }
    let counters = switch.counters();
    assert_eq!(counters.filtered_same_port, 2);
    assert_eq!(counters.filtered_short, 2);
    assert_eq!(counters.filtered_group_source, 1);
    assert_eq!(counters.filtered_unknown_port, 1);
}

#[test]
fn a_silent_station_ages_and_a_removed_port_takes_its_stations_along() {
    let now = Instant::now();
    let ageing_time = Config::default().ageing_time;
    let mut switch = switch(Config::default(), now);
    let _ = switch.forward(A, &frame(MacAddr::BROADCAST, mac(1)), now);
    let last = now + ageing_time - Duration::from_nanos(1);
    assert_eq!(switch.port_of(mac(1), last), Some(A));
    assert_eq!(switch.port_of(mac(1), now + ageing_time), None);
    let _ = switch.forward(B, &frame(MacAddr::BROADCAST, mac(2)), last);
    let mut at = now;
    while let Some(due) = switch
        .poll_timeout()
        .filter(|due| *due <= last + ageing_time)
    {
        at = due;
        switch.handle_timeout(due);
    }
    assert!(at > now + ageing_time);
    assert_eq!(switch.counters().aged, 1);
    assert_eq!(switch.table(at).len(), 1);
    switch.remove_port(B);
    assert_eq!(switch.table(at), []);
    assert_eq!(switch.poll_timeout(), None);
}

#[test]
fn one_port_cannot_fill_the_table_for_the_others() {
    let now = Instant::now();
    let config = Config::default();
    let mut switch = switch(config, now);
    let stations = u32::try_from(config.max_stations_per_port).expect("small") + 100;
    for station in 0..stations {
        let [a, b, c, d] = station.to_be_bytes();
        let source = MacAddr([2, 1, a, b, c, d]);
        let _ = switch.forward(A, &frame(mac(1), source), now);
    }
    assert_eq!(switch.counters().not_learnt, 100);
    assert_eq!(switch.table(now).len(), config.max_stations_per_port);
    let _ = switch.forward(B, &frame(MacAddr::BROADCAST, mac(2)), now);
    assert_eq!(switch.port_of(mac(2), now), Some(B));
    // Nor can it make a station unknown by claiming to be it.
    let _ = switch.forward(A, &frame(MacAddr::BROADCAST, mac(2)), now);
    assert_eq!(switch.port_of(mac(2), now), Some(B));
}

/// 10,000 broadcasts a second for ten seconds, and beside them a station that asks as an ordinary one does.
#[test]
fn a_flood_is_cut_off_and_the_others_are_not() {
    let start = Instant::now();
    let mut switch = switch(Config::default(), start);
    let limit = StormLimit::default();
    let (mut flooded, seconds) = (0u64, 10);
    for step in 0..10_000 * seconds {
        let now = start + Duration::from_micros(100) * step;
        let flood = switch.forward(A, &frame(MacAddr::BROADCAST, mac(1)), now);
        flooded += u64::from(flood == Forwarding::Flood);
        if step % 1000 == 0 {
            for (port, station) in [(A, 2), (B, 3)] {
                let ask = switch.forward(port, &frame(MacAddr::BROADCAST, mac(station)), now);
                assert_eq!(ask, Forwarding::Flood);
            }
        }
    }
    let allowed = Duration::from_secs(1).as_nanos() * 1000 / limit.source.refill_time().as_nanos();
    let most = 1000 + allowed * u128::from(seconds);
    assert!(u128::from(flooded) <= most, "{flooded} of at most {most}");
    assert!(u128::from(flooded) + 2 > most);
}

#[test]
fn changing_the_source_with_every_frame_does_not_get_round_the_limit() {
    let now = Instant::now();
    let storm_limit = Some(StormLimit {
        source: rate(1, 2),
        port: rate(1, 10),
    });
    let config = Config {
        storm_limit,
        ..Config::default()
    };
    let mut switch = switch(config, now);
    let flooded = (0..100)
        .filter(|station| {
            let frame = frame(MacAddr::BROADCAST, mac(*station));
            switch.forward(A, &frame, now) == Forwarding::Flood
        })
        .count();
    assert_eq!(flooded, 10);
    assert_eq!(switch.counters().filtered_storm, 90);
}

#[test]
fn the_storm_limit_can_be_turned_off() {
    let now = Instant::now();
    let config = Config {
        storm_limit: None,
        ..Config::default()
    };
    let mut switch = switch(config, now);
    for _ in 0..5_000 {
        let broadcast = switch.forward(A, &frame(MacAddr::BROADCAST, mac(1)), now);
        assert_eq!(broadcast, Forwarding::Flood);
    }
}

/// What happens to a switch.
#[derive(Clone, Copy, Debug)]
enum Act {
    Add(PortId),
    Remove(PortId),
    Frame {
        from: PortId,
        destination: u8,
        source: u8,
        length: usize,
    },
    Wait(Duration),
}

fn act() -> impl Strategy<Value = Act> {
    let port = || (0u32..4).prop_map(PortId);
    let frame = (port(), 0u8..9, 0u8..8, 0usize..60);
    prop_oneof![
        1 => port().prop_map(Act::Add),
        1 => port().prop_map(Act::Remove),
        20 => frame.prop_map(|(from, destination, source, cut)| Act::Frame {
            from,
            destination,
            source,
            // Most are whole, some lack bytes of the header.
            length: if cut < 3 { cut + 11 } else { 60 },
        }),
        4 => (0u64..700).prop_map(|ms| Act::Wait(Duration::from_millis(ms))),
    ]
}

/// Station 7 is a group, station 8 is everybody.
fn any_mac(station: u8) -> MacAddr {
    match station {
        7 => MacAddr([0x01, 0, 0x5e, 0, 0, 0xfb]),
        8 => MacAddr::BROADCAST,
        _ => mac(station),
    }
}

/// A bucket as a sum of money: nanoseconds saved, one interval the price.
#[derive(Clone, Copy)]
struct Purse {
    saved: u128,
    counted: Instant,
}

impl Purse {
    fn pay(&mut self, (price, most): (u128, u128), now: Instant) -> bool {
        self.saved = most.min(self.saved + (now - self.counted).as_nanos());
        self.counted = now;
        let enough = self.saved >= price;
        if enough {
            self.saved -= price;
        }
        enough
    }
}

struct Naive {
    ports: Vec<(PortId, Purse)>,
    stations: Vec<(MacAddr, PortId, Instant, Purse)>,
    sweep: Option<Instant>,
}

const SMALL: (usize, usize) = (5, 3);
const AGEING: Duration = Duration::from_secs(2);
/// Price and most, in nanoseconds: two a second and three at once; five a second and six at once.
const OF_SOURCE: (u128, u128) = (500_000_000, 1_500_000_000);
const OF_PORT: (u128, u128) = (200_000_000, 1_200_000_000);

fn small() -> Config {
    Config {
        ageing_time: AGEING,
        max_stations: SMALL.0,
        max_stations_per_port: SMALL.1,
        storm_limit: Some(StormLimit {
            source: rate(2, 3),
            port: rate(5, 6),
        }),
    }
}

impl Naive {
    fn fresh((_, most): (u128, u128), now: Instant) -> Purse {
        Purse {
            saved: most,
            counted: now,
        }
    }

    fn add(&mut self, port: PortId, now: Instant) {
        if self.ports.iter().all(|(p, _)| *p != port) {
            self.ports.push((port, Self::fresh(OF_PORT, now)));
        }
    }

    fn remove(&mut self, port: PortId) {
        self.ports.retain(|(p, _)| *p != port);
        self.stations.retain(|(_, p, ..)| *p != port);
        self.sweep = self.sweep.filter(|_| !self.stations.is_empty());
    }

    fn timeout(&mut self, now: Instant) {
        if self.sweep.is_some_and(|due| due <= now) {
            self.stations.retain(|(.., heard, _)| now - *heard < AGEING);
            let again = (!self.stations.is_empty()).then_some(now + Duration::from_secs(1));
            self.sweep = again;
        }
    }

    fn learn(&mut self, mac: MacAddr, port: PortId, now: Instant) {
        let behind = self.stations.iter().filter(|(_, p, ..)| *p == port).count();
        let room = self.stations.len() < SMALL.0;
        let new = (mac, port, now, Self::fresh(OF_SOURCE, now));
        match self.stations.iter_mut().find(|(m, ..)| *m == mac) {
            Some(station) if station.1 == port => station.2 = now,
            Some(station) if behind < SMALL.1 => *station = new,
            None if behind < SMALL.1 && room => self.stations.push(new),
            _ => {}
        }
        if !self.stations.is_empty() {
            self.sweep = self.sweep.or(Some(now + Duration::from_secs(1)));
        }
    }

    /// The ports that the frame goes to.
    fn forward(&mut self, from: PortId, frame: &[u8], now: Instant) -> Vec<PortId> {
        let header = self.ports.iter().any(|(p, _)| *p == from) && frame.len() >= 14;
        if !header || frame[6] & 1 == 1 {
            return vec![];
        }
        let destination = MacAddr(frame[..6].try_into().expect("six"));
        let source = MacAddr(frame[6..12].try_into().expect("six"));
        self.learn(source, from, now);
        let known = self
            .stations
            .iter()
            .find(|(m, _, heard, _)| *m == destination && now - *heard < AGEING);
        if let Some((_, port, ..)) = known {
            return vec![*port].into_iter().filter(|p| *p != from).collect();
        }
        let own = self
            .stations
            .iter_mut()
            .find(|(m, p, ..)| *m == source && *p == from);
        let paid = own.is_none_or(|(.., purse)| purse.pay(OF_SOURCE, now));
        let port = self.ports.iter_mut().find(|(p, _)| *p == from);
        if !paid || !port.is_some_and(|(_, purse)| purse.pay(OF_PORT, now)) {
            return vec![];
        }
        let mut others: Vec<PortId> = self.ports.iter().map(|(p, _)| *p).collect();
        others.retain(|p| *p != from);
        others.sort_unstable();
        others
    }

    fn rows(&self, now: Instant) -> Vec<Row> {
        let young = self.stations.iter().filter(|(.., h, _)| now - *h < AGEING);
        let mut rows: Vec<Row> = young
            .map(|(mac, port, heard, _)| Row {
                mac: *mac,
                port: *port,
                age: now - *heard,
            })
            .collect();
        rows.sort_unstable();
        rows
    }
}

proptest! {
    #[test]
    fn the_switch_does_what_the_naive_one_does(acts in prop::collection::vec(act(), 1..200), seed: u64) {
        let mut now = Instant::now();
        let mut switch = Switch::new(small(), &mut StdRng::seed_from_u64(seed));
        let mut naive = Naive { ports: vec![], stations: vec![], sweep: None };
        for port in [A, B, C] {
            switch.add_port(port, now);
            naive.add(port, now);
        }
        for act in acts {
            match act {
                Act::Add(port) => {
                    switch.add_port(port, now);
                    naive.add(port, now);
                }
                Act::Remove(port) => {
                    switch.remove_port(port);
                    naive.remove(port);
                }
                Act::Wait(time) => {
                    now += time;
                    switch.handle_timeout(now);
                    naive.timeout(now);
                }
                Act::Frame { from, destination, source, length } => {
                    let mut frame = frame(any_mac(destination), any_mac(source));
                    frame.truncate(length);
                    let to = match switch.forward(from, &frame, now) {
                        Forwarding::To(port) => vec![port],
                        Forwarding::Flood => switch.flood_ports(from).collect(),
                        Forwarding::Filtered(_) => vec![],
                    };
                    prop_assert!(!to.contains(&from), "back to where it came from");
                    prop_assert_eq!(to, naive.forward(from, &frame, now));
                }
            }
            prop_assert_eq!(switch.table(now), naive.rows(now));
            prop_assert_eq!(switch.poll_timeout(), naive.sweep);
        }
    }

    #[test]
    fn any_bytes_from_any_port_are_forwarded_or_filtered(frames in prop::collection::vec((0u32..5, any::<Vec<u8>>()), 0..50)) {
        let now = Instant::now();
        let mut switch = switch(Config::default(), now);
        let count = frames.len();
        for (from, frame) in frames {
            let _ = switch.forward(PortId(from), &frame, now);
        }
        let c = *switch.counters();
        let told = c.forwarded + c.flooded + c.filtered_unknown_port + c.filtered_short
            + c.filtered_group_source + c.filtered_same_port + c.filtered_storm;
        prop_assert_eq!(told, count as u64);
    }
}
