//! How does a NAT choose outside ports? Told from what a few fresh sockets got, one right after the other.
//!
//! ```text
//!   inside  50123 50388 50017 50904
//!   outside 50123 50388 50017 50904   the same                       ─▶ preserving
//!   outside 20411 20413 20415 20419   a common step, near each other ─▶ sequential, step 2 (others use the NAT, too)
//!   outside 21007 20499 20760 20655   near each other, in no order   ─▶ block
//!   outside 61007 20499  9112 40655   anywhere                       ─▶ random
//! ```

use crate::wire::control::Allocation;

/// What one fresh socket got at its first destination.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sample {
    /// The inside port.
    pub local: u16,
    /// The outside port.
    pub mapped: u16,
}

/// The allocation that explains `samples`, which are in the order of sending; unknown with fewer than three.
#[must_use]
pub fn infer(samples: &[Sample]) -> Allocation {
    if samples.len() < 3 {
        return Allocation::Unknown;
    }
    let kept = samples.iter().filter(|it| it.local == it.mapped).count();
    if 2 * kept > samples.len() {
        return Allocation::Preserving;
    }
    let ports: Vec<u16> = samples.iter().map(|it| it.mapped).collect();
    if let Some(step) = common_step(&ports) {
        return Allocation::Sequential { step };
    }
    let (first, last) = (ports.iter().min(), ports.iter().max());
    match (first, last) {
        (Some(&first), Some(&last)) if last - first < MAX_BLOCK => {
            Allocation::Block { first, last }
        }
        _ => Allocation::Random,
    }
}

/// The step of a sequence of which some members may have gone to others.
fn common_step(ports: &[u16]) -> Option<u16> {
    let steps: Vec<i32> = ports
        .windows(2)
        .map(|pair| i32::from(pair[1].wrapping_sub(pair[0]).cast_signed()))
        .collect();
    let upwards = steps.iter().all(|&step| (1..=MAX_STEP).contains(&step));
    let downwards = steps.iter().all(|&step| (-MAX_STEP..=-1).contains(&step));
    if !upwards && !downwards {
        return None;
    }
    let step = steps
        .iter()
        .fold(0, |common, &step| gcd(common, step.abs()));
    let step = u16::try_from(step).ok()?;
    Some(if upwards { step } else { step.wrapping_neg() })
}

const fn gcd(a: i32, b: i32) -> i32 {
    if b == 0 { a } else { gcd(b, a % b) }
}

/// From one of our ports to the next, others' in between included.
const MAX_STEP: i32 = 128;
/// Blocks for one subscriber are not larger (RFC 7422 speaks of 512 to 4096 ports).
const MAX_BLOCK: u16 = 4096;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rand::rngs::StdRng;
    use rand::{RngExt, SeedableRng};

    use super::*;

    fn of(mapped: &[u16]) -> Allocation {
        let local = [50_123, 50_388, 50_017, 50_904, 50_222, 50_001];
        let samples: Vec<Sample> = mapped
            .iter()
            .zip(local)
            .map(|(&mapped, local)| Sample { local, mapped })
            .collect();
        infer(&samples)
    }

    #[test]
    fn the_known_kinds_are_told_apart() {
        assert_eq!(
            of(&[50_123, 50_388, 50_017, 50_904]),
            Allocation::Preserving
        );
        assert_eq!(
            of(&[50_123, 50_388, 9, 50_904]),
            Allocation::Preserving,
            "one was taken"
        );
        let step = |step: i16| Allocation::Sequential {
            step: step.cast_unsigned(),
        };
        assert_eq!(of(&[20_411, 20_412, 20_413, 20_414]), step(1));
        assert_eq!(of(&[20_411, 20_413, 20_415, 20_419]), step(2));
        assert_eq!(of(&[20_411, 20_408, 20_405, 20_399]), step(-3));
        assert_eq!(of(&[65_534, 65_535, 0, 1]), step(1), "around the end");
        assert_eq!(
            of(&[21_007, 20_499, 20_760, 20_655]),
            Allocation::Block {
                first: 20_499,
                last: 21_007
            }
        );
        assert_eq!(of(&[61_007, 20_499, 9112, 40_655]), Allocation::Random);
        assert_eq!(of(&[61_007, 20_499]), Allocation::Unknown);
    }

    #[test]
    fn random_ports_are_almost_never_taken_for_anything_else() {
        let mut rng = StdRng::seed_from_u64(1);
        let mistaken = (0..10_000)
            .filter(|_| {
                let ports: Vec<u16> = (0..6).map(|_| rng.random_range(1024..=65_535)).collect();
                of(&ports) != Allocation::Random
            })
            .count();
        assert!(mistaken <= 3, "{mistaken} of 10000");
    }

    proptest! {
        #[test]
        fn a_sequence_with_strangers_in_between_keeps_its_step(start: u16, step in 1u16..9, strangers in prop::collection::vec(0u16..4, 5)) {
            let mut ports = vec![start];
            for &others in &strangers {
                let last = ports[ports.len() - 1];
                ports.push(last.wrapping_add(step * (1 + others)));
            }
            let samples: Vec<Sample> = ports.iter().map(|&mapped| Sample { local: !mapped, mapped }).collect();
            // Where strangers took every second one all along, nobody can know.
            let found = infer(&samples);
            let told = matches!(found, Allocation::Sequential { step: found } if found % step == 0);
            prop_assert!(told, "{:?}", found);
        }
    }
}
