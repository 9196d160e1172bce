//! The figures for people.

use std::fmt::{self, Write};

use super::{Figures, Spread, beginning, pairs, reach, recovery, speed, stream};

/// Everything, as Markdown.
pub(crate) fn render(figures: &Figures) -> String {
    let mut out = String::new();
    let sections = [
        beginning(figures, &mut out),
        stream(figures, &mut out),
        pairs(figures, &mut out),
        write_reach(&figures.reach, &mut out),
        recovery(figures, &mut out),
        speed(figures, &mut out),
        verdict(figures, &mut out),
    ];
    debug_assert!(sections.iter().all(Result::is_ok), "a string takes all");
    out
}

fn beginning(figures: &Figures, out: &mut String) -> fmt::Result {
    let seeds = beginning::SEEDS;
    writeln!(out, "## From asking for a link to its first frames\n")?;
    writeln!(
        out,
        "Least / median / greatest of {seeds} runs each (seeds 0 to {}). S: round trip between a peer and the \
         rendezvous, the mean of both peers';\nR: between the peers. NATs are cones of all three kinds in turn, where no \
         pair is named; access is 20 ms there.\nGoals: sent within 2 S, there within 3 S, directly there within \
         4 S + 1.5 R (here: 1).\n",
        seeds - 1
    )?;
    writeln!(
        out,
        "| scene | S ms | R ms | sent, in S | there, in S | direct, in 4 S + 1.5 R | goals |"
    )?;
    writeln!(out, "|---|--:|--:|---|---|---|---|")?;
    for row in &figures.beginning {
        let goals = match (row.goal, row.missed().is_empty()) {
            (false, _) => "none",
            (true, true) => "reached",
            (true, false) => "**missed**",
        };
        writeln!(
            out,
            "| {} | {:.0} | {:.0} | {} | {} | {} | {goals} |",
            row.name,
            row.s_ms,
            row.r_ms,
            spread(row.sent, 2),
            spread(row.arrived, 2),
            spread(row.direct, 2),
        )?;
    }
    writeln!(out)
}

fn stream(figures: &Figures, out: &mut String) -> fmt::Result {
    let stream = &figures.stream;
    writeln!(out, "## Reliable streams\n")?;
    writeln!(
        out,
        "10 MB over {}: byte-equal in {} of {} runs (goal: all), goodput {} kB/s.\n",
        stream.line,
        stream.whole,
        stream.seeds,
        spread(stream.goodput.map(|goodput| goodput.times(1e-3)), 0),
    )?;
    writeln!(
        out,
        "At 1 % loss and 100 ms round trip, {} runs, 100 s each after the first 20 s:\n",
        stream::SEEDS
    )?;
    writeln!(
        out,
        "| control | theory kB/s | reached, in % of it | goal: 70 % in the median |"
    )?;
    writeln!(out, "|---|--:|---|---|")?;
    for ratio in &stream.ratios {
        let reached = ratio
            .ratio
            .is_some_and(|spread| spread.median >= stream::GOAL);
        writeln!(
            out,
            "| {} | {:.0} | {} | {} |",
            ratio.control,
            ratio.theory / 1e3,
            spread(ratio.ratio.map(|ratio| ratio.times(100.0)), 0),
            if reached { "reached" } else { "**missed**" },
        )?;
    }
    writeln!(out)
}

fn pairs(figures: &Figures, out: &mut String) -> fmt::Result {
    writeln!(out, "## Every kind of NAT against every other\n")?;
    writeln!(
        out,
        "{} runs each (seeds 0 to {}), access {} ms: milliseconds from asking for the link until both sides use a direct \
         path, least / median / greatest;\ndatagrams that each side has sent by then (relayed: within 20 s), from its \
         program's start on, in the median.\n",
        pairs::SEEDS,
        pairs::SEEDS - 1,
        pairs::ACCESS.as_millis()
    )?;
    writeln!(
        out,
        "| office | home | verdict | direct runs | ms to direct | sent by office | by home |"
    )?;
    writeln!(out, "|---|---|---|--:|---|--:|--:|")?;
    for row in &figures.pairs {
        writeln!(
            out,
            "| {} | {} | {} | {} of {} | {} | {:.0} | {:.0} |",
            row.office,
            row.home,
            row.verdict(),
            row.direct,
            row.seeds,
            spread(row.direct_ms, 0),
            row.sent_by_office,
            row.sent_by_home,
        )?;
    }
    writeln!(out)
}

