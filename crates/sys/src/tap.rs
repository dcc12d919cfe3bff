//! The persistent tap0.
