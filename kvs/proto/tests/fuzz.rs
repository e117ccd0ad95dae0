//! Runs the drivers of the fuzz targets on their corpora, and on inputs drawn at random.

use proptest::prelude::*;

#[expect(unreachable_pub, reason = "the crate of the fuzz targets has them as its library")]
#[path = "../fuzz/drivers/lib.rs"]
mod drivers;

const CORPORA: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/fuzz/corpus");

#[test]
fn frame_decoder() {
    fuzzing::replay(format!("{CORPORA}/frame_decoder.txt"), drivers::frame_decoder::run);
}

#[test]
fn link_client() {
    fuzzing::replay(format!("{CORPORA}/link_client.txt"), drivers::link_client::run);
}

proptest! {
    #[test]
    fn any_input_keeps_the_rules(input in proptest::collection::vec(any::<u8>(), 0..600)) {
        drivers::frame_decoder::run(&input);
        drivers::link_client::run(&input);
    }
}
