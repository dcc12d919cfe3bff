//! Addresses, routes and rules of the node's network namespace.
