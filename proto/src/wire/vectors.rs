//! The test vectors in `PROTOCOL.md`, read from the text itself, so that what it says is what is tested.
//!
//! A vector is a fenced block whose info string is `vector NAME`; each line is `field = hexadecimal bytes` or
//! `field = "text"`, which may go on over several lines; blanks within the bytes do not count.

use std::collections::BTreeMap;

/// The whole description.
pub(crate) const TEXT: &str = include_str!("../../PROTOCOL.md");

/// The fields of one vector.
#[derive(Debug)]
pub(crate) struct Vector {
    name: &'static str,
    fields: BTreeMap<&'static str, Vec<u8>>,
}

impl Vector {
    /// The vector `name`; a test that asks for one that is not there fails.
    pub(crate) fn named(name: &'static str) -> Self {
        let fence = format!("```vector {name}\n");
        let (_, rest) = TEXT
            .split_once(&fence)
            .unwrap_or_else(|| panic!("PROTOCOL.md has no vector {name}"));
        let (block, _) = rest.split_once("```").expect("a fence ends");
        let mut fields: BTreeMap<&'static str, Vec<u8>> = BTreeMap::new();
        let mut field = "";
        for line in block.lines() {
            let digits = match line.split_once('=') {
                Some((name, digits)) => {
                    field = name.trim();
                    digits
                }
                None => line,
            };
            fields.entry(field).or_default().extend(bytes(digits));
        }
        Self { name, fields }
    }

    /// The bytes of a field.
    pub(crate) fn bytes(&self, field: &str) -> &[u8] {
        self.fields
            .get(field)
            .unwrap_or_else(|| panic!("vector {} has no field {field}", self.name))
    }

    /// A field that is a text.
    pub(crate) fn text(&self, field: &str) -> &str {
        std::str::from_utf8(self.bytes(field))
            .unwrap_or_else(|_| panic!("{}.{field} is no text", self.name))
    }

    /// The names of all fields: whoever checks a vector can see that none was left out.
    pub(crate) fn fields(&self) -> impl Iterator<Item = &'static str> {
        self.fields.keys().copied()
    }

    /// The bytes of a field of known length.
    pub(crate) fn array<const N: usize>(&self, field: &str) -> [u8; N] {
        self.bytes(field)
            .try_into()
            .unwrap_or_else(|_| panic!("{}.{field} is not of {N} bytes", self.name))
    }
}

fn bytes(digits: &str) -> Vec<u8> {
    if let Some(text) = digits.trim().strip_prefix('"') {
        let text = text
            .strip_suffix('"')
            .expect("quotation marks around a text");
        return text.as_bytes().to_vec();
    }
    let digits: String = digits.split_whitespace().collect();
    assert!(
        digits.len().is_multiple_of(2) && digits.is_ascii(),
        "not pairs of digits: {digits}"
    );
    (0..digits.len() / 2)
        .map(|at| u8::from_str_radix(&digits[2 * at..2 * at + 2], 16).expect("hexadecimal"))
        .collect()
}
