//! Terminals for entered processes.
