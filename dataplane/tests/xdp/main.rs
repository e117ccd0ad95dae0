//! AF_XDP between network namespaces, which these tests make themselves. They need root.

mod children;
mod errors;
mod filter;
mod link;
mod network;
mod traffic;
