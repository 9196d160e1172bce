//! What a file must fulfil beyond its grammar: NATs that do not contradict themselves, names that exist and are used once,
//! events that say all they need. Each mistake is told with its place.

use std::collections::BTreeMap;
use std::fmt;

use super::{Mistake, Step, key};
use crate::nat::{NatConfig, NatConfigError};
use crate::scenario::stage::Stage;
use crate::scenario::{EventSpec, INTERNET, Scenario, Verb};

pub(super) fn check(scenario: &Scenario) -> Result<(), Mistake> {
    check_nats(scenario)?;
    let places = check_names(scenario)?;
    for (index, event) in scenario.event.iter().enumerate() {
        check_event(
            event,
            &places,
            scenario,
            &[key("event"), Step::Index(index)],
        )?;
    }
    check_expectations(scenario, &places)?;
    // What only building shows: addresses that are taken, NATs without one.
    Stage::build(scenario, scenario.seed)
        .map(drop)
        .map_err(|(path, error)| Mistake::new(&path_of(&path), error))
}

/// `router[2]` as steps.
fn path_of(path: &(&'static str, usize, &'static str)) -> Vec<Step> {
    vec![key(path.0), Step::Index(path.1), key(path.2)]
}

/// What a name stands for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum What {
    Internet,
    Router,
    Host,
}

type Places<'a> = BTreeMap<&'a str, What>;

fn check_nats(scenario: &Scenario) -> Result<(), Mistake> {
    for (name, nat) in &scenario.nats {
        check_nat(nat, &[key("nats"), key(name)])?;
    }
    for (index, router) in scenario.router.iter().enumerate() {
        for (field, nat) in [("nat", &router.nat), ("ipv6", &router.ipv6)] {
            check_nat(nat, &[key("router"), Step::Index(index), key(field)])?;
        }
    }
    for (index, event) in scenario.event.iter().enumerate() {
        if let Some(nat) = &event.nat {
            check_nat(nat, &[key("event"), Step::Index(index), key("nat")])?;
        }
    }
    Ok(())
}

fn check_nat(nat: &NatConfig, path: &[Step]) -> Result<(), Mistake> {
    nat.validate().map_err(|error: NatConfigError| {
        let option = error.option().iter().map(|name| key(name));
        let path: Vec<Step> = path.iter().cloned().chain(option).collect();
        Mistake::new(&path, error)
    })
}

/// Each name once, and what something is on must stand before it.
fn check_names(scenario: &Scenario) -> Result<Places<'_>, Mistake> {
    let mut places = Places::from([(INTERNET, What::Internet)]);
    for (index, router) in scenario.router.iter().enumerate() {
        let path = [key("router"), Step::Index(index)];
        check_on(&router.on, &places, &path)?;
        add(&mut places, &router.name, What::Router, &path)?;
    }
    for (index, host) in scenario.host.iter().enumerate() {
        let path = [key("host"), Step::Index(index)];
        check_on(&host.on, &places, &path)?;
        for (number, also) in host.also.iter().enumerate() {
            let path = [&path[..], &[key("also"), Step::Index(number)]].concat();
            check_on(&also.on, &places, &path)?;
        }
        add(&mut places, &host.name, What::Host, &path)?;
    }
    Ok(places)
}

fn add<'a>(
    places: &mut Places<'a>,
    name: &'a str,
    what: What,
    path: &[Step],
) -> Result<(), Mistake> {
    let path = [path, &[key("name")]].concat();
    if name.is_empty() {
        return Err(Mistake::new(&path, "a name must not be empty"));
    }
    match places.insert(name, what) {
        None => Ok(()),
        Some(_) => Err(Mistake::new(
            &path,
            format!("there are two of the name `{name}`"),
        )),
    }
}

fn check_on(on: &str, places: &Places<'_>, path: &[Step]) -> Result<(), Mistake> {
    match places.get(on) {
        Some(What::Internet | What::Router) => Ok(()),
        Some(What::Host) | None => {
            let message =
                format!("there is no router `{on}` above, and it is not `{INTERNET}` either");
            Err(Mistake::new(&[path, &[key("on")]].concat(), message))
        }
    }
}

fn check_event(
    event: &EventSpec,
    places: &Places<'_>,
    scenario: &Scenario,
    path: &[Step],
) -> Result<(), Mistake> {
    let fail = |field: &str, message: &dyn fmt::Display| {
        Err(Mistake::new(&[path, &[key(field)]].concat(), message))
    };
    if event.at > scenario.duration {
        return fail("at", &"it would happen after the end (`duration`)");
    }
    for (field, name, what) in [
        ("router", &event.router, What::Router),
        ("host", &event.host, What::Host),
    ] {
        if let Some(name) = name
            && places.get(name.as_str()) != Some(&what)
        {
            return fail(field, &format!("there is no {field} `{name}`"));
        }
    }
    let of_router = event.router.is_some() && event.host.is_none();
    let of_host = event.host.is_some() && event.router.is_none();
    let (whom, fits) = match event.verb {
        Verb::Cut | Verb::Mend | Verb::Link => ("`router` or `host`", of_router || of_host),
        Verb::Reboot | Verb::Rebind | Verb::Nat | Verb::Rules | Verb::Renumber => {
            ("`router` and no `host`", of_router)
        }
        Verb::Move | Verb::Stop | Verb::Start | Verb::Sleep | Verb::Wake | Verb::Say => {
            ("`host` and no `router`", of_host)
        }
    };
    if !fits {
        return fail("do", &format!("this needs {whom}"));
    }
    let needs: &[(&str, bool)] = match event.verb {
        Verb::Link => &[("link", event.link.is_some())],
        Verb::Nat => &[("nat", event.nat.is_some())],
        Verb::Rules => &[("rules", event.rules.is_some())],
        Verb::Renumber => &[("addresses", event.addresses.is_some())],
        Verb::Move => &[
            ("addresses", event.addresses.is_some()),
            ("on", event.on.is_some()),
        ],
        Verb::Say => &[("text", event.text.is_some())],
        Verb::Cut
        | Verb::Mend
        | Verb::Reboot
        | Verb::Rebind
        | Verb::Stop
        | Verb::Start
        | Verb::Sleep
        | Verb::Wake => &[],
    };
    let missing = needs.iter().find(|(_, is_there)| !is_there);
    if let Some((missing, _)) = missing {
        return fail("do", &format!("this needs `{missing}`"));
    }
    event
        .on
        .as_ref()
        .map_or(Ok(()), |on| check_on(on, places, path))
}

fn check_expectations(scenario: &Scenario, places: &Places<'_>) -> Result<(), Mistake> {
    for (index, expectation) in scenario.expect.iter().enumerate() {
        let path = |field| vec![key("expect"), Step::Index(index), key(field)];
        for name in &expectation.between {
            if places.get(name.as_str()) != Some(&What::Host) {
                return Err(Mistake::new(
                    &path("between"),
                    format!("there is no host `{name}`"),
                ));
            }
        }
        if expectation.between[0] == expectation.between[1] {
            return Err(Mistake::new(&path("between"), "a host and itself"));
        }
        let end = expectation.within.map_or(expectation.after, |within| {
            expectation.after.saturating_add(within)
        });
        if end > scenario.duration {
            let field = if expectation.within.is_some() {
                "within"
            } else {
                "after"
            };
            return Err(Mistake::new(
                &path(field),
                "that is after the end (`duration`)",
            ));
        }
        if expectation.never && expectation.within.is_some() {
            let message = "`never` holds from `after` to the end; it has no `within`";
            return Err(Mistake::new(&path("never"), message));
        }
    }
    Ok(())
}
