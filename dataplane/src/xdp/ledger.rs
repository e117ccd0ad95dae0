//! Where the frames of a NIC queue are.

use std::collections::VecDeque;

/// The frames of a NIC queue by where they are. `S` is the right to one frame: who has it may read and write there.
///
/// A frame is free, kept for what is to come, with the kernel for that, received, about to be sent, with the kernel
/// to be sent, or in a token's hands; and the sum of all these stays the same.
#[derive(Debug)]
pub(super) struct Ledger<S> {
    total: usize,
    /// For what is to be sent.
    pub(super) free: Vec<S>,
    /// For what is to come, and not with the kernel yet.
    pub(super) to_fill: Vec<S>,
    /// With the kernel, for what is to come.
    pub(super) filling: usize,
    pub(super) received: VecDeque<S>,
    pub(super) to_send: VecDeque<S>,
    /// With the kernel, to be sent.
    pub(super) sending: usize,
    /// In a token's hands.
    lent: usize,
}

impl<S> Ledger<S> {
    /// Half of these frames for what is to come, the others for what is to be sent.
    pub(super) fn new(mut frames: Vec<S>) -> Ledger<S> {
        let total = frames.len();
        let to_fill = frames.split_off(total / 2);
        let (received, to_send) = (VecDeque::new(), VecDeque::new());
        Ledger { total, free: frames, to_fill, filling: 0, received, to_send, sending: 0, lent: 0 }
    }

    /// The oldest packet that has come.
    pub(super) fn take_received(&mut self) -> Option<S> {
        let frame = self.received.pop_front()?;
        self.lent += 1;
        Some(frame)
    }

    /// It was read.
    pub(super) fn give_back_received(&mut self, frame: S) {
        self.lent -= 1;
        self.to_fill.push(frame);
    }

    /// A frame to write to.
    pub(super) fn take_free(&mut self) -> Option<S> {
        let frame = self.free.pop()?;
        self.lent += 1;
        Some(frame)
    }

    /// It was written to, and is to be sent.
    pub(super) fn give_to_send(&mut self, frame: S) {
        self.lent -= 1;
        self.to_send.push_back(frame);
    }

    /// It was written to in vain.
    pub(super) fn give_back_free(&mut self, frame: S) {
        self.lent -= 1;
        self.free.push(frame);
    }

    /// # Panics
    /// If a frame is missing, or there is one more: then two would write to one place.
    pub(super) fn assert_conserved(&self) {
        let (free, received) = (self.free.len(), self.received.len());
        let (fill, send) = (self.to_fill.len() + self.filling, self.to_send.len() + self.sending);
        let there = free + fill + received + send + self.lent;
        assert!(
            there == self.total,
            "{free} free + {fill} fill + {received} received + {send} sent + {} lent != {}",
            self.lent,
            self.total
        );
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A kernel that takes frames and returns them, in any order.
    #[derive(Default)]
    struct Kernel {
        filling: Vec<u32>,
        sending: Vec<u32>,
    }

    #[derive(Clone, Copy, Debug)]
    enum Step {
        Fill(usize),
        Receive(usize),
        Read,
        Write(bool),
        Send(usize),
        Complete(usize),
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let step = prop_oneof![
            (0..8_usize).prop_map(Step::Fill),
            (0..8_usize).prop_map(Step::Receive),
            Just(Step::Read),
            any::<bool>().prop_map(Step::Write),
            (0..8_usize).prop_map(Step::Send),
            (0..8_usize).prop_map(Step::Complete),
        ];
        prop::collection::vec(step, 0..200)
    }

    fn run(ledger: &mut Ledger<u32>, kernel: &mut Kernel, step: Step) {
        match step {
            Step::Fill(count) => {
                let count = count.min(ledger.to_fill.len());
                kernel.filling.extend(ledger.to_fill.drain(..count));
                ledger.filling += count;
            }
            Step::Receive(count) => {
                let count = count.min(kernel.filling.len());
                ledger.received.extend(kernel.filling.drain(..count));
                ledger.filling -= count;
            }
            Step::Read => {
                if let Some(frame) = ledger.take_received() {
                    ledger.assert_conserved();
                    ledger.give_back_received(frame);
                }
            }
            Step::Write(whole) => {
                if let Some(frame) = ledger.take_free() {
                    ledger.assert_conserved();
                    match whole {
                        true => ledger.give_to_send(frame),
                        false => ledger.give_back_free(frame),
                    }
                }
            }
            Step::Send(count) => {
                let count = count.min(ledger.to_send.len());
                kernel.sending.extend(ledger.to_send.drain(..count));
                ledger.sending += count;
            }
            Step::Complete(count) => {
                let count = count.min(kernel.sending.len());
                ledger.free.extend(kernel.sending.drain(..count));
                ledger.sending -= count;
            }
        }
    }

    proptest! {
        #[test]
        fn no_frame_is_lost_or_made(steps in steps()) {
            let mut ledger = Ledger::new((0..16).collect());
            let mut kernel = Kernel::default();
            for step in steps {
                run(&mut ledger, &mut kernel, step);
                ledger.assert_conserved();
            }
            let mut all: Vec<u32> = ledger.free;
            all.extend(ledger.to_fill);
            all.extend(ledger.received);
            all.extend(ledger.to_send);
            all.extend(kernel.filling);
            all.extend(kernel.sending);
            all.sort_unstable();
            prop_assert_eq!(all, (0..16).collect::<Vec<u32>>());
        }
    }

    #[test]
    #[should_panic(expected = "2 free + 2 fill + 0 received + 0 sent + 0 lent != 5")]
    fn a_lost_frame_is_found() {
        let mut ledger = Ledger::new(vec![1, 2, 3, 4, 5]);
        ledger.to_fill.pop();
        ledger.assert_conserved();
    }

    #[test]
    #[should_panic(expected = "3 free")]
    fn a_frame_too_many_is_found() {
        let mut ledger = Ledger::new(vec![1, 2, 3, 4]);
        ledger.free.push(1);
        ledger.assert_conserved();
    }
}
