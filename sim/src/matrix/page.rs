//! The matrix as one self-contained page: the grids in colour, the figures, and the distributions as plots. No script, no
//! font and no picture from elsewhere; light or dark as the reader's system is.

use std::fmt::{self, Write};
use std::time::Duration;

use super::table::{millis, none};
use super::{Allocator, Cell, Figures, Matrix, percentile};
use crate::oracle::{Kind, Verdict};

impl Matrix {
    /// The page.
    #[must_use]
    pub fn page(&self) -> String {
        let mut page = String::new();
        let _never_fails = self.write_page(&mut page);
        page
    }

    fn write_page(&self, out: &mut String) -> fmt::Result {
        let (seed, seeds) = (self.seed, self.seeds);
        write!(out, "{HEAD}")?;
        writeln!(out, "<h1>Kuguri: all pairs of NATs</h1>")?;
        writeln!(
            out,
            "<p>Mapping and filtering of both sides: EI endpoint-independent, AD address-dependent, AP address-and-port-dependent. \
             {seeds} runs in each cell, seeds from {seed} on. Colour and number: the part that became direct. \
             <b>H</b> a plain punch is enough; <b>1</b> one side must search ports; <b>2</b> both must. <b>*</b> most of it took a \
             search.</p>"
        )?;
        for allocator in self.allocators() {
            self.write_grid(out, allocator)?;
        }
        self.write_figures(out)?;
        self.write_goals(out)?;
        let seconds = |times: &Figures| times.times.iter().map(Duration::as_secs_f64).collect();
        self.write_plot(out, "Time to direct, in seconds", seconds)?;
        let packets = |figures: &Figures| {
            let number = |&count: &u64| f64::from(u32::try_from(count).unwrap_or(u32::MAX));
            figures.packets.iter().map(number).collect()
        };
        self.write_plot(out, "Packets that both sides sent", packets)?;
        self.write_failures(out)?;
        writeln!(out, "</body></html>")
    }

    fn write_grid(&self, out: &mut String, allocator: Allocator) -> fmt::Result {
        writeln!(
            out,
            "<h2>Ports: {allocator}</h2><div class=wide><table class=grid><tr><th></th>"
        )?;
        Kind::all().try_for_each(|b| write!(out, "<th>{b}</th>"))?;
        writeln!(out, "</tr>")?;
        for a in Kind::all() {
            write!(out, "<tr><th>{a}</th>")?;
            for b in Kind::all() {
                match self.cell(a, b, allocator) {
                    Some(cell) => write_cell(out, cell)?,
                    None => write!(out, "<td></td>")?,
                }
            }
            writeln!(out, "</tr>")?;
        }
        writeln!(out, "</table></div>")
    }

    fn write_figures(&self, out: &mut String) -> fmt::Result {
        writeln!(
            out,
            "<h2>Figures</h2><div class=wide><table><tr><th>ports</th><th></th><th>runs</th><th>plainly</th><th>by search</th><th>relayed</th>\
             <th>p50</th><th>p99</th><th>packets p50</th><th>p99</th><th>most NAT entries</th><th>sockets</th>\
             <th>probes</th><th>in a second</th></tr>"
        )?;
        for allocator in self.allocators() {
            for verdict in Verdict::ALL {
                let of = |cell: &Cell| cell.allocator == allocator && cell.verdict == verdict;
                let figures = self.figures(of);
                if figures.runs > 0 {
                    write_figures_row(out, allocator, verdict, &figures)?;
                }
            }
        }
        writeln!(out, "</table></div>")
    }

    fn write_goals(&self, out: &mut String) -> fmt::Result {
        writeln!(
            out,
            "<h2>Goals</h2><div class=wide><table><tr><th>ports</th><th></th><th>goal</th><th></th><th>reached</th></tr>"
        )?;
        for held in self.goals() {
            let (class, word) = match held.is_met() {
                true => ("met", "reached"),
                false => ("missed", "missed"),
            };
            let (ports, verdict, goal) = (held.allocator, held.verdict, held.goal);
            let reached = held.reached;
            writeln!(
                out,
                "<tr class={class}><th>{ports}</th><td>{verdict}</td><td>{goal}</td><td>{word}</td><td>{reached:.1} %</td></tr>"
            )?;
        }
        writeln!(out, "</table></div>")
    }

    /// A cumulative distribution for each verdict: how large a part is not above a value.
    fn write_plot(
        &self,
        out: &mut String,
        title: &str,
        values: impl Fn(&Figures) -> Vec<f64>,
    ) -> fmt::Result {
        let lines =
            Verdict::ALL.map(|verdict| values(&self.figures(|cell| cell.verdict == verdict)));
        let most = lines.iter().flatten().copied().fold(0.0, f64::max);
        if most <= 0.0 {
            return Ok(());
        }
        writeln!(
            out,
            "<h2>{title}</h2><svg viewBox=\"0 0 {} {}\" role=img aria-label=\"{title}\">",
            WIDTH + 60.0,
            HEIGHT + 40.0
        )?;
        for part in [0.0, 0.25, 0.5, 0.75, 1.0] {
            let (y, x) = (10.0 + HEIGHT * (1.0 - part), 45.0 + WIDTH * part);
            let (percent, value) = (part * 100.0, most * part);
            let end = 45.0 + WIDTH;
            writeln!(
                out,
                "<line class=rule x1=45 x2={end} y1={y} y2={y} /><text x=40 y={} text-anchor=end>{percent:.0} %</text>\
                 <text x={x} y={} text-anchor=middle>{value:.2}</text>",
                y + 4.0,
                HEIGHT + 28.0
            )?;
        }
        for (verdict, sorted) in Verdict::ALL.into_iter().zip(&lines) {
            write_line(out, verdict, sorted, most)?;
        }
        writeln!(
            out,
            "</svg><p class=legend><i class=h></i>H <i class=one></i>1 <i class=two></i>2</p>"
        )
    }

