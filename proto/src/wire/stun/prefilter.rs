//! The cheap look at a datagram before anything decodes it: is it one whole Binding message, and which attributes of it
//! do we read? Those alone are copied for the decoder; every other one is cut out or, if it must be understood, refused.

use super::{Class, HEADER, MAX_SIZE, StunError, Transaction};

/// What the cheap look finds.
pub(super) struct Outline {
    /// From the header.
    pub(super) class: Class,
    /// From the header.
    pub(super) transaction: Transaction,
    /// A message with the same header and only the attributes that we read.
    pub(super) kept: Vec<u8>,
    /// The value of MESSAGE-INTEGRITY-SHA256.
    pub(super) integrity: Option<[u8; 32]>,
    /// The value of FINGERPRINT.
    pub(super) fingerprint: Option<[u8; 4]>,
}

/// Looks at a whole datagram.
pub(super) fn outline(bytes: &[u8]) -> Result<Outline, StunError> {
    if !(HEADER..=MAX_SIZE).contains(&bytes.len()) {
        return Err(StunError::Length);
    }
    let header: &[u8; HEADER] = bytes.first_chunk().ok_or(StunError::Length)?;
    let class = class(header)?;
    let length = usize::from(u16::from_be_bytes([header[2], header[3]]));
    if length % 4 != 0 || HEADER + length != bytes.len() {
        return Err(StunError::Length);
    }
    let mut transaction = [0; 12];
    transaction.copy_from_slice(&header[8..]);
    let mut outline = Outline {
        class,
        transaction,
        kept: header.to_vec(),
        integrity: None,
        fingerprint: None,
    };
    outline.read_attributes(&bytes[HEADER..])?;
    Ok(outline)
}

impl Outline {
    fn read_attributes(&mut self, mut rest: &[u8]) -> Result<(), StunError> {
        while let Some((&[k0, k1, l0, l1], body)) = rest.split_first_chunk::<4>() {
            let kind = u16::from_be_bytes([k0, k1]);
            let length = usize::from(u16::from_be_bytes([l0, l1]));
            let padded = length.next_multiple_of(4);
            let value = body.get(..length).ok_or(StunError::Attribute)?;
            let after = body.get(padded..).ok_or(StunError::Attribute)?;
            self.take(kind, value, &rest[..4 + padded])?;
            rest = after;
        }
        if !rest.is_empty() {
            return Err(StunError::Attribute);
        }
        let length = u16::try_from(self.kept.len() - HEADER).map_err(|_| StunError::Length)?;
        self.kept[2..4].copy_from_slice(&length.to_be_bytes());
        Ok(())
    }

    fn take(&mut self, kind: u16, value: &[u8], whole: &[u8]) -> Result<(), StunError> {
        if self.fingerprint.is_some() {
            return Err(StunError::Attribute); // FINGERPRINT is the last one (RFC 8489, section 14.7)
        }
        match kind {
            MESSAGE_INTEGRITY_SHA256 => {
                // Truncated ones are allowed by section 14.6; we make none and want none.
                let tag = value.try_into().map_err(|_| StunError::Attribute)?;
                self.integrity.get_or_insert(tag);
            }
            FINGERPRINT => {
                let sum = value.try_into().map_err(|_| StunError::Attribute)?;
                self.fingerprint = Some(sum);
            }
            // What follows the integrity is not protected by it, and must be ignored (section 14.6).
            _ if self.integrity.is_some() => {}
            USERNAME if value.len() > MAX_USERNAME || !value.is_ascii() => {}
            USERNAME | XOR_MAPPED_ADDRESS | CHANGE_REQUEST | RESPONSE_ORIGIN | OTHER_ADDRESS => {
                self.kept.extend_from_slice(whole);
            }
            MAPPED_ADDRESS | MESSAGE_INTEGRITY | ERROR_CODE | PADDING => {}
            0..0x8000 => return Err(StunError::Unknown(kind)),
            _ => {}
        }
        Ok(())
    }
}

fn class(header: &[u8; HEADER]) -> Result<Class, StunError> {
    if header[0] & 0xc0 != 0 || header[4..8] != COOKIE {
        return Err(StunError::NotStun);
    }
    match u16::from_be_bytes([header[0], header[1]]) {
        0x0001 => Ok(Class::Request),
        0x0011 => Ok(Class::Indication),
        0x0101 => Ok(Class::Success),
        0x0111 => Ok(Class::Error),
        _ => Err(StunError::Method),
    }
}

/// RFC 8489, section 5.
pub(super) const COOKIE: [u8; 4] = [0x21, 0x12, 0xa4, 0x42];
/// Longer names are not ours, in bytes.
const MAX_USERNAME: usize = 64;

// RFC 8489, section 18.3, and RFC 5780, section 9.1.
pub(super) const MAPPED_ADDRESS: u16 = 0x0001;
pub(super) const CHANGE_REQUEST: u16 = 0x0003;
const USERNAME: u16 = 0x0006;
const MESSAGE_INTEGRITY: u16 = 0x0008;
const ERROR_CODE: u16 = 0x0009;
const MESSAGE_INTEGRITY_SHA256: u16 = 0x001c;
const XOR_MAPPED_ADDRESS: u16 = 0x0020;
const PADDING: u16 = 0x0026;
const FINGERPRINT: u16 = 0x8028;
const RESPONSE_ORIGIN: u16 = 0x802b;
const OTHER_ADDRESS: u16 = 0x802c;
