//! The client's session and a next hop that answers what it likes; see the driver.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| drivers::client_session::run(input));
