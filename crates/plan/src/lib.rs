//! Pure decisions of u7s: configuration, request and facts become a plan, and every file that we write is rendered here.
//!
//! Nothing in this crate touches the machine; `clippy.toml` beside it forbids files, processes, clocks and sockets.
//! `host` and `supervisor` do not know each other: they meet in the types of this crate.
#![forbid(unsafe_code)]

pub mod audit;
pub mod calendar;
pub mod certificate;
pub mod checks;
pub mod closing;
pub mod cni;
pub mod config;
pub mod conntrack;
pub mod control;
pub mod crio;
pub mod facts;
pub mod firewall;
pub mod fix;
pub mod flannel;
pub mod forwarding;
pub mod health;
pub mod host;
pub mod init;
pub mod kubeadm;
pub mod kubeconfig;
pub mod nagios;
pub mod need;
pub mod node;
pub mod oci;
pub mod pki;
pub mod preflight;
pub mod printable;
pub mod redact;
pub mod request;
pub mod reset;
pub mod services;
pub mod step;
pub mod subid;
pub mod suggest;
pub mod timings;
pub mod trial;
pub mod yaml;

pub use init::init;
pub use reset::reset;
