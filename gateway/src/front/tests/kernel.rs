//! The same over kernel sockets on the loopback interface.

use tcpstack::{Clock, KernelOptions, KernelTransport};

use super::*;

#[test]
fn mails_pass_over_kernel_sockets() {
    let loopback: SocketAddr = "127.0.0.1:0".parse().unwrap();
    let mut hop_transport = KernelTransport::new(KernelOptions::default()).unwrap();
    // Find a free port for the next hop before the front is told of it.
    let listener = hop_transport.listen(loopback).unwrap();
    let hop = hop_transport.local_address(listener).unwrap();
    hop_transport.unlisten(listener);
    let transport = || KernelTransport::new(KernelOptions::default()).unwrap();
    let transports = [transport(), transport(), hop_transport];
    let config = config(loopback, hop);
    let mut world = World::new(Time::Real(Clock::new()), &config, transports, hop);
    let session = world.session();
    let content = "0123456789012345678901234567890123456789\r\n..\r\n".repeat(900);
    for _ in 0..10 {
        world.mail(session, &["r@a.example", "s@b.example"], &content);
    }
    world.run_until("all", |world| world.next_hop.messages.len() == 20);
    for message in &world.next_hop.messages {
        assert!(message.content.ends_with(&content.replace("\n..", "\n.")));
    }
    world.front.stop();
    world.run_until("the end", |world| world.front.is_stopped());
    world.assert_board_is_whole();
}
