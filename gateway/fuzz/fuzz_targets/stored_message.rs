//! Messages and states as a backup returns them; see the driver.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| drivers::stored_message::run(input));
