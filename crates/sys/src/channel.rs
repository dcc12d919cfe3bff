//! Packets with descriptors between the supervisor and pid 1.
