//! Why is this link not direct? What became of each candidate, and one sentence for people.

use std::net::SocketAddr;
use std::time::Instant;

use serde::Serialize;

use super::{Paths, candidate};
use crate::traversal::plan::{Plan, is_hard};
use crate::wire::control::{Allocation, Candidate, CandidateKind, NatClass};

/// What became of one address of the other side.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct CandidateFate {
    /// How it was learnt.
    pub kind: CandidateKind,
    /// The address.
    pub address: SocketAddr,
    /// What became of it.
    pub fate: Fate,
    /// Checks sent to it since the last list came.
    pub checks: u32,
    /// The round trip in milliseconds, when it answers.
    pub rtt_ms: Option<f64>,
}

/// What became of an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Fate {
    /// It leads to no peer, or back to ourselves: it is not tried.
    Useless,
    /// It is tried now.
    Checking,
    /// It has not answered.
    Silent,
    /// It answers.
    Answers,
    /// Frames go there.
    InUse,
}

impl Paths {
    /// What became of the other side's candidates, and of addresses learnt from its checks.
    #[must_use]
    pub fn candidate_fates(&self, now: Instant) -> Vec<CandidateFate> {
        let listed = self.listed.iter().map(|it| (it.kind, it.address));
        let is_listed = |address| self.listed.iter().any(|it| it.address == address);
        let pairs = self.checklist.pairs.iter();
        let learnt = pairs
            .map(|((_, address), pair)| (pair.kind, *address))
            .filter(|(_, address)| !is_listed(*address));
        listed
            .chain(learnt)
            .map(|(kind, address)| self.fate(kind, address, now))
            .collect()
    }

    /// One sentence; `None` while the link is direct.
    #[must_use]
    pub fn why_not_direct(&self) -> Option<String> {
        if self.active.is_some() {
            return None;
        }
        if self.counters.rounds == 0 {
            return Some("the two sides have not told each other their addresses yet".to_owned());
        }
        let (ours, theirs) = (self.class, self.remote_class());
        let useful = candidate::filter(&self.listed, &self.local, &self.config.refused).len();
        if useful == 0 {
            return Some(format!(
                "none of the {} addresses that the other side names can lead to it from here",
                self.listed.len()
            ));
        }
        let counters = self.search_counters();
        let hard = match (is_hard(ours), is_hard(theirs)) {
            (true, true) => "both NATs give",
            (true, false) => "our NAT gives",
            (false, true) => "the other side's NAT gives",
            (false, false) => "a NAT may give",
        };
        let hard = format!("{hard} another port for each peer");
        Some(match self.plan() {
            _ if self.is_searching() => format!("{hard}; it is being searched for now"),
            Plan::Hopeless => format!(
                "{hard}, which cannot be foretold ({}, {}); a port mapping (PCP, UPnP) or IPv6 on one side would do",
                describe("ours", ours),
                describe("theirs", theirs)
            ),
            Plan::Plain if self.checklist.is_checking() => {
                format!("{useful} addresses of the other side are being tried")
            }
            Plan::Plain => format!(
                "none of {useful} addresses of the other side has answered; a firewall on one of the sides may drop UDP"
            ),
            Plan::Spread(_) | Plan::Pairs(_) | Plan::Ladder if counters.searches == 0 => {
                format!("{hard}, and it has not been searched for yet")
            }
            Plan::Spread(_) | Plan::Pairs(_) | Plan::Ladder => format!(
                "{hard}; {} searches with {} probes have not found it, and more will follow",
                counters.searches, counters.probes
            ),
        })
    }

    fn fate(&self, kind: CandidateKind, address: SocketAddr, now: Instant) -> CandidateFate {
        let pairs = self.checklist.pairs.iter();
        let mut fate = CandidateFate {
            kind,
            address,
            fate: Fate::Silent,
            checks: 0,
            rtt_ms: None,
        };
        let mut known = false;
        for ((socket, _), pair) in pairs.filter(|((_, remote), _)| *remote == address) {
            known = true;
            fate.checks += pair.checks;
            let in_use = self
                .active
                .as_ref()
                .is_some_and(|active| active.id == (*socket, address));
            if let Some(valid) = &pair.valid {
                fate.rtt_ms = Some(valid.smoothed_rtt.as_secs_f64() * 1e3);
                fate.fate = if in_use { Fate::InUse } else { Fate::Answers };
            } else if fate.rtt_ms.is_none() && pair.is_waited_for(now) {
                fate.fate = Fate::Checking;
            }
            if in_use {
                break;
            }
        }
        let candidate = [Candidate { kind, address }];
        if !known && candidate::filter(&candidate, &self.local, &self.config.refused).is_empty() {
            fate.fate = Fate::Useless;
        }
        fate
    }
}

fn describe(whose: &str, class: NatClass) -> String {
    let ports = match class.allocation {
        Allocation::Unknown => "chosen in an unknown way",
        Allocation::Preserving => "kept",
        Allocation::Sequential { .. } => "one after the other",
        Allocation::Block { .. } => "of a block",
        Allocation::Random => "at random",
    };
    format!("{whose} {ports}")
}
