//! A link's client and a server that does what it likes; see the driver.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| drivers::link_client::run(input));
