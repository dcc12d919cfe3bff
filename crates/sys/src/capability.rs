//! Capability sets of the calling process.
