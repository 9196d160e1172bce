//! `kuguri demo` as its user sees it: what it says, what it writes, how it ends, and that nothing of it is left. Skipped only
//! where the kernel refuses namespaces; then the demo must say so.
#![cfg(target_os = "linux")]

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};

use kuguri_sim::lab::world::{self, claim};
use kuguri_tests::real::place::is_refusal;
use kuguri_tests::real::process::{Ended, Running};
use kuguri_tests::real::program::Program;
use kuguri_tests::real::until;
use nix::net::if_::if_nameindex;
use nix::sys::signal::Signal;
use serde_json::Value;
use tempfile::TempDir;

/// The machine before a demo, and where the demo may keep files.
struct Around {
    files: TempDir,
    interfaces: BTreeSet<String>,
}

impl Around {
    fn new() -> Self {
        Self {
            files: TempDir::new().expect("a directory"),
            interfaces: names_of_interfaces(),
        }
    }

    /// A demo that leads a process group, as one that a shell starts.
    fn demo(&self, arguments: &[&str]) -> Running {
        let mut command = program().command(&["demo"]);
        command.args(arguments).env("TMPDIR", self.files.path());
        // The claim may live in a world of its own.
        command.env_remove("KUGURI_WORLD_OUTSIDE").process_group(0);
        Running::start(&mut command, Command::spawn)
    }

    /// Neither files nor processes nor interfaces are left.
    fn is_as_before(&self) {
        until("no process is left", || {
            let left = processes_of(self.files.path());
            left.is_empty().then_some(())
        });
        let left: Vec<_> = fs::read_dir(self.files.path()).expect("there").collect();
        assert!(left.is_empty(), "{left:?}");
        assert_eq!(names_of_interfaces(), self.interfaces);
    }
}

fn program() -> Program {
    Program::new(env!("CARGO_BIN_EXE_kuguri-under-test"))
}

/// Whether the kernel lets us have what the demo needs.
fn kernel_refuses() -> bool {
    let listed = world::command(["--list"]).map(|mut command| command.output());
    match listed {
        Ok(Ok(output)) if output.status.success() => false,
        refused => {
            eprintln!("skipped: {refused:?}");
            true
        }
    }
}

/// Command lines that name the directory: all of a demo's processes keep their files there.
fn processes_of(directory: &Path) -> Vec<String> {
    let name = directory.to_str().expect("text");
    let all = fs::read_dir("/proc").expect("there").flatten();
    all.filter_map(|entry| fs::read(entry.path().join("cmdline")).ok())
        .map(|line| String::from_utf8_lossy(&line).replace('\0', " "))
        .filter(|line| line.contains(name))
        .collect()
}

fn names_of_interfaces() -> BTreeSet<String> {
    let all = if_nameindex().expect("the kernel tells");
    all.iter()
        .map(|interface| interface.name().to_string_lossy().into_owned())
        .collect()
}

fn objects(ended: &Ended) -> Vec<Value> {
    let parse = |line: &String| serde_json::from_str(line).expect("every line is an object");
    ended.out.iter().map(parse).collect()
}

#[test]
fn it_tells_its_steps_and_a_summary_and_writes_what_the_listener_saw() {
    if kernel_refuses() {
        return;
    }
    let around = Around::new();
    let elsewhere = TempDir::new().expect("a directory");
    let pcap = elsewhere.path().join("public.pcap");
    fs::write(&pcap, vec![7; 100]).expect("an older one");
    let ended = around
        .demo(&["--json", "--pcap", pcap.to_str().expect("text")])
        .end();
    assert!(ended.status.success() && ended.err.is_empty(), "{ended:?}");
    around.is_as_before();

    let mut said = objects(&ended);
    let summary = said.pop().expect("at least one line");
    for step in &said {
        let machine = step["machine"].as_str().expect("text");
        assert!(!machine.is_empty() && step["ms"].is_number(), "{step}");
    }
    let at = |text: &str| {
        let found = said.iter().position(|step| {
            let words = step["step"].as_str().unwrap_or_default();
            step["machine"] == "home" && words.contains(text)
        });
        found.unwrap_or_else(|| panic!("{text} is missing: {said:#?}"))
    };
    assert!(at("linked with it by relay") < at("first frame"));
    assert!(at("linked with it by relay") < at("direct to"));

    let summary = &summary["summary"];
    assert_eq!(summary["paths"], serde_json::json!(["direct", "direct"]));
    assert_eq!(summary["listener"]["found"], 0);
    let goals = summary["goals"].as_array().expect("goals");
    assert!(goals.len() == 2 && goals.iter().all(|goal| goal["met"].is_boolean()));
    let order = ["linked_ms", "first_frame_ms", "first_ping_ms"].map(|name| summary[name].as_f64());
    assert!(order.is_sorted() && order[0].is_some(), "{order:?}");

    let bytes = fs::read(&pcap).expect("it is there");
    assert_eq!(
        bytes[..4],
        0xa1b2_3c4d_u32.to_le_bytes(),
        "a pcap file in nanoseconds"
    );
    assert!(bytes.len() > 1_000_000, "everything passed there");
    let text = b"nobody on the way may read";
    assert!(!bytes.windows(text.len()).any(|window| window == text));
}

