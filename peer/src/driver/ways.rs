//! What the loop does with the ways to the rendezvous.

use std::time::Instant;

use kuguri_proto::node::Event;

use super::{Driver, End, Observe};
use crate::output::Saying;
use crate::ways::{News, Told};

impl<O: Observe> Driver<O> {
    pub(super) fn take_way(&mut self, told: Told) {
        if let Some(news) = self.parts.ways.take(told, Instant::now()) {
            self.say_way(news);
        }
    }

    pub(super) fn turn_ways(&mut self, now: Instant) {
        if matches!(self.end, End::Running) {
            for news in self.parts.ways.turn(&mut self.node, now) {
                self.say_way(news);
            }
        }
    }

    fn say_way(&mut self, news: News) {
        match news {
            News::Taken(way) => self.say(&Saying::Way(&way)),
            News::Problem(reason) => {
                let fatal = false;
                self.say(&Saying::Node(&Event::RendezvousFailed { reason, fatal }));
            }
        }
    }
}
