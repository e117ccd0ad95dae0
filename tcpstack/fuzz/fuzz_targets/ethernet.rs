//! Frames that come by an interface, up to the socket; see the driver.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| drivers::ethernet::run(input));
