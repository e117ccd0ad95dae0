//! Numbers that mean something, each with a type of its own.

use core::fmt;

macro_rules! number {
    ($(#[$doc:meta])* $name:ident($inner:ty)) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
        pub struct $name(pub $inner);

        impl $name {
            /// The one after this. Stops the process at the end of the number's range, which no
            /// run reaches.
            #[must_use]
            pub const fn next(self) -> $name {
                match self.0.checked_add(1) {
                    Some(next) => $name(next),
                    None => panic!("a number ran out"),
                }
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({})"), self.0)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(&self.0, f)
            }
        }
    };
}

number! {
    /// A message within its queue. The gateway gives them out, growing, so that the order of ids is
    /// the order of the queue. 0 names no message.
    MessageId(u64)
}
number! {
    /// Which ownership of a queue a request belongs to. Grows with each change of owner (a
    /// restarted gateway is a new owner); a KVS refuses every lower one.
    Epoch(u64)
}
number! {
    /// Which connection of the owner's session a request came by. A resume raises it.
    Generation(u32)
}
number! {
    /// Numbers the changes that one owner asks one backup queue for, from 1 in each epoch.
    Sequence(u64)
}
number! {
    /// How many changes have been applied to a queue since it was created, across epochs.
    Transaction(u64)
}
number! {
    /// Which life of a KVS process this is: drawn at random when it starts, as its memory is empty
    /// then. Never 0.
    Incarnation(u64)
}
number! {
    /// What a connection calls a queue: chosen by the client in `Create` and `Attach`, known on
    /// that connection only.
    QueueHandle(u32)
}
number! {
    /// A number of the client's choice on a request that changes nothing; its answer carries it too.
    /// Travels in the header's sequence field.
    Tag(u64)
}
number! {
    /// Versions of one message's state record; 0 before the first. Grows with each `Replace`.
    StateVersion(u32)
}
number! {
    /// Stands for a body: `length << 32 | CRC32C`.
    BodyDigest(u64)
}
number! {
    /// Stands for a state record: `version << 32 | CRC32C`; 0 where there is none.
    StateDigest(u64)
}
number! {
    /// The running hash over a queue's changes; 0 before the first.
    ChainHash(u64)
}
number! {
    /// The sum over a queue's living messages; 0 when it is empty.
    ContentDigest(u64)
}

/// What a backup queue can still take.
///
/// A grant and not a reservation: the server's memory is shared by its queues, so a store within
/// credit may still be answered `ArenaFull`.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Credit {
    /// Messages.
    pub messages: u32,
    /// KiB of bodies, rounded down.
    pub kib: u32,
}

impl Credit {
    /// From room in messages and bytes; each saturates at the field's end.
    pub fn new(messages: u64, bytes: u64) -> Credit {
        Credit {
            messages: u32::try_from(messages).unwrap_or(u32::MAX),
            kib: u32::try_from(bytes / 1024).unwrap_or(u32::MAX),
        }
    }

    /// The lesser of both, in each field.
    #[must_use]
    pub fn min(self, other: Credit) -> Credit {
        let (messages, kib) = (self.messages.min(other.messages), self.kib.min(other.kib));
        Credit { messages, kib }
    }

    /// As it travels: `messages << 32 | KiB`.
    pub const fn to_bits(self) -> u64 {
        (self.messages as u64) << 32 | self.kib as u64
    }

    /// From what travelled.
    pub const fn from_bits(bits: u64) -> Credit {
        let [a, b, c, d, e, f, g, h] = bits.to_le_bytes();
        Credit { messages: u32::from_le_bytes([e, f, g, h]), kib: u32::from_le_bytes([a, b, c, d]) }
    }
}
