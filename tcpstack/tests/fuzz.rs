//! Runs the drivers of the fuzz targets on their corpora, and on inputs drawn at random.
#![cfg(feature = "xdp")]

use proptest::prelude::*;

#[expect(unreachable_pub, reason = "the crate of the fuzz targets has them as its library")]
#[path = "../fuzz/drivers/lib.rs"]
mod drivers;

const CORPORA: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/fuzz/corpus");

#[test]
fn ethernet() {
    fuzzing::replay(format!("{CORPORA}/ethernet.txt"), drivers::ethernet::run);
}

#[test]
fn xdp_filter() {
    fuzzing::replay(format!("{CORPORA}/xdp_filter.txt"), drivers::xdp_filter::run);
}

proptest! {
    #[test]
    fn any_frames_keep_the_rules(input in proptest::collection::vec(any::<u8>(), 0..300)) {
        drivers::ethernet::run(&input);
    }

    #[test]
    fn any_frame_is_told_apart_by_the_rule(input in proptest::collection::vec(any::<u8>(), 0..60)) {
        drivers::xdp_filter::run(&input);
    }
}