/// How NATs are passed, alone.
pub(crate) fn reach(rows: &[reach::Row]) -> String {
    let mut out = String::new();
    let written = write_reach(rows, &mut out);
    debug_assert!(written.is_ok(), "a string takes all");
    out
}

fn write_reach(rows: &[reach::Row], out: &mut String) -> fmt::Result {
    writeln!(out, "## Through NATs that plain punching does not pass\n")?;
    writeln!(
        out,
        "Cells are TRAVERSAL's: H plain punching suffices, 1 one end's port must be found, 2 both ends'. Both NATs choose ports \
         alike; 10 ms from each\npeer to the core. Seeds count from 0: 4 for each cell of a group, {} for a single pair. Seconds \
         from when both ends have keys until both send directly.\nProbes: of the side that sent most, least / median / \
         greatest. A rendezvous with two addresses tells both axes.\n",
        reach::MANY
    )?;
    writeln!(
        out,
        "| what | runs | direct | in time | p50 s | p99 s | max s | probes | most mappings | most probes in 1 s | goal |"
    )?;
    writeln!(out, "|---|--:|--:|--:|--:|--:|--:|---|--:|--:|---|")?;
    for row in rows {
        let seconds =
            |time: Option<f64>| time.map_or_else(|| "–".to_owned(), |time| format!("{time:.2}"));
        let goal = if row.goal > 0.0 {
            format!("{:.1} % in {:.1} s", row.goal * 100.0, row.time_s)
        } else {
            "none direct, none claimed".to_owned()
        };
        let reached = if row.reached() {
            "reached"
        } else {
            "**missed**"
        };
        writeln!(
            out,
            "| {} | {} | {} | {} | {} | {} | {} | {} | {} | {} | {goal}: {reached} |",
            row.name,
            row.runs,
            row.direct,
            row.in_time,
            seconds(row.p50),
            seconds(row.p99),
            seconds(row.max),
            spread(row.probes, 0),
            row.mappings,
            row.per_second,
        )?;
    }
    writeln!(out)
}

fn recovery(figures: &Figures, out: &mut String) -> fmt::Result {
    writeln!(out, "## From an accident to the next answered ping\n")?;
    writeln!(
        out,
        "{} runs each (seeds 0 to {}), access {} ms, at a random time of a calm link that is asked by a ping ten times a \
         second from when everything is there again: seconds.\n",
        recovery::SEEDS,
        recovery::SEEDS - 1,
        recovery::ACCESS.as_millis()
    )?;
    writeln!(
        out,
        "| accident | link | recovered | p50 s | p95 s | longest s |"
    )?;
    writeln!(out, "|---|---|--:|--:|--:|--:|")?;
    for row in &figures.recovery {
        writeln!(
            out,
            "| {} | {} | {} of {} | {:.1} | {:.1} | {:.1} |",
            row.accident, row.path, row.recovered, row.seeds, row.p50_s, row.p95_s, row.max_s,
        )?;
    }
    writeln!(out)
}

fn speed(figures: &Figures, out: &mut String) -> fmt::Result {
    let speed = &figures.speed;
    writeln!(out, "## The simulator's speed\n")?;
    writeln!(
        out,
        "Machine: {} cores, {}; one core is used. {} runs (seeds 0 to {}) of two peers and a rendezvous: from nothing to a \
         direct path in {} ms\nof the machine's time; with {} pings of 1400 bytes, one a second, after that {} ms: \
         {:.0} s of virtual time, {:.0} times as fast as real time.\n",
        figures.machine.cores,
        figures.machine.kernel,
        speed.runs,
        speed::SEEDS - 1,
        spread(speed.to_direct_ms, 1),
        speed::PINGS,
        spread(speed.life_ms, 1),
        speed.life_virtual_s,
        speed.ratio,
    )
}

fn verdict(figures: &Figures, out: &mut String) -> fmt::Result {
    if figures.missed.is_empty() {
        return writeln!(out, "Every goal is reached.");
    }
    writeln!(out, "Goals that are **missed**:\n")?;
    for missed in &figures.missed {
        writeln!(out, "- {missed}")?;
    }
    Ok(())
}

impl Spread {
    fn times(self, factor: f64) -> Self {
        Self {
            min: self.min * factor,
            median: self.median * factor,
            max: self.max * factor,
        }
    }
}

fn spread(spread: Option<Spread>, digits: usize) -> String {
    spread.map_or_else(
        || "–".to_owned(),
        |Spread { min, median, max }| {
            format!("{min:.digits$} / {median:.digits$} / {max:.digits$}")
        },
    )
}
