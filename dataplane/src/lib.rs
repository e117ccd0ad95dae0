//! Frames between a link and memory: what stands below TCP.
