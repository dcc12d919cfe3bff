//! One clone3 that makes every namespace of the node.
