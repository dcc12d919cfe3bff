//! Joins the namespaces of a running node.
