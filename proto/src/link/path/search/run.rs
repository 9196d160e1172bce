//! One attempt: its sockets, what it sends when, and what has been sent.

use super::*;

/// Something to send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Shot {
    /// A question to the STUN server, by number.
    Ask(usize),
    /// Opens our NAT.
    Opener(SocketId, SocketAddr, Option<u8>),
    /// Tries a port.
    Probe(SocketId, SocketAddr),
    /// Aims all sockets anew.
    Retarget,
}

/// One attempt at work.
#[derive(Debug)]
pub(super) struct Run {
    pub(super) task: Task,
    pub(super) attempt: u32,
    pub(super) sockets: Vec<(SocketId, u16)>,
    pub(super) address: Option<IpAddr>,
    pub(super) budget: Budget,
    pub(super) entries: u32,
    pub(super) entries_left: u32,
    pub(super) ends: Instant,
    pub(super) set_off_at: Instant,
    /// Whether the other end has been told what it needs.
    pub(super) told: bool,
    pub(super) retarget_to: Option<SocketAddr>,
    /// Checks that can still be answered.
    pub(super) checks: BTreeMap<Transaction, (SocketId, SocketAddr, Instant)>,
    shots: BTreeMap<(Instant, u64), Shot>,
    count: u64,
    server: Option<SocketAddr>,
    questions: Vec<Question>,
}

/// A question for the outside port of a socket.
#[derive(Debug)]
struct Question {
    socket: SocketId,
    asked: Vec<Transaction>,
    answer: Option<SocketAddr>,
}

impl Run {
    pub(super) fn new(task: Task, grant: Grant, now: Instant) -> Self {
        let blind = matches!(
            task,
            Task::Open { blind: true } | Task::Send { blind: true, .. }
        );
        let most = if blind { grant.budget.blind } else { u32::MAX };
        let entries_left = grant.entries.min(most);
        Self {
            task,
            attempt: 0,
            sockets: grant.sockets,
            address: grant.address,
            budget: grant.budget,
            entries: 0,
            entries_left,
            ends: now + LONGEST,
            set_off_at: now,
            told: false,
            retarget_to: None,
            checks: BTreeMap::new(),
            shots: BTreeMap::new(),
            count: 0,
            server: grant.server,
            questions: Vec::new(),
        }
    }

    pub(super) const fn is_spread(&self) -> bool {
        matches!(self.task, Task::Open { .. })
    }

    pub(super) fn owns(&self, socket: SocketId) -> bool {
        self.sockets.iter().any(|&(id, _)| id == socket)
    }

    // ---- what is to be sent

    /// The `k`-th socket opens our NAT towards the `k`-th address; bracketed, the first and the last socket ask the server.
    pub(super) fn open(
        &mut self,
        towards: &[SocketAddr],
        bracketed: bool,
        ttl: Option<u8>,
        now: Instant,
    ) {
        let sockets: Vec<SocketId> = self.sockets.iter().map(|&(id, _)| id).collect();
        self.questions.clear();
        let openers = match (bracketed, sockets.as_slice()) {
            (true, [first, openers @ .., last]) => {
                for &socket in [first, last] {
                    self.questions.push(Question {
                        socket,
                        asked: Vec::new(),
                        answer: None,
                    });
                }
                openers
            }
            (_, all) => all,
        };
        if bracketed {
            self.push(now, Shot::Ask(0));
        }
        for (&socket, &to) in openers.iter().zip(towards) {
            self.push(now, Shot::Opener(socket, to, ttl));
        }
        if bracketed {
            self.push(now, Shot::Ask(1));
        }
    }

    /// Sends to the ports that the other end has told.
    pub(super) fn send(
        &mut self,
        address: IpAddr,
        ports: &Ports,
        known: u16,
        rng: &mut StdRng,
        now: Instant,
    ) {
        self.shots.clear();
        let main = SocketId::MAIN;
        match ports {
            Ports::Listed(ports) => {
                for &port in ports.iter().take(MAX_LISTED_PORTS) {
                    self.probe_often(main, SocketAddr::new(address, port), now);
                }
                self.ends = now + LISTED_TIME;
            }
            Ports::Within { first, last } => {
                let most = self.entries_left.saturating_sub(self.entries);
                let order = order((*first, *last), known, most, rng);
                let pause = Duration::from_secs(1) / self.budget.packets_per_second.max(1);
                let mut at = now;
                for port in order {
                    self.push(at, Shot::Probe(main, SocketAddr::new(address, port)));
                    at += pause;
                }
                self.ends = (at + LAST_ANSWER).min(now + LONGEST);
            }
        }
    }

    /// A port that is known: sent to again as long as an answer may have been lost.
    pub(super) fn probe_often(&mut self, socket: SocketId, to: SocketAddr, now: Instant) {
        if to.port() == 0 {
            return;
        }
        for wait in REPEATS {
            self.push(now + wait, Shot::Probe(socket, to));
        }
    }

    /// Asks for the outside port of a fresh socket.
    pub(super) fn sample(&mut self, now: Instant) {
        let Some(&(socket, _)) = self.sockets.first() else {
            return;
        };
        self.questions = vec![Question {
            socket,
            asked: Vec::new(),
            answer: None,
        }];
        self.told = false;
        self.push(now, Shot::Ask(0));
    }

