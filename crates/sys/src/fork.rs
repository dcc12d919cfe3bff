//! Forks and executes programs with exactly the descriptors that are meant.
