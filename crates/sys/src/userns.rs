//! Facts about user namespaces.
