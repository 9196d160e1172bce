//! One `kuguri` process: started, listened to, ended with its value, also when a claim panics.

use std::io::{self, BufRead, BufReader, Read};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;
use std::time::Instant;

use nix::sys::signal::{Signal, kill, killpg};
use nix::unistd::Pid;
use serde_json::Value;

use super::{PATIENCE, until};

/// A process that runs. Dropped, it is killed and waited for.
#[derive(Debug)]
pub struct Running {
    child: Child,
    lines: Receiver<Line>,
    out: Vec<String>,
    err: Vec<String>,
    /// Lines of stdout before this one are known already.
    known: usize,
}

/// What a process has said from its start to its end.
#[derive(Debug)]
pub struct Ended {
    /// How it ended.
    pub status: ExitStatus,
    /// Its stdout, by lines.
    pub out: Vec<String>,
    /// Its stderr, by lines.
    pub err: Vec<String>,
}

#[derive(Debug)]
enum Line {
    Out(String),
    Err(String),
}

impl Running {
    /// Starts a command by `spawn` and listens to it.
    ///
    /// # Panics
    /// When it cannot be started.
    pub fn start(
        command: &mut Command,
        spawn: impl FnOnce(&mut Command) -> io::Result<Child>,
    ) -> Self {
        command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut child = spawn(command).expect("the program starts");
        let (ear, lines) = channel();
        listen(child.stdout.take(), ear.clone(), Line::Out);
        listen(child.stderr.take(), ear, Line::Err);
        Self {
            child,
            lines,
            out: Vec::new(),
            err: Vec::new(),
            known: 0,
        }
    }

    /// Its process id, as the one who started it numbers it.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// From now on only what it says later counts as an event.
    pub fn forget(&mut self) {
        self.take_lines();
        self.known = self.out.len();
    }

    /// The first event of that name, waited for.
    ///
    /// # Panics
    /// When it does not come.
    pub fn event(&mut self, name: &str) -> Value {
        self.hear(name, |event| event["event"] == name)
    }

    /// The first event that `is_it` accepts, waited for; `what` names it.
    ///
    /// # Panics
    /// When it does not come.
    pub fn hear(&mut self, what: &str, is_it: impl Fn(&Value) -> bool) -> Value {
        let end = Instant::now() + PATIENCE;
        let mut next = self.known;
        loop {
            while let Some(line) = self.out.get(next) {
                next += 1;
                if let Some(event) = serde_json::from_str(line).ok().filter(&is_it) {
                    return event;
                }
            }
            self.wait_for_a_line(what, end);
        }
    }

    /// Whether it has said an event of that name since the last [`Self::forget`].
    pub fn has_said(&mut self, name: &str) -> bool {
        self.take_lines();
        let parse = |line: &String| serde_json::from_str::<Value>(line).ok();
        self.out[self.known..]
            .iter()
            .filter_map(parse)
            .any(|event| event["event"] == name)
    }

    /// The first line of stderr that has this text in it, waited for.
    ///
    /// # Panics
    /// When it does not come.
    pub fn complaint(&mut self, text: &str) -> String {
        let end = Instant::now() + PATIENCE;
        let mut next = 0;
        loop {
            while let Some(line) = self.err.get(next) {
                next += 1;
                if line.contains(text) {
                    return line.clone();
                }
            }
            self.wait_for_a_line(text, end);
        }
    }

    /// The first line of stdout that has this text in it, waited for.
    ///
    /// # Panics
    /// When it does not come.
    pub fn line(&mut self, text: &str) -> String {
        let end = Instant::now() + PATIENCE;
        let mut next = 0;
        loop {
            while let Some(line) = self.out.get(next) {
                next += 1;
                if line.contains(text) {
                    return line.clone();
                }
            }
            self.wait_for_a_line(text, end);
        }
    }

    /// All lines of stdout so far.
    #[must_use]
    pub fn lines(&self) -> &[String] {
        &self.out
    }

