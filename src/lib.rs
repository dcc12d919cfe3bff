//! The doors of u7s share one room: [`report`].
#![forbid(unsafe_code)]

pub mod report;
