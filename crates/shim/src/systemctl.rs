//! argv of systemctl.
