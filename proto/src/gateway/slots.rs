//! Places for things that sockets are named after: a place is used again, its turn never.

use super::sockets::SocketId;

/// The places.
#[derive(Debug)]
pub(super) struct Slots<T> {
    places: Vec<Slot<T>>,
    free: Vec<u32>,
}

#[derive(Debug)]
struct Slot<T> {
    turn: u32,
    thing: Option<T>,
}

impl<T> Slots<T> {
    pub(super) const fn new() -> Self {
        Self {
            places: Vec::new(),
            free: Vec::new(),
        }
    }

    /// The id that the next thing will have.
    pub(super) fn next_id(&mut self) -> SocketId {
        if let Some(&place) = self.free.last() {
            let turn = self.slot(place).map_or(0, |slot| slot.turn);
            return SocketId { place, turn };
        }
        let place = u32::try_from(self.places.len()).unwrap_or(u32::MAX);
        self.places.push(Slot {
            turn: 0,
            thing: None,
        });
        self.free.push(place);
        SocketId { place, turn: 0 }
    }

    /// Puts a thing where [`Self::next_id`] said.
    pub(super) fn put(&mut self, thing: T) -> SocketId {
        let id = self.next_id();
        self.free.pop();
        if let Some(slot) = self.slot_mut(id.place) {
            slot.thing = Some(thing);
        }
        id
    }

    pub(super) fn get(&self, id: SocketId) -> Option<&T> {
        let slot = self.slot(id.place).filter(|slot| slot.turn == id.turn)?;
        slot.thing.as_ref()
    }

    pub(super) fn get_mut(&mut self, id: SocketId) -> Option<&mut T> {
        let slot = self
            .slot_mut(id.place)
            .filter(|slot| slot.turn == id.turn)?;
        slot.thing.as_mut()
    }

    pub(super) fn remove(&mut self, id: SocketId) -> Option<T> {
        let slot = self
            .slot_mut(id.place)
            .filter(|slot| slot.turn == id.turn)?;
        let thing = slot.thing.take()?;
        slot.turn = slot.turn.wrapping_add(1);
        self.free.push(id.place);
        Some(thing)
    }

    /// All things, by place.
    pub(super) fn iter(&self) -> impl Iterator<Item = (SocketId, &T)> {
        self.places.iter().enumerate().filter_map(|(place, slot)| {
            let place = u32::try_from(place).ok()?;
            let id = SocketId {
                place,
                turn: slot.turn,
            };
            slot.thing.as_ref().map(|thing| (id, thing))
        })
    }

    fn slot(&self, place: u32) -> Option<&Slot<T>> {
        self.places.get(usize::try_from(place).ok()?)
    }

    fn slot_mut(&mut self, place: u32) -> Option<&mut Slot<T>> {
        self.places.get_mut(usize::try_from(place).ok()?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_used_again_and_its_old_name_is_nobodys() {
        let mut slots = Slots::new();
        let (first, second) = (slots.put('a'), slots.put('b'));
        assert_eq!(slots.remove(first), Some('a'));
        assert_eq!(slots.get(first), None);
        assert_eq!(slots.remove(first), None);
        let third = slots.put('c');
        assert_eq!(third.place, first.place);
        assert_ne!(third, first);
        let all: Vec<_> = slots.iter().collect();
        assert_eq!(all, [(third, &'c'), (second, &'b')]);
    }
}
