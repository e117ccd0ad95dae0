//! Inputs that are mostly what a peer sends, with steps of ours in between.
//!
//! Bytes below 0xf8 are the peer's. Those above, which no UTF-8 has, are followed by an argument:
//! [`REPEAT`] and its two arguments stand for many bytes, [`LITERAL`] and its argument for one that
//! could not be written otherwise, and the rest are steps.

use fuzzing::Script;

/// One step of a session.
#[derive(Debug)]
pub enum Step {
    /// The peer sends this, not empty.
    Wire(Vec<u8>),
    /// A step of ours: which, from 0xf8 on, and its argument.
    Ours(u8, u8),
}

/// Reads steps to the end of the script.
pub fn read(script: &mut Script<'_>) -> Vec<Step> {
    let mut steps = Vec::new();
    while !script.is_over() {
        match script.byte() {
            LITERAL => push(&mut steps, script.byte(), 1),
            REPEAT => {
                let count = 8 * usize::from(script.byte());
                push(&mut steps, script.byte(), count);
            }
            step @ 0xf8.. => steps.push(Step::Ours(step, script.byte())),
            byte => push(&mut steps, byte, 1),
        }
    }
    steps
}

fn push(steps: &mut Vec<Step>, byte: u8, count: usize) {
    if let Some(Step::Wire(wire)) = steps.last_mut() {
        wire.extend(std::iter::repeat_n(byte, count));
    } else if count > 0 {
        steps.push(Step::Wire(vec![byte; count]));
    }
}

/// Stands for the byte that follows.
const LITERAL: u8 = 0xff;
/// Stands for eight times the first argument of the second.
const REPEAT: u8 = 0xfe;
