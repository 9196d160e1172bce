//! The lightest cast: `reflector` and `puncher` of [`crate::toy`], so that a scenario can be tried without any product. The
//! two punchers of a file are each other's peers.

use std::net::{IpAddr, SocketAddr};
use std::time::Instant;

use super::play::{Cast, Part, Seen};
use crate::toy::{Program, Puncher, Reflector};

/// Roles: `rendezvous` or `reflector`; anything else is a puncher.
#[derive(Clone, Copy, Debug, Default)]
pub struct ToyCast;

impl Cast for ToyCast {
    type Program = Program;

    fn start(&mut self, part: &Part<'_>, now: Instant) -> Result<Program, String> {
        let own = |port| {
            let address = part.addresses.iter().find(|address| address.is_ipv4());
            let address = address.ok_or("the toy knows IPv4 alone")?;
            Ok::<_, String>(SocketAddr::new(*address, port))
        };
        if is_reflector(&part.host.role) {
            return Ok(Program::Reflector(Reflector::new(own(PORT)?)));
        }
        let reflector = part.all.iter().find(|host| is_reflector(&host.role));
        let server = reflector.and_then(|host| host.addresses.iter().find(|ip| ip.is_ipv4()));
        let server = SocketAddr::new(*server.ok_or("there is no reflector")?, PORT);
        let mut punchers = part.all.iter().filter(|host| !is_reflector(&host.role));
        let number = punchers.position(|host| host.name == part.host.name);
        let number = u8::try_from(number.unwrap_or(0)).unwrap_or(0);
        let puncher = Puncher::new(number, own(4000)?, server, now);
        Ok(Program::Puncher(puncher))
    }

    fn path(&self, program: &Program, _: &str) -> Option<Seen> {
        let heard = program.heard()?;
        let direct = program.is_direct();
        direct.then_some(Seen { direct, heard })
    }

    fn moved(&mut self, program: &mut Program, addresses: &[IpAddr], now: Instant) {
        if let Some(address) = addresses.iter().find(|address| address.is_ipv4()) {
            program.relocate(*address, now);
        }
    }
}

fn is_reflector(role: &str) -> bool {
    matches!(role, "rendezvous" | "reflector")
}

const PORT: u16 = 3478;
