//! The `kuguri` processes of the demo: started on their machines, listened to by their `--json` lines, stopped at the end.
//!
//! It knows what a process may say (`crate::output`), not what it should say next: that is the story's affair.

use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use kuguri_sim::lab::{Machines, without_capabilities};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

/// Which rights a process has on its machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Rights {
    /// None at all.
    None,
    /// Those of the machine's root: it may have a virtual LAN card.
    Root,
}

/// One line that a process said.
#[derive(Clone, Debug)]
pub(crate) struct Line {
    /// The machine's name.
    pub(crate) who: &'static str,
    /// When it was read.
    pub(crate) at: Instant,
    /// The object; null when the process has closed its output.
    pub(crate) said: Value,
}

impl Line {
    /// The event's name.
    pub(crate) fn event(&self) -> &str {
        self.said["event"].as_str().unwrap_or_default()
    }

    /// A text field, empty when it is missing.
    pub(crate) fn text(&self, field: &str) -> &str {
        self.said[field].as_str().unwrap_or_default()
    }
}

/// All processes of the demo.
pub(crate) struct Cast<'a> {
    machines: &'a dyn Machines,
    program: PathBuf,
    files: PathBuf,
    actors: Vec<(&'static str, Child)>,
    said: Vec<Line>,
    lines: Receiver<Line>,
    ears: Sender<Line>,
}

impl<'a> Cast<'a> {
    /// Nobody yet. `files` is where each process gets a directory of its own.
    pub(crate) fn new(machines: &'a dyn Machines, program: PathBuf, files: PathBuf) -> Self {
        let (ears, lines) = channel();
        Self {
            machines,
            program,
            files,
            actors: Vec::new(),
            said: Vec::new(),
            lines,
            ears,
        }
    }

    /// Starts `kuguri` on a machine with these arguments and those of every verb, and listens to it.
    pub(crate) fn start(
        &mut self,
        who: &'static str,
        arguments: &[&str],
        rights: Rights,
    ) -> anyhow::Result<Instant> {
        let directory = self.directory(who);
        fs::create_dir_all(&directory)
            .with_context(|| format!("cannot make {}", directory.display()))?;
        let complaints = File::create(complaints(&directory))
            .with_context(|| format!("cannot write in {}", directory.display()))?;
        let mut command = self.command(who, arguments);
        command.stdout(Stdio::piped()).stderr(complaints);
        if rights == Rights::None {
            without_capabilities(&mut command);
        }
        let start = Instant::now();
        let mut child = self
            .machines
            .spawn(who, &mut command)
            .with_context(|| format!("cannot start kuguri on {who}"))?;
        if let Some(stdout) = child.stdout.take() {
            let ears = self.ears.clone();
            thread::spawn(move || listen(who, stdout, &ears));
        }
        self.actors.push((who, child));
        Ok(start)
    }

    /// The first line of `who`, of all that it ever said, that `is_it` accepts; waits for it if need be. `what` names
    /// it when it does not come.
    pub(crate) fn hear(
        &mut self,
        who: &'static str,
        what: &str,
        limit: Duration,
        is_it: impl Fn(&Line) -> bool,
    ) -> anyhow::Result<Line> {
        let end = Instant::now() + limit;
        let mut next = 0;
        loop {
            if let Some(line) = self.said[next..]
                .iter()
                .find(|line| line.who == who && is_it(line))
            {
                return Ok(line.clone());
            }
            next = self.said.len();
            if self
                .said
                .iter()
                .any(|line| line.who == who && line.said.is_null())
            {
                bail!("{who} ended before {what}: {}", self.last_words(who));
            }
            match self
                .lines
                .recv_timeout(end.saturating_duration_since(Instant::now()))
            {
                Ok(line) => self.said.push(line),
                Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => {
                    bail!(
                        "no {what} of {who} within {limit:?}: {}",
                        self.last_words(who)
                    );
                }
            }
        }
    }

