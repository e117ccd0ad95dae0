//! What the fuzz targets do with their input. The tests of `kvs` do the same with the corpora, so
//! nothing here knows of a fuzzer.
//!
//! Each driver's `run` takes any bytes and panics if a rule is broken.

pub mod queue_server;