    /// Sends along the other end's next ports, all at one moment.
    pub(super) fn climb(&mut self, (address, next, step): (IpAddr, u16, u16), at: Instant) {
        let Some(&(socket, _)) = self.sockets.first() else {
            return;
        };
        let mut port = next;
        for _ in 0..RUNGS {
            if port != 0 {
                self.push(at, Shot::Probe(socket, SocketAddr::new(address, port)));
            }
            port = port.wrapping_add(step);
        }
    }

    /// All sockets will be aimed at `to`, unless there is a path by then.
    pub(super) fn retarget(&mut self, to: SocketAddr, at: Instant) {
        if self.retarget_to.is_none() && !self.sent_to(to) {
            self.retarget_to = Some(to);
            self.push(at, Shot::Retarget);
        }
    }

    pub(super) fn sent_to(&self, address: SocketAddr) -> bool {
        self.checks.values().any(|(_, to, _)| *to == address)
    }

    fn push(&mut self, at: Instant, shot: Shot) {
        self.count += 1;
        self.shots.insert((at, self.count), shot);
    }

    // ---- as it is sent

    pub(super) fn next_shot(&self) -> Option<(Instant, Shot)> {
        let ((at, _), shot) = self.shots.first_key_value()?;
        Some((*at, *shot))
    }

    pub(super) fn take_shot(&mut self) {
        self.shots.pop_first();
    }

    /// The first shot waits, and so do those behind it that would pass it.
    pub(super) fn put_off(&mut self, at: Instant) {
        let early: Vec<_> = self.shots.range(..(at, 0)).map(|(key, _)| *key).collect();
        for key in early {
            if let Some(shot) = self.shots.remove(&key) {
                self.shots.insert((at, key.1), shot);
            }
        }
    }

    /// The entries are used up: only answers are waited for.
    pub(super) fn give_up_shots(&mut self) {
        self.shots.clear();
    }

    pub(super) fn sent(
        &mut self,
        transaction: Transaction,
        socket: SocketId,
        to: SocketAddr,
        now: Instant,
    ) {
        // A repetition makes no entry; but what a peer makes us repeat must end, too.
        self.entries += 1;
        self.checks.insert(transaction, (socket, to, now));
    }

    pub(super) fn ask(
        &mut self,
        number: usize,
        transaction: Transaction,
        now: Instant,
    ) -> Option<(SocketId, SocketAddr)> {
        let server = self.server?;
        let question = self.questions.get_mut(number)?;
        if question.answer.is_some() {
            return None;
        }
        question.asked.push(transaction);
        let (socket, asked) = (question.socket, question.asked.len());
        if asked < ASKED_MOST {
            self.push(now + ASK_AGAIN, Shot::Ask(number));
        }
        Some((socket, server))
    }

    // ---- what came of it

    pub(super) fn asks(&self, transaction: Transaction) -> bool {
        let mut questions = self.questions.iter();
        questions.any(|question| question.asked.contains(&transaction))
    }

    pub(super) fn handle_answer(
        &mut self,
        transaction: Transaction,
        mapped: Option<SocketAddr>,
    ) -> bool {
        let mut questions = self.questions.iter_mut();
        let Some(question) = questions.find(|question| question.asked.contains(&transaction))
        else {
            return false;
        };
        question.answer = question.answer.or(mapped);
        true
    }

    pub(super) fn sampled(&self) -> Option<SocketAddr> {
        self.questions.first()?.answer
    }

    /// The ports between the two brackets; `None` until both are known.
    pub(super) fn bracketed(&self, step: u16) -> Option<Vec<u16>> {
        let [first, last] = self.questions.as_slice() else {
            return None;
        };
        let (first, last) = (first.answer?.port(), last.answer?.port());
        let mut ports = Vec::new();
        let mut port = first.wrapping_add(step);
        while port != last && ports.len() < MAX_LISTED_PORTS {
            ports.push(port);
            port = port.wrapping_add(step);
        }
        Some(ports)
    }
}

/// In which order the ports of a range are tried: at random, those in the range first, then away from it on both sides where
/// it is the range of a block of which only some ports were seen.
fn order((first, last): (u16, u16), known: u16, most: u32, rng: &mut StdRng) -> Vec<u16> {
    let most = usize::try_from(most).unwrap_or(usize::MAX);
    let (first, last) = (first.max(1), last.max(first.max(1)));
    if usize::from(last - first) > WIDE {
        let mut drawn = BTreeSet::new();
        let mut order = Vec::new();
        while order.len() < most.min(usize::from(last - first)) {
            let port = rng.random_range(first..=last);
            if port != known && drawn.insert(port) {
                order.push(port);
            }
        }
        return order;
    }
    let mut inside: Vec<u16> = (first..=last).collect();
    inside.shuffle(rng);
    let margin = (last - first) / 2 + 64;
    let below = (first.saturating_sub(margin).max(1)..first).rev();
    let above = last.saturating_add(1)..=last.saturating_add(margin);
    let outside = below.zip(above).flat_map(|(below, above)| [below, above]);
    inside.extend(outside);
    inside.truncate(most);
    inside
}

/// A range this wide has no order in which ports are tried but chance.
const WIDE: usize = 8192;
/// When a known port is sent to.
const REPEATS: [Duration; 3] = [
    Duration::ZERO,
    Duration::from_millis(200),
    Duration::from_millis(600),
];
/// After the last probe.
const LAST_ANSWER: Duration = Duration::from_secs(1);
/// From one question to the next, and how many.
const ASK_AGAIN: Duration = Duration::from_millis(250);
const ASKED_MOST: usize = 3;
