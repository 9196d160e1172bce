//! What somebody who listens on the public side learns: how much there is, between whom, and whether any of it can be
//! read. Looks at payloads alone; knows no key and none of our formats.

use std::collections::BTreeMap;
use std::net::IpAddr;

use serde::Serialize;

/// The listener's notes.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub(super) struct Notes {
    /// Packets seen.
    pub(super) packets: u64,
    /// Bytes of payload in them.
    pub(super) bytes: u64,
    /// Packets by pair of addresses.
    pub(super) pairs: BTreeMap<Pair, u64>,
    /// How often the known text was found.
    pub(super) found: u64,
    /// The longest run of readable characters.
    pub(super) longest_run: String,
}

impl Notes {
    /// One packet more.
    pub(super) fn take(&mut self, source: IpAddr, destination: IpAddr, payload: &[u8]) {
        self.packets += 1;
        self.bytes += payload.len() as u64;
        let pair = Pair(source.min(destination), source.max(destination));
        *self.pairs.entry(pair).or_default() += 1;
        for run in payload.split(|byte| !is_readable(*byte)) {
            self.take_run(run);
        }
    }

    fn take_run(&mut self, run: &[u8]) {
        let needle = &super::transfer::MARKER.as_bytes()[..NEEDLE];
        self.found += run.windows(NEEDLE).filter(|part| *part == needle).count() as u64;
        if run.len() > self.longest_run.len() {
            self.longest_run = String::from_utf8_lossy(run).into_owned();
        }
    }

    /// The longest run of readable characters that as many random bytes have on average: chance looks like that.
    pub(super) fn run_by_chance(&self) -> f64 {
        let readable = f64::from(READABLE) / 256.0;
        let bytes = u32::try_from(self.bytes)
            .map_or(f64::MAX, f64::from)
            .max(1.0);
        ((bytes * (1.0 - readable)).ln() / (1.0 / readable).ln()).max(0.0)
    }
}

/// Two addresses, the smaller one first; as text `A - B`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Pair(IpAddr, IpAddr);

impl Pair {
    /// Whether one of them counts only inside a LAN (RFC 1918).
    pub(super) fn is_private(&self) -> bool {
        let private = |address: &IpAddr| match address {
            IpAddr::V4(v4) => v4.is_private(),
            IpAddr::V6(v6) => v6.is_unique_local(),
        };
        private(&self.0) || private(&self.1)
    }

    /// Both, marked when [`Self::is_private`].
    pub(super) fn text(&self) -> String {
        let mark = if self.is_private() { " *" } else { "" };
        format!("{} - {}{mark}", self.0, self.1)
    }
}

impl Serialize for Pair {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&format_args!("{} - {}", self.0, self.1))
    }
}

const fn is_readable(byte: u8) -> bool {
    matches!(byte, b' '..=b'~')
}

/// How many of the 256 bytes are readable.
const READABLE: u8 = b'~' - b' ' + 1;
/// As much of the known text is taken for found: a fragment of it suffices.
const NEEDLE: usize = 16;

#[cfg(test)]
mod tests {
    use rand::rngs::StdRng;
    use rand::{RngExt, SeedableRng};

    use super::super::transfer::MARKER;
    use super::*;

    const A: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 1));
    const B: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 2));

    #[test]
    fn plain_text_is_found_wherever_it_stands() {
        let mut notes = Notes::default();
        let text = format!("\x01\x02..{MARKER}\n{MARKER}");
        notes.take(A, B, text.as_bytes());
        assert_eq!(notes.found, 2);
        assert_eq!(notes.longest_run, format!("..{MARKER}"));
    }

    #[test]
    fn random_bytes_have_only_the_runs_that_chance_gives() {
        let mut rng = StdRng::seed_from_u64(1);
        let mut notes = Notes::default();
        for _ in 0..1000 {
            let payload: [u8; 1000] = rng.random();
            notes.take(A, B, &payload);
        }
        assert_eq!(notes.found, 0);
        let run = u32::try_from(notes.longest_run.len()).map_or(f64::MAX, f64::from);
        assert!((run - notes.run_by_chance()).abs() < 6.0, "{notes:?}");
    }

    #[test]
    fn both_directions_are_one_pair() {
        let mut notes = Notes::default();
        notes.take(A, B, b"");
        notes.take(B, A, b"");
        assert_eq!(notes.pairs, BTreeMap::from([(Pair(A, B), 2)]));
        assert_eq!(Pair(A, B).text(), "192.0.2.1 - 192.0.2.2");
        let json = serde_json::to_value(&notes).expect("an object");
        assert_eq!(json["pairs"]["192.0.2.1 - 192.0.2.2"], 2);
    }

    #[test]
    fn addresses_of_a_lan_are_marked() {
        let lan = Pair([192, 168, 7, 10].into(), B);
        assert!(lan.text().ends_with(" *") && !Pair(A, B).is_private());
    }
}
