//! Configuration files read as a whole, every mistake named with its line.
