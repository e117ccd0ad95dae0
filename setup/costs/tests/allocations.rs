//! How often a message makes use of the allocator in the steady state.

use std::sync::Mutex;

use costs::{BLOCK, Gauge, part};

#[global_allocator]
static ALLOCATOR: dhat::Alloc = dhat::Alloc;

/// The allocator's counts are the process's: one test at a time.
static ALONE: Mutex<()> = Mutex::new(());

/// By then a part has the memory that it keeps.
const WARM_UP_BLOCKS: usize = 400;
const BLOCKS: usize = 100;
const MESSAGES: u64 = (BLOCKS * BLOCK) as u64;

/// Counts allocations between its calls.
#[derive(Default)]
struct Allocations {
    at: u64,
    count: u64,
}

impl Gauge for Allocations {
    fn begin(&mut self) {
        self.at = dhat::HeapStats::get().total_blocks;
    }

    fn end(&mut self) {
        self.count += dhat::HeapStats::get().total_blocks - self.at;
    }
}

/// Allocations of the part for all messages.
fn allocations(name: &str) -> u64 {
    let _alone = ALONE.lock().unwrap();
    let _profiler = dhat::Profiler::builder().testing().build();
    let mut part = part(name).expect("a part of that name");
    let mut gauge = Allocations::default();
    (0..WARM_UP_BLOCKS).for_each(|_| part.handle_block(&mut gauge));
    gauge.count = 0;
    (0..BLOCKS).for_each(|_| part.handle_block(&mut gauge));
    gauge.count
}

#[test]
fn a_kvs_allocates_nothing_for_what_it_stores_and_deletes() {
    assert_eq!(allocations("kvs"), 0);
    assert_eq!(allocations("kvs-10k"), 0);
    assert_eq!(allocations("kvs-queues"), 0);
}

#[test]
fn replication_allocates_what_a_message_is_encoded_in_and_nodes_of_the_queues_maps() {
    // Its head as the copies get it is memory and a count of its users; a node of a map is there for several.
    let (count, nodes) = (allocations("replication"), MESSAGES / 4);
    assert!(count <= 2 * MESSAGES + nodes, "{count} for {MESSAGES} messages");
    assert!(count >= 2 * MESSAGES, "{count}: it is counted");
}

#[test]
fn reception_allocates_the_two_addresses_that_are_kept() {
    assert_eq!(allocations("reception"), 2 * MESSAGES);
}

#[test]
fn delivery_allocates_its_results_and_the_texts_of_replies() {
    assert_eq!(allocations("delivery"), 8 * MESSAGES);
}
