//! What the fuzz targets do with their input. The tests of `gateway/smtp` do the same with the
//! corpora, so nothing here knows of a fuzzer.
//!
//! Each driver's `run` takes any bytes and panics if a rule is broken.

pub mod client_session;
pub mod content_decoder;
pub mod observer;
pub mod rules;
pub mod server_session;
pub mod steps;
