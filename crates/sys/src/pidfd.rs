//! Processes held by descriptor.
