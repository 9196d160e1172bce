//! How to look around in a demo that is kept: commands for another terminal.

use std::fmt::Write;
use std::fs;

use crate::cast::Cast;

/// The advice as text: for each machine a command that enters it, and what to try.
pub(super) fn advice(cast: &Cast<'_>) -> String {
    let program = cast.program().display();
    let mut text =
        String::from("The demo stays up until Ctrl-C. In another terminal, as the same user:\n\n");
    for (who, pid) in cast.processes() {
        // Writing to a string cannot fail, here and below.
        let _ = match outside_pid(pid) {
            Some(pid) => writeln!(
                text,
                "  nsenter -t {pid} --preserve-credentials -U -n -u    # a shell on {who}"
            ),
            None => writeln!(
                text,
                "  ({who} cannot be entered: its process is not seen in /proc)"
            ),
        };
    }
    text.push('\n');
    // The rendezvous knows no links: it says on its own output who comes and goes.
    for (who, _) in cast.processes().filter(|(who, _)| *who != "vps") {
        let directory = cast.directory(who);
        let _ = writeln!(text, "  {program} --state {} status", directory.display());
    }
    text
}

/// The number by which the machine knows a process of this world: `/proc` is still the one of outside, and says of each
/// process its numbers from the outermost to the innermost (`NSpid`, proc(5)).
fn outside_pid(inside: u32) -> Option<u32> {
    let own = fs::read_link("/proc/self/ns/pid").ok()?;
    fs::read_dir("/proc").ok()?.flatten().find_map(|entry| {
        let outside = entry.file_name().to_str()?.parse().ok()?;
        let status = fs::read_to_string(entry.path().join("status")).ok()?;
        let numbers = status
            .lines()
            .find_map(|line| line.strip_prefix("NSpid:"))?;
        let innermost: u32 = numbers.split_whitespace().last()?.parse().ok()?;
        let same_world = fs::read_link(entry.path().join("ns/pid")).ok()? == own;
        (innermost == inside && same_world).then_some(outside)
    })
}
