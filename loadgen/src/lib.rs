//! Load, sinks, measurements and the ledger.
