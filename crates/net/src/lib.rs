//! The node's link to the world: network drivers, and the port forwarder of drivers that have none of their own.
//!
//! The supervisor owns `tap0`, which is made persistent inside the namespace before a driver starts; a driver only
//! serves it. So a driver that dies takes no address, no route and no flannel.1 with it, and attaching again is no more
//! than attaching.
#![forbid(unsafe_code)]

pub mod driver;
pub mod echo;
mod error;
pub mod forward;
#[cfg(feature = "fuzzing")]
#[doc(hidden)]
pub mod fuzzing;
pub mod slirp4netns;

pub use driver::{Driver, Health, Link};
pub use error::Error;
