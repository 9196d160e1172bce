//! An invite as a picture of characters, for a telephone's camera.

use qrcode::render::unicode::Dense1x2;
use qrcode::{EcLevel, QrCode};

/// The picture, two modules per character; `None` when the text is too long for one.
#[must_use]
pub fn picture(text: &str) -> Option<String> {
    let code = QrCode::with_error_correction_level(text, EcLevel::L).ok()?;
    let light_on_dark = code
        .render::<Dense1x2>()
        .dark_color(Dense1x2::Light)
        .light_color(Dense1x2::Dark)
        .build();
    Some(light_on_dark)
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_picture_is_a_rectangle_and_too_much_text_is_none() {
        let picture = super::picture("kuguri://office").expect("short");
        let mut widths = picture.lines().map(|line| line.chars().count());
        let first = widths.next().expect("a line");
        assert!(widths.all(|width| width == first));
        assert_eq!(super::picture(&"x".repeat(4000)), None);
    }
}
