//! What a load has to send, in the order in which it goes out.

use std::collections::VecDeque;

use bytes::Bytes;

/// Requests on their way out: what is short is copied into one run of bytes, longer values are kept by
/// reference, as the client of our own protocol does it. Bounded by the requests in flight.
#[derive(Debug, Default)]
pub(super) struct Outbox {
    /// Copied bytes; those before `copied_start` are gone.
    copied: Vec<u8>,
    copied_start: usize,
    segments: VecDeque<Segment>,
}

#[derive(Debug)]
enum Segment {
    /// So many of the copied bytes.
    Copied(usize),
    /// A value.
    Shared(Bytes),
}

/// Values up to this are copied, as those of our own client: a slice more costs the kernel more.
const COPIED_SIZE_BYTES_MAX: usize = 1024;

impl Outbox {
    pub(super) fn is_empty(&self) -> bool {
        self.segments.is_empty()
    }

    /// Adds words of a request.
    pub(super) fn push(&mut self, bytes: &[u8]) {
        self.copied.extend_from_slice(bytes);
        match self.segments.back_mut() {
            Some(Segment::Copied(length)) => *length += bytes.len(),
            _ => self.segments.push_back(Segment::Copied(bytes.len())),
        }
    }

    /// Adds a number in decimal digits.
    pub(super) fn push_number(&mut self, number: u64) {
        let (digits, length) = decimal(number);
        self.push(&digits[..length]);
    }

    /// Adds a value.
    pub(super) fn push_value(&mut self, value: &Bytes) {
        if value.len() <= COPIED_SIZE_BYTES_MAX {
            return self.push(value);
        }
        self.segments.push_back(Segment::Shared(value.clone()));
    }

    /// Fills `slices` with the next bytes to send, and says how many slices it filled.
    pub(super) fn peek<'a>(&'a self, slices: &mut [&'a [u8]]) -> usize {
        let mut at = self.copied_start;
        let mut filled = 0;
        for (slice, segment) in slices.iter_mut().zip(&self.segments) {
            *slice = match segment {
                Segment::Copied(length) => {
                    at += length;
                    &self.copied[at - length..at]
                }
                Segment::Shared(bytes) => bytes,
            };
            filled += 1;
        }
        filled
    }

    /// Forgets the first `count` bytes, which were sent.
    pub(super) fn advance(&mut self, mut count: usize) {
        while count > 0 {
            let segment = self.segments.front_mut().expect("no more is sent than there was");
            let taken = match segment {
                Segment::Copied(length) => {
                    let taken = count.min(*length);
                    *length -= taken;
                    self.copied_start += taken;
                    taken
                }
                Segment::Shared(bytes) => {
                    let taken = count.min(bytes.len());
                    *bytes = bytes.slice(taken..);
                    taken
                }
            };
            count -= taken;
            let done = match segment {
                Segment::Copied(length) => *length == 0,
                Segment::Shared(bytes) => bytes.is_empty(),
            };
            if done {
                self.segments.pop_front();
            }
        }
        // Moving the rest costs less than what was sent, and happens the less often the more there is.
        if self.copied_start == self.copied.len() || self.copied_start > self.copied.len() / 2 {
            self.copied.drain(..self.copied_start);
            self.copied_start = 0;
        }
    }
}

/// The digits of a number, at most 20, and how many there are.
pub(super) fn decimal(mut number: u64) -> ([u8; 20], usize) {
    let mut digits = [0; 20];
    let mut length = 0;
    loop {
        digits[length] = b'0' + u8::try_from(number % 10).expect("one digit");
        length += 1;
        number /= 10;
        if number == 0 {
            break;
        }
    }
    digits[..length].reverse();
    (digits, length)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Takes everything out in steps of so many bytes.
    fn drain(outbox: &mut Outbox, step: usize) -> Vec<u8> {
        let mut taken = Vec::new();
        while !outbox.is_empty() {
            let mut slices: [&[u8]; 3] = [&[]; 3];
            let filled = outbox.peek(&mut slices);
            let offered: Vec<u8> = slices[..filled].concat();
            let count = step.min(offered.len());
            taken.extend_from_slice(&offered[..count]);
            outbox.advance(count);
        }
        taken
    }

    #[test]
    fn bytes_come_out_in_their_order_however_few_are_taken_at_once() {
        let long = Bytes::from(vec![b'x'; 2000]);
        let mut expected = Vec::new();
        for round in 0..20_u64 {
            expected.extend_from_slice(format!("set {round} ").as_bytes());
            expected.extend_from_slice(&long);
            expected.extend_from_slice(b"\r\nshort\r\n");
        }
        for step in [1, 7, 600, 5000] {
            let mut outbox = Outbox::default();
            for round in 0..20 {
                outbox.push(b"set ");
                outbox.push_number(round);
                outbox.push(b" ");
                outbox.push_value(&long);
                outbox.push(b"\r\n");
                outbox.push_value(&Bytes::from_static(b"short"));
                outbox.push(b"\r\n");
            }
            assert!(drain(&mut outbox, step) == expected, "in steps of {step}");
        }
    }

    #[test]
    fn numbers_have_no_zeros_before_them() {
        for number in [0, 7, 10, 99, 100, u64::MAX] {
            let (digits, length) = decimal(number);
            assert_eq!(digits[..length], *number.to_string().as_bytes());
        }
    }
}