    /// The first line of stdout, waited for.
    ///
    /// # Panics
    /// When it does not come.
    pub fn first_line(&mut self) -> String {
        let end = Instant::now() + PATIENCE;
        while self.out.is_empty() {
            self.wait_for_a_line("the first line", end);
        }
        self.out[0].clone()
    }

    /// Whether it has not ended.
    ///
    /// # Panics
    /// When the kernel does not know it.
    pub fn lives(&mut self) -> bool {
        self.child
            .try_wait()
            .expect("it is our child and not reaped")
            .is_none()
    }

    /// Asks it to end (SIGTERM) and waits until it has.
    #[must_use]
    pub fn stop(self) -> Ended {
        self.stop_by(Signal::SIGTERM)
    }

    /// Sends it a signal that is to end it, and waits until it has ended.
    ///
    /// # Panics
    /// When it does not end.
    #[must_use]
    pub fn stop_by(self, signal: Signal) -> Ended {
        kill(self.pid(), signal).expect("it is our child and not reaped");
        self.end()
    }

    /// Sends its whole process group, which it leads, what a terminal sends at Ctrl-C; and waits until it has ended.
    ///
    /// # Panics
    /// When it leads none, or does not end.
    #[must_use]
    pub fn press_ctrl_c(self) -> Ended {
        killpg(self.pid(), Signal::SIGINT).expect("it was started as a group");
        self.end()
    }

    fn pid(&self) -> Pid {
        let id = i32::try_from(self.child.id());
        Pid::from_raw(id.expect("process ids are small"))
    }

    /// Kills it, as `kill -9` does, and waits for it.
    ///
    /// # Panics
    /// When the kernel does not know it.
    pub fn kill(&mut self) {
        self.child.kill().expect("it is our child");
        self.child.wait().expect("it is our child");
    }

    /// Waits until it has ended by itself.
    ///
    /// # Panics
    /// When it does not end.
    #[must_use]
    pub fn end(mut self) -> Ended {
        let status = until("the end of the process", || {
            self.child.try_wait().expect("it is our child")
        });
        // The pipes close with the process.
        while let Ok(line) = self.lines.recv() {
            self.keep(line);
        }
        Ended {
            status,
            out: std::mem::take(&mut self.out),
            err: std::mem::take(&mut self.err),
        }
    }

    fn wait_for_a_line(&mut self, what: &str, end: Instant) {
        let left = end.saturating_duration_since(Instant::now());
        match self.lines.recv_timeout(left) {
            Ok(line) => self.keep(line),
            Err(missing) => panic!("no {what} ({missing}) in {:#?} {:#?}", self.out, self.err),
        }
    }

    fn take_lines(&mut self) {
        while let Ok(line) = self.lines.try_recv() {
            self.keep(line);
        }
    }

    fn keep(&mut self, line: Line) {
        let (lines, line) = match line {
            Line::Out(line) => (&mut self.out, line),
            Line::Err(line) => (&mut self.err, line),
        };
        assert!(!line.contains("panicked"), "{line}");
        lines.push(line);
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
        if thread::panicking() {
            // The claim fails already: what the process has said helps to see why.
            eprintln!("a process said {:#?} {:#?}", self.out, self.err);
            return;
        }
        while let Ok(line) = self.lines.recv() {
            self.keep(line);
        }
    }
}

fn listen(from: Option<impl Read + Send + 'static>, ear: Sender<Line>, line: fn(String) -> Line) {
    // Somewhere else, when the claim says so.
    let Some(from) = from.map(BufReader::new) else {
        return;
    };
    thread::spawn(move || {
        for bytes in from.split(b'\n') {
            let Ok(bytes) = bytes else { return };
            let text = String::from_utf8_lossy(&bytes).into_owned();
            if ear.send(line(text)).is_err() {
                return;
            }
        }
    });
}
