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
