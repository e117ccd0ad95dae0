//! SMTP as a protocol: server and client sessions without IO.
