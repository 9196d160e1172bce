//! Results on stdout. A reader that went away is no error; a disk that is full is one, and the process must not end as if all
//! were well: the first such failure is kept until the end.

use std::io::{self, ErrorKind, Write};
use std::sync::OnceLock;

/// Writes a line of result.
pub fn line(text: &str) {
    write(&format!("{text}\n"));
}

/// Writes text as it is. Whether this was the first that could not be written.
pub fn write(text: &str) -> bool {
    let mut out = anstream::stdout().lock();
    let written = out.write_all(text.as_bytes()).and_then(|()| out.flush());
    match sentence(written) {
        Some(sentence) => FAILURE.set(sentence).is_ok(),
        None => false,
    }
}

/// Why something could not be written, in one sentence.
#[must_use]
pub fn failure() -> Option<&'static str> {
    FAILURE.get().map(String::as_str)
}

fn sentence(written: io::Result<()>) -> Option<String> {
    let error = written
        .err()
        .filter(|error| error.kind() != ErrorKind::BrokenPipe)?;
    Some(format!(
        "stdout cannot be written ({error}); make room there, or send it elsewhere"
    ))
}

/// There is one stdout in a process, and so one of these.
static FAILURE: OnceLock<String> = OnceLock::new();

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reader_that_went_away_is_no_error_and_a_full_disk_is() {
        assert_eq!(sentence(Ok(())), None);
        assert_eq!(sentence(Err(ErrorKind::BrokenPipe.into())), None);
        let full = sentence(Err(ErrorKind::StorageFull.into())).expect("an error");
        assert!(full.contains("make room"), "{full}");
    }
}