    fn write_failures(&self, out: &mut String) -> fmt::Result {
        let failures = self.failures();
        if failures.is_empty() {
            return writeln!(out, "<p>No run went against what is certain.</p>");
        }
        writeln!(out, "<h2>Failed</h2><pre>")?;
        for failure in failures {
            writeln!(out, "{failure}")?;
        }
        writeln!(out, "</pre>")
    }
}

fn write_cell(out: &mut String, cell: &Cell) -> fmt::Result {
    let figures = Figures::of(cell.runs.iter());
    let (a, b, verdict, percent) = (cell.a, cell.b, cell.verdict, figures.percent());
    let p50 = percentile(&figures.times, 50).map_or_else(none, millis);
    let p99 = percentile(&figures.times, 99).map_or_else(none, millis);
    let (direct, relayed, runs) = (figures.direct, figures.relayed, figures.runs);
    let (entries, searched, mark) = (figures.entries, figures.searched, figures.mark());
    write!(
        out,
        "<td style=\"--part:{percent:.0}%\" title=\"{a} and {b}: {direct} of {runs} direct, {searched} by search, {relayed} relayed; time to direct \
         p50 {p50}, p99 {p99}; most NAT entries {entries}\"><b>{verdict}</b> {percent:.0}{mark}</td>"
    )
}

fn write_figures_row(
    out: &mut String,
    allocator: Allocator,
    verdict: Verdict,
    figures: &Figures,
) -> fmt::Result {
    let time = |percent| percentile(&figures.times, percent).map_or_else(none, millis);
    let packets = |percent| percentile(&figures.packets, percent).unwrap_or(0);
    writeln!(
        out,
        "<tr><th>{allocator}</th><td>{verdict}</td><td>{}</td><td>{}</td><td>{}</td><td>{}</td><td>{}</td><td>{}</td><td>{}</td><td>{}</td>\
         <td>{}</td><td>{}</td><td>{}</td><td>{}</td></tr>",
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

fn write_line(out: &mut String, verdict: Verdict, sorted: &[f64], most: f64) -> fmt::Result {
    if sorted.is_empty() {
        return Ok(());
    }
    let class = match verdict {
        Verdict::Plain => "h",
        Verdict::OneSided => "one",
        Verdict::TwoSided => "two",
    };
    let count = f64::from(u32::try_from(sorted.len()).unwrap_or(u32::MAX));
    let mut points = format!("45,{} ", 10.0 + HEIGHT);
    // As many points as there are pixels.
    let step = sorted.len().div_ceil(600).max(1);
    for (index, value) in sorted.iter().enumerate().step_by(step) {
        let part = f64::from(u32::try_from(index + 1).unwrap_or(u32::MAX)) / count;
        let (x, y) = (45.0 + WIDTH * value / most, 10.0 + HEIGHT * (1.0 - part));
        write!(points, "{x:.1},{y:.1} ")?;
    }
    let last = sorted.last().copied().unwrap_or(0.0);
    let x = 45.0 + WIDTH * last / most;
    writeln!(
        out,
        "<polyline class={class} points=\"{points}{x:.1},10\" />"
    )
}

/// Of a plot, without its legends.
const WIDTH: f64 = 720.0;
const HEIGHT: f64 = 220.0;

const HEAD: &str = r#"<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>Kuguri: all pairs of NATs</title>
<style>
:root { color-scheme: light dark; --ink: #1d2330; --paper: #fff; --rule: #d5d9e2; --good: #8fd3a4; --bad: #f0a3a0;
  --h: #1a7f45; --one: #b26a00; --two: #a3262a; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e4e8f0; --paper: #14171d; --rule: #343a47; --good: #1f6b3c; --bad: #7a2b2b;
    --h: #5fd08c; --one: #f0ad4e; --two: #f27d7d; } }
body { font: 15px/1.45 system-ui, sans-serif; color: var(--ink); background: var(--paper); max-width: 60rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.1rem; margin-top: 2rem; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: .3rem .55rem; text-align: right; border: 1px solid var(--rule); } th { font-weight: 600; text-align: left; }
.grid td { text-align: center; min-width: 3.6rem; background: color-mix(in srgb, var(--good) var(--part, 0%), var(--bad)); }
svg { width: 100%; height: auto; font-size: 11px; } svg text { fill: var(--ink); } .rule { stroke: var(--rule); }
polyline { fill: none; stroke-width: 2; } polyline.h { stroke: var(--h); } polyline.one { stroke: var(--one); } polyline.two { stroke: var(--two); }
.met td { background: color-mix(in srgb, var(--good) 60%, transparent); } .missed td { background: var(--bad); }
.legend i { display: inline-block; width: 1.2rem; height: .2rem; margin: 0 .3rem .25rem .8rem; }
i.h { background: var(--h); } i.one { background: var(--one); } i.two { background: var(--two); }
pre { white-space: pre-wrap; }
</style></head><body>
"#;
