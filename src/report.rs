//! The only place that prints errors, hints and exit codes.
