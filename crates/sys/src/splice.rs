//! Moves bytes between descriptors without copying them.
