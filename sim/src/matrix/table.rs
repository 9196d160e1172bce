//! The matrix as text: a grid for each allocator, and the figures by what the oracle says. Decides no figure.

use std::fmt::{self, Write};
use std::time::Duration;

use super::{Allocator, Cell, Figures, Held, Matrix, percentile};
use crate::oracle::{Kind, Verdict};

impl fmt::Display for Matrix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for allocator in self.allocators() {
            writeln!(
                f,
                "ports {allocator}: direct, in percent; H plain, 1 and 2 after a search on one or both sides; * mostly by one"
            )?;
            self.grid(f, allocator)?;
            writeln!(f)?;
        }
        writeln!(
            f,
            "{:<22}{:>4}{:>8}{:>9}{:>9}{:>9}{:>10}{:>10}{:>9}{:>9}{:>9}{:>9}{:>8}{:>5}",
            "ports",
            "",
            "runs",
            "plainly",
            "searched",
            "relayed",
            "p50",
            "p99",
            "packets",
            "p99",
            "entries",
            "sockets",
            "probes",
            "/s"
        )?;
        for allocator in self.allocators() {
            for verdict in Verdict::ALL {
                let of = |cell: &Cell| cell.allocator == allocator && cell.verdict == verdict;
                let figures = self.figures(of);
                if figures.runs > 0 {
                    writeln!(f, "{allocator:<22}{verdict:>4}{}", Row(&figures))?;
                }
            }
        }
        writeln!(f)?;
        for held in self.goals() {
            writeln!(f, "{held}")?;
        }
        for failure in self.failures() {
            writeln!(f, "{failure}")?;
        }
        Ok(())
    }
}

impl Matrix {
    /// The allocators that occur, in order.
    pub(super) fn allocators(&self) -> Vec<Allocator> {
        let mut all: Vec<_> = self.cells.iter().map(|cell| cell.allocator).collect();
        all.sort_unstable();
        all.dedup();
        all
    }

    pub(super) fn cell(&self, a: Kind, b: Kind, allocator: Allocator) -> Option<&Cell> {
        let fits = |cell: &&Cell| cell.a == a && cell.b == b && cell.allocator == allocator;
        self.cells.iter().find(fits)
    }

    fn grid(&self, f: &mut fmt::Formatter<'_>, allocator: Allocator) -> fmt::Result {
        write!(f, "       ")?;
        Kind::all().try_for_each(|b| write!(f, "{b:>8}"))?;
        writeln!(f)?;
        for a in Kind::all() {
            let mut line = format!("{a:<7}");
            for b in Kind::all() {
                let text = self.cell(a, b, allocator).map(|cell| {
                    let figures = Figures::of(cell.runs.iter());
                    let mark = figures.mark();
                    format!("{} {:.0}{mark}", cell.verdict, figures.percent())
                });
                write!(line, "{:>8}", text.unwrap_or_default())?;
            }
            if self.cells.iter().any(|cell| cell.a == a) {
                writeln!(f, "{line}")?;
            }
        }
        Ok(())
    }

    /// One line for each cell.
    #[must_use]
    pub fn rows(&self) -> String {
        let mut text = String::new();
        for cell in &self.cells {
            let figures = Figures::of(cell.runs.iter());
            let (a, b, ports, verdict) = (cell.a, cell.b, cell.allocator, cell.verdict);
            let _never_fails = writeln!(text, "{a} {b} {ports:<22}{verdict:>2}{}", Row(&figures));
        }
        text
    }
}

impl fmt::Display for super::Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ((a, b, ports), seed, what) = (self.pair, self.seed, self.what);
        write!(
            f,
            "failed: {a} and {b}, ports {ports}: {what}; again: kuguri sim matrix --only {a},{b},{ports} --seeds 1 --seed {seed}"
        )
    }
}

impl Figures {
    /// Says whether most of what is direct took a search.
    pub(super) const fn mark(&self) -> &'static str {
        if 2 * self.searched > self.direct {
            "*"
        } else {
            ""
        }
    }
}

impl fmt::Display for Held {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (ports, verdict, goal, reached) =
            (self.allocator, self.verdict, self.goal, self.reached);
        let word = if self.is_met() { "reached" } else { "missed" };
        write!(
            f,
            "goal {ports:<22}{verdict:>2}  {goal:<26} {word}: {reached:.1} %"
        )
    }
}

struct Row<'a>(&'a Figures);

impl fmt::Display for Row<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let figures = self.0;
        let time = |percent| percentile(&figures.times, percent).map_or_else(none, millis);
        let packets = |percent| percentile(&figures.packets, percent).unwrap_or(0);
        write!(
            f,
            "{:>8}{:>9}{:>9}{:>9}{:>10}{:>10}{:>9}{:>9}{:>9}{:>9}{:>8}{:>5}",
            figures.runs,
            figures.direct - figures.searched,
            figures.searched,
            figures.relayed,
            time(50),
            time(99),
            packets(50),
            packets(99),
            figures.entries,
            figures.search.0,
            figures.search.1,
            figures.search.2
        )
    }
}

pub(super) fn none() -> String {
    "-".to_owned()
}

pub(super) fn millis(time: Duration) -> String {
    format!("{:.0} ms", time.as_secs_f64() * 1e3)
}
