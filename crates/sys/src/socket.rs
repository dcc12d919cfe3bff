//! Socket options and descriptor passing that std does not offer.
