//! The server's session and a client that sends what it likes; see the driver.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| drivers::server_session::run(input));
