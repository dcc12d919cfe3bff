//! The new mount calls that nix does not offer.
