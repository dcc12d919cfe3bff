//! The argv grammars of kubeadm and systemctl: what the user typed becomes typed data, exactly as the original reads it.
#![forbid(unsafe_code)]

pub mod kubeadm;
pub mod systemctl;