#[test]
fn stopped_in_the_middle_it_leaves_nothing() {
    if kernel_refuses() {
        return;
    }
    let around = Around::new();
    for (by_terminal, code) in [(true, 130), (false, 143)] {
        let mut demo = around.demo(&["--json"]);
        demo.hear("a step of the desk", |said| said["machine"] == "desk");
        assert!(processes_of(around.files.path()).len() >= 4);
        let ended = match by_terminal {
            true => demo.press_ctrl_c(),
            false => demo.stop_by(Signal::SIGTERM),
        };
        assert_eq!(ended.status.code(), Some(code), "{ended:?}");
        around.is_as_before();
    }
}

#[test]
fn kept_it_can_be_looked_at_until_ctrl_c() {
    if kernel_refuses() {
        return;
    }
    let around = Around::new();
    let mut demo = around.demo(&["--keep"]);
    // The last line of advice is about the machine that came last.
    demo.line("/home status");
    let advice = |end: &str| {
        let lines = demo.lines().iter();
        let commands = lines.filter(|line| line.trim_end().ends_with(end));
        commands.cloned().collect::<Vec<_>>()
    };
    let status = advice(" status");
    assert_eq!(status.len(), 3, "{status:?}");
    assert!(status.iter().all(|line| !line.contains("vps")));
    for command in &status {
        assert!(runs(command), "{command}");
    }
    let shells = demo.lines().iter().filter(|line| line.contains("nsenter"));
    let shells: Vec<_> = shells.cloned().collect();
    assert_eq!(shells.len(), 4, "{shells:?}");
    for shell in &shells {
        let (enter, _) = shell.split_once('#').expect("a remark");
        assert!(
            !runs("nsenter --version") || runs(&format!("{enter} true")),
            "{shell}"
        );
    }
    let ended = demo.press_ctrl_c();
    assert_eq!(ended.status.code(), Some(130), "{ended:?}");
    around.is_as_before();
    // A late look finds nothing, and makes nothing.
    for command in &status {
        assert!(!runs(command), "{command}");
    }
    around.is_as_before();
}

/// By a shell, as somebody who copies the line.
fn runs(line: &str) -> bool {
    let mut shell = Command::new("sh");
    let output = [Stdio::null(), Stdio::null(), Stdio::null()];
    let [stdin, stdout, stderr] = output;
    shell
        .args(["-c", line])
        .stdin(stdin)
        .stdout(stdout)
        .stderr(stderr);
    shell.status().expect("a shell").success()
}

#[test]
fn a_file_that_cannot_be_written_is_said_before_anything_else() {
    let around = Around::new();
    for file in ["/nonexistent/public.pcap", "/"] {
        let ended = around.demo(&["--pcap", file]).end();
        is_refusal(&ended, &["cannot write", file]);
        assert!(ended.out.is_empty(), "{ended:?}");
        around.is_as_before();
    }
}

#[test]
fn where_the_kernel_refuses_namespaces_one_sentence_says_what_is_missing() {
    claim(|_world| {
        for kind in ["user", "net"] {
            // A limit of this world alone.
            let limit = format!("/proc/sys/user/max_{kind}_namespaces");
            if let Err(error) = fs::write(&limit, "0") {
                return eprintln!("skipped: {limit}: {error}");
            }
        }
        let around = Around::new();
        let ended = around.demo(&[]).end();
        is_refusal(
            &ended,
            &[
                "the kernel refused",
                "namespaces are switched off",
                "sysctl",
            ],
        );
        assert!(ended.out.is_empty(), "{ended:?}");
        around.is_as_before();
    });
}
