//! The matrix as text: a grid for each allocator, and the figures by what the oracle says. Decides no figure.

use std::fmt::{self, Write};
use std::time::Duration;

use super::{Allocator, Cell, Figures, Matrix, percentile};
use crate::oracle::{Kind, Verdict};

impl fmt::Display for Matrix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for allocator in self.allocators() {
            writeln!(
                f,
                "ports {allocator}: direct, in percent; H plain, 1 and 2 after a search on one or both sides"
            )?;
            self.grid(f, allocator)?;
            writeln!(f)?;
        }
        writeln!(
            f,
            "{:<22}{:>4}{:>8}{:>9}{:>9}{:>10}{:>10}{:>9}{:>9}{:>9}",
            "ports", "", "runs", "direct", "relayed", "p50", "p99", "packets", "p99", "entries"
        )?;
        for allocator in self.allocators() {
            for verdict in [Verdict::Plain, Verdict::OneSided, Verdict::TwoSided] {
                let of = |cell: &Cell| cell.allocator == allocator && cell.verdict == verdict;
                let figures = self.figures(of);
                if figures.runs > 0 {
                    writeln!(f, "{allocator:<22}{verdict:>4}{}", Row(&figures))?;
                }
            }
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
                    let percent = Figures::of(cell.runs.iter()).percent();
                    format!("{} {percent:.0}", cell.verdict)
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

struct Row<'a>(&'a Figures);

impl fmt::Display for Row<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let figures = self.0;
        let time = |percent| percentile(&figures.times, percent).map_or_else(none, millis);
        let packets = |percent| percentile(&figures.packets, percent).unwrap_or(0);
        write!(
            f,
            "{:>8}{:>9}{:>9}{:>10}{:>10}{:>9}{:>9}{:>9}",
            figures.runs,
            figures.direct,
            figures.relayed,
            time(50),
            time(99),
            packets(50),
            packets(99),
            figures.entries
        )
    }
}

pub(super) fn none() -> String {
    "-".to_owned()
}

pub(super) fn millis(time: Duration) -> String {
    format!("{:.0} ms", time.as_secs_f64() * 1e3)
}
