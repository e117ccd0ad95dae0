//! Runs the drivers of the fuzz targets on their corpora, and on inputs drawn at random.

use proptest::prelude::*;

#[expect(unreachable_pub, reason = "the crate of the fuzz targets has them as its library")]
#[path = "../fuzz/drivers/lib.rs"]
mod drivers;

const CORPORA: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/fuzz/corpus");

#[test]
fn stored_message() {
    fuzzing::replay(format!("{CORPORA}/stored_message.txt"), drivers::stored_message::run);
}

proptest! {
    #[test]
    fn any_input_keeps_the_rules(input in proptest::collection::vec(any::<u8>(), 0..600)) {
        drivers::stored_message::run(&input);
    }
}
