//! Mail data; see the driver.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| drivers::content_decoder::run(input));
