//! Any parts of frames in any order, with pauses: whole frames have a possible length, and nothing waits for ever.

#![no_main]

use std::time::{Duration, Instant};

use kuguri_proto::link::pack::reassemble::MAX_AGE;
use kuguri_proto::link::pack::{Reassembler, check_length};
use kuguri_proto::wire::chunk::Fragment;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let mut now = Instant::now();
    let mut reassembler = Reassembler::default();
    let mut rest = bytes;
    // Each step: pause (in 8 ms), frame, offset, total, how much; then that many bytes of the frame.
    while let Some((&[pause, number, o0, o1, t0, t1, t2, amount], behind)) =
        rest.split_first_chunk()
    {
        let (part, behind) = behind.split_at(behind.len().min(usize::from(amount)));
        rest = behind;
        now += Duration::from_millis(8 * u64::from(pause));
        let fragment = Fragment {
            number: u32::from(number),
            offset: u32::from_be_bytes([0, 0, o0, o1]),
            total: u32::from_be_bytes([0, t0 % 2, t1, t2]),
            bytes: part,
        };
        if let Ok(Some(frame)) = reassembler.handle_fragment(fragment, now) {
            assert!(check_length(frame.len()).is_ok());
            assert_eq!(frame.len(), usize::try_from(fragment.total).expect("small"));
            let at = usize::try_from(fragment.offset).expect("small");
            assert_eq!(&frame[at..at + part.len()], part);
        }
        assert!(
            reassembler
                .poll_timeout()
                .is_none_or(|due| due <= now + MAX_AGE)
        );
    }
    reassembler.handle_timeout(now + MAX_AGE);
    assert_eq!(reassembler.poll_timeout(), None);
});
