//! Frames and their bodies; see the driver.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| drivers::frame_decoder::run(input));
