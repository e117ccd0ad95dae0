//! The real worker over kernel TCP on the loopback device, one scenario per module.

mod backfill;
mod bounds;
mod bulk;
mod fencing;
mod garbage;
mod link;
mod reading;
