//! Lines for stdout and stderr that never make the rendezvous wait: whoever does not read them misses some, and peers are served.
//!
//! A thread of its own writes them; what does not fit into its queue is dropped.

use std::io::{self, ErrorKind, Write};
use std::sync::mpsc::{Receiver, Sender, SyncSender, channel, sync_channel};
use std::sync::{Arc, OnceLock};
use std::thread;
use std::time::Duration;

/// The near end of a queue of lines.
#[derive(Clone)]
pub(crate) struct Lines {
    queue: SyncSender<Piece>,
    failure: Arc<OnceLock<io::Error>>,
}

enum Piece {
    Bytes(Vec<u8>),
    /// Everything before it is written: say so.
    Mark(Sender<()>),
}

impl Lines {
    /// Lines that go to `sink`.
    pub(crate) fn to(sink: impl Write + Send + 'static) -> io::Result<Self> {
        let (queue, pieces) = sync_channel(QUEUE);
        let failure = Arc::default();
        thread::Builder::new().name("lines".into()).spawn({
            let failure = Arc::clone(&failure);
            move || write_all(&pieces, sink, &failure)
        })?;
        Ok(Self { queue, failure })
    }

    /// Queues a line, or drops it.
    pub(crate) fn say(&self, mut line: String) {
        line.push('\n');
        let _ = self.queue.try_send(Piece::Bytes(line.into_bytes()));
    }

    /// Why something could not be written; that a reader went away is no reason.
    pub(crate) fn failure(&self) -> Option<&io::Error> {
        self.failure.get()
    }

    /// Waits until what was queued is written, but not for somebody who does not read.
    pub(crate) fn settle(&self) {
        let (done, settled) = channel();
        if self.queue.try_send(Piece::Mark(done)).is_ok() {
            let _ = settled.recv_timeout(PATIENCE);
        }
    }
}

impl Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let _ = self.queue.try_send(Piece::Bytes(bytes.to_vec()));
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn write_all(pieces: &Receiver<Piece>, mut sink: impl Write, failure: &OnceLock<io::Error>) {
    for piece in pieces {
        match piece {
            // A closed pipe is no reason to end: perhaps the other output is read.
            Piece::Bytes(bytes) => match sink.write_all(&bytes).and_then(|()| sink.flush()) {
                Err(error) if error.kind() != ErrorKind::BrokenPipe => {
                    // The first one is told.
                    let _ = failure.set(error);
                }
                Ok(()) | Err(_) => {}
            },
            Piece::Mark(done) => drop(done.send(())),
        }
    }
}

/// Lines that wait at most.
const QUEUE: usize = 1024;
/// For the last lines of a program that ends.
const PATIENCE: Duration = Duration::from_millis(200);

#[cfg(test)]
mod tests {
    use super::*;

    /// A pipe that nobody reads.
    struct Stuck;

    impl Write for Stuck {
        fn write(&mut self, _bytes: &[u8]) -> io::Result<usize> {
            thread::park();
            Ok(0)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn nobody_waits_for_who_does_not_read() {
        let lines = Lines::to(Stuck).expect("a thread");
        for number in 0..10 * QUEUE {
            lines.say(number.to_string());
        }
        lines.settle();
    }

    #[test]
    fn what_is_said_is_written_in_order() {
        let (read, write) = io::pipe().expect("a pipe");
        let lines = Lines::to(write).expect("a thread");
        lines.say("one".into());
        lines.say("two".into());
        lines.settle();
        drop(lines);
        assert_eq!(io::read_to_string(read).expect("text"), "one\ntwo\n");
    }
}