    /// Whether `who` has said such a thing by now.
    pub(crate) fn heard(&mut self, who: &str, is_it: impl Fn(&Line) -> bool) -> bool {
        self.said.extend(self.lines.try_iter());
        self.said.iter().any(|line| line.who == who && is_it(line))
    }

    /// The first event of that name.
    pub(crate) fn event(
        &mut self,
        who: &'static str,
        event: &str,
        limit: Duration,
    ) -> anyhow::Result<Line> {
        self.hear(who, event, limit, |line| line.event() == event)
    }

    /// What `kuguri status --json` says on a machine.
    pub(crate) fn status(&self, who: &'static str) -> anyhow::Result<Value> {
        let mut command = self.command(who, &["status"]);
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        let output = self
            .machines
            .spawn(who, &mut command)
            .and_then(Child::wait_with_output)
            .with_context(|| format!("cannot start kuguri status on {who}"))?;
        if !output.status.success() {
            let complaint = String::from_utf8_lossy(&output.stderr);
            bail!("kuguri status on {who}: {}", complaint.trim());
        }
        serde_json::from_slice(&output.stdout)
            .with_context(|| format!("kuguri status on {who} does not say JSON"))
    }

    /// Where the process on a machine keeps its files.
    pub(crate) fn directory(&self, who: &str) -> PathBuf {
        self.files.join(who)
    }

    /// The program itself.
    pub(crate) fn program(&self) -> &Path {
        &self.program
    }

    /// Each machine's process, as the world numbers it.
    pub(crate) fn processes(&self) -> impl Iterator<Item = (&'static str, u32)> {
        self.actors.iter().map(|(who, child)| (*who, child.id()))
    }

    /// Ends all processes, the last first, as Ctrl-C would.
    pub(crate) fn stop(&mut self) {
        for (_, mut child) in self.actors.drain(..).rev() {
            let asked = i32::try_from(child.id())
                .is_ok_and(|pid| kill(Pid::from_raw(pid), Signal::SIGTERM).is_ok());
            let end = Instant::now() + GOODBYE;
            while asked && Instant::now() < end && matches!(child.try_wait(), Ok(None)) {
                thread::sleep(Duration::from_millis(5));
            }
            // One that did not listen; one that has ended does not mind.
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    fn command(&self, who: &str, arguments: &[&str]) -> Command {
        let mut command = Command::new(&self.program);
        command
            .args(arguments)
            .arg("--json")
            .arg("--state")
            .arg(self.directory(who))
            .stdin(Stdio::null());
        command
    }

    /// The end of what a process said, for an error.
    fn last_words(&self, who: &str) -> String {
        let complaints = fs::read_to_string(complaints(&self.directory(who))).unwrap_or_default();
        let complaint = complaints
            .lines()
            .rev()
            .find(|line| !line.trim().is_empty());
        let said = self
            .said
            .iter()
            .rev()
            .find(|line| line.who == who && !line.said.is_null());
        match (complaint, said) {
            (Some(complaint), _) => complaint.trim().to_owned(),
            (None, Some(line)) => format!("its last line is {}", line.said),
            (None, None) => "it said nothing".to_owned(),
        }
    }
}

impl Drop for Cast<'_> {
    fn drop(&mut self) {
        self.stop();
    }
}

/// Passes on what a process says until it closes its output. What is no object is a line of text for people.
fn listen(who: &'static str, stdout: ChildStdout, ears: &Sender<Line>) {
    let objects = BufReader::new(stdout)
        .lines()
        .map_while(Result::ok)
        .map(|line| serde_json::from_str(&line).unwrap_or(Value::String(line)));
    for said in objects.chain([Value::Null]) {
        let at = Instant::now();
        if ears.send(Line { who, at, said }).is_err() {
            return;
        }
    }
}

fn complaints(directory: &Path) -> PathBuf {
    directory.join("stderr.txt")
}

/// How long a process may take to say goodbye.
const GOODBYE: Duration = Duration::from_secs(1);
