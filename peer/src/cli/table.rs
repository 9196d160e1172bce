//! Columns for a terminal, and figures as people read them.

use std::fmt::Write;

/// Rows under a header, every column as wide as its widest cell, indented by two.
pub(super) fn table(header: &[&str], rows: &[Vec<String>]) -> String {
    let width = |column: usize| {
        let cells = rows.iter().filter_map(|row| row.get(column));
        let widest = cells.map(|cell| cell.chars().count()).max().unwrap_or(0);
        widest.max(header.get(column).map_or(0, |name| name.len()))
    };
    let widths: Vec<usize> = (0..header.len()).map(width).collect();
    let mut text = String::new();
    let mut line = |cells: &mut dyn Iterator<Item = &str>| {
        let mut padded = String::new();
        for (cell, width) in cells.zip(&widths) {
            // Writing to a string cannot fail.
            let _ = write!(padded, "  {cell:width$}");
        }
        text.push_str(padded.trim_end());
        text.push('\n');
    };
    line(&mut header.iter().copied());
    for row in rows {
        line(&mut row.iter().map(String::as_str));
    }
    text
}

/// Bytes with the prefix that leaves at most three digits before the point.
pub(super) fn bytes(count: u64) -> String {
    let mut rest = count;
    let mut below = 0;
    for unit in ["B", "kB", "MB", "GB", "TB", "PB"] {
        if rest < 1000 {
            return match unit {
                "B" => format!("{rest} B"),
                _ => format!("{rest}.{} {unit}", below / 100),
            };
        }
        (rest, below) = (rest / 1000, rest % 1000);
    }
    format!("{rest} EB")
}

/// A duration of so many seconds by its two largest units.
pub(super) fn duration(seconds: f64) -> String {
    let whole = std::time::Duration::try_from_secs_f64(seconds)
        .unwrap_or_default()
        .as_secs();
    let (minutes, hours, days) = (whole / 60, whole / 3600, whole / 86_400);
    if days > 0 {
        format!("{days} d {} h", hours % 24)
    } else if hours > 0 {
        format!("{hours} h {} min", minutes % 60)
    } else if minutes > 0 {
        format!("{minutes} min {} s", whole % 60)
    } else {
        format!("{whole} s")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_aligned_and_lines_have_no_tail() {
        let rows = [
            vec!["a".into(), "b".into()],
            vec!["äöü".into(), String::new()],
        ];
        assert_eq!(table(&["X", "YY"], &rows), "  X    YY\n  a    b\n  äöü\n");
    }

    #[test]
    fn figures_are_short() {
        for (count, text) in [
            (0, "0 B"),
            (999, "999 B"),
            (1000, "1.0 kB"),
            (1_299_999, "1.2 MB"),
            (u64::MAX, "18 EB"),
        ] {
            assert_eq!(bytes(count), text);
        }
        for (seconds, text) in [
            (0.9, "0 s"),
            (61.0, "1 min 1 s"),
            (7261.0, "2 h 1 min"),
            (90_000.0, "1 d 1 h"),
            (f64::NAN, "0 s"),
        ] {
            assert_eq!(duration(seconds), text);
        }
    }
}
