//! The server's end of links, and clients that send what they like; see the driver.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| drivers::queue_server::run(input));
