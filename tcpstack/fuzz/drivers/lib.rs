//! What the fuzz targets do with their input. The tests of `tcpstack` do the same with the corpora, so
//! nothing here knows of a fuzzer.
//!
//! Each driver's `run` takes any bytes and panics if a rule is broken.

pub mod ethernet;
#[allow(dead_code)]
#[path = "../../../dataplane/tests/xdp/network.rs"]
mod network;
pub mod xdp_filter;
