//! The backup queue server.
