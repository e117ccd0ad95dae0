//! The program in the kernel against its rule; see the driver.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| drivers::xdp_filter::run(input));
