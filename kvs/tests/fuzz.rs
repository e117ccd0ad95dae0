//! Runs the drivers of the fuzz targets on their corpora, and on inputs drawn at random.

use proptest::prelude::*;

#[expect(unreachable_pub, reason = "the crate of the fuzz targets has them as its library")]
#[path = "../fuzz/drivers/lib.rs"]
mod drivers;

const CORPORA: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/fuzz/corpus");

#[test]
fn queue_server() {
    fuzzing::replay(format!("{CORPORA}/queue_server.txt"), drivers::queue_server::run);
}

proptest! {
    #[test]
    fn any_input_keeps_the_rules(input in proptest::collection::vec(any::<u8>(), 0..300)) {
        drivers::queue_server::run(&input);
    }
}
