//! A scenario's topology as a network, with the names of its parts. Knows addresses, routers, links; no program.

use std::collections::BTreeMap;
use std::time::Instant;

use crate::link::{LinkConfig, Probability};
use crate::nat::NatConfigError;
use crate::network::{Access, HostId, Network, NetworkError, RouterConfig, RouterId, SegmentId};

use super::{EventSpec, INTERNET, Scenario, Verb};

/// A network with names.
#[derive(Debug)]
pub struct Stage {
    /// The network.
    pub network: Network,
    /// Its hosts.
    pub hosts: BTreeMap<String, HostId>,
    /// Its routers.
    pub routers: BTreeMap<String, RouterId>,
    places: Places,
}

/// Names and links of what stands on the stage.
#[derive(Debug)]
pub(super) struct Places {
    segments: BTreeMap<String, SegmentId>,
    links: BTreeMap<String, Access>,
}

/// What cannot be built, by its place in the file: list, index, field.
pub(super) type Fault = ((&'static str, usize, &'static str), NetworkError);

impl Stage {
    pub(super) fn build(scenario: &Scenario, seed: u64) -> Result<Self, Fault> {
        let mut stage = Self {
            network: Network::new(seed, Instant::now()),
            hosts: BTreeMap::new(),
            routers: BTreeMap::new(),
            places: Places {
                segments: BTreeMap::from([(INTERNET.to_owned(), Network::INTERNET)]),
                links: BTreeMap::new(),
            },
        };
        for (index, router) in scenario.router.iter().enumerate() {
            let config = RouterConfig {
                outside: router.outside.clone(),
                inside: router.inside.clone(),
                nat: router.nat.clone(),
                ipv6: router.ipv6.clone(),
                rules: router.rules.clone(),
                access: router.link.clone(),
            };
            let outside = stage.places.segment(&router.on);
            let added = stage.network.add_router(outside, config);
            let (id, inside) = added.map_err(|error| (("router", index, "outside"), error))?;
            stage.routers.insert(router.name.clone(), id);
            stage.places.segments.insert(router.name.clone(), inside);
            stage.places.note(&router.name, &router.link);
        }
        for (index, host) in scenario.host.iter().enumerate() {
            let id = stage.network.add_host();
            stage.hosts.insert(host.name.clone(), id);
            stage.places.note(&host.name, &host.link);
            let first = (&host.on, &host.addresses, &host.link);
            let also = host.also.iter();
            let also = also.map(|also| (&also.on, &also.addresses, &also.link));
            for (on, addresses, link) in std::iter::once(first).chain(also) {
                let segment = stage.places.segment(on);
                let attached = stage.network.attach(id, segment, addresses, link.clone());
                attached.map_err(|error| (("host", index, "addresses"), error))?;
            }
        }
        Ok(stage)
    }

    pub(super) fn split(
        self,
    ) -> (
        Network,
        BTreeMap<String, HostId>,
        BTreeMap<String, RouterId>,
        Places,
    ) {
        (self.network, self.hosts, self.routers, self.places)
    }
}

impl Scenario {
    /// The network of this scenario, for who brings programs of another kind.
    ///
    /// # Errors
    /// An address is taken twice, or a NAT is impossible; a parsed scenario has neither.
    pub fn stage(&self, seed: u64) -> Result<Stage, NetworkError> {
        Stage::build(self, seed).map_err(|(_, error)| error)
    }
}

impl Places {
    fn segment(&self, name: &str) -> SegmentId {
        let known = self.segments.get(name);
        known.copied().unwrap_or(Network::INTERNET)
    }

    fn note(&mut self, name: &str, link: &Access) {
        self.links.insert(name.to_owned(), link.clone());
    }

    /// Does to the network what an event says; what concerns programs is not its affair.
    pub(super) fn apply(
        &mut self,
        event: &EventSpec,
        network: &mut Network,
        host: Option<HostId>,
        router: Option<RouterId>,
        now: Instant,
    ) -> Result<(), NetworkError> {
        let name = event.host.as_ref().or(event.router.as_ref());
        let usual = || name.and_then(|name| self.links.get(name)).cloned();
        match event.verb {
            Verb::Cut => set_link(network, host, router, &dead()),
            Verb::Mend => set_link(network, host, router, &usual().unwrap_or_default()),
            Verb::Link => {
                let link = event.link.clone().unwrap_or_default();
                set_link(network, host, router, &link);
                if let Some(name) = name {
                    self.note(name, &link);
                }
            }
            Verb::Move => return self.relocate(event, network, host),
            Verb::Rules => {
                if let (Some(router), Some(rules)) = (router, event.rules.clone()) {
                    network.set_rules(router, rules);
                }
            }
            Verb::Renumber => {
                if let (Some(router), Some(addresses)) = (router, &event.addresses) {
                    return network.renumber(router, addresses);
                }
            }
            Verb::Reboot | Verb::Rebind | Verb::Nat => {
                return Ok(change_nat(event, network, router, now)?);
            }
            Verb::Stop | Verb::Start | Verb::Sleep | Verb::Wake | Verb::Say => {}
        }
        Ok(())
    }

    fn relocate(
        &mut self,
        event: &EventSpec,
        network: &mut Network,
        host: Option<HostId>,
    ) -> Result<(), NetworkError> {
        let (Some(host), Some(addresses)) = (host, &event.addresses) else {
            return Ok(());
        };
        let name = event.host.as_deref().unwrap_or_default();
        if let Some(link) = &event.link {
            self.note(name, link);
        }
        let link = self.links.get(name).cloned().unwrap_or_default();
        network.detach(host);
        let segment = self.segment(event.on.as_deref().unwrap_or(INTERNET));
        network.attach(host, segment, addresses, link)
    }
}

fn change_nat(
    event: &EventSpec,
    network: &mut Network,
    router: Option<RouterId>,
    now: Instant,
) -> Result<(), NatConfigError> {
    let seed = network.fresh_seed();
    let Some(nat) = router.and_then(|router| network.nat_mut(router)) else {
        return Ok(());
    };
    match (event.verb, &event.nat) {
        (Verb::Reboot, _) => nat.reboot(),
        (Verb::Rebind, _) => nat.rebind(now),
        (_, Some(config)) => nat.replace(config.clone(), seed)?,
        (_, None) => {}
    }
    Ok(())
}

fn set_link(network: &mut Network, host: Option<HostId>, router: Option<RouterId>, link: &Access) {
    if let Some(host) = host {
        network.set_host_access(host, link);
    }
    if let Some(router) = router {
        network.set_access(router, link.clone());
    }
}

/// A link that loses everything.
fn dead() -> Access {
    Access::symmetric(LinkConfig {
        loss: Probability::ALWAYS,
        ..LinkConfig::default()
    })
}
