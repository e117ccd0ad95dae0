//! What cannot be opened, and what is said about it.

use dataplane::xdp::{XdpError, XdpInterface, XdpMode};

use crate::network::{INTERFACE, Link, is_root, options};

#[test]
fn there_is_no_such_interface() {
    if is_root() {
        let mut options = options(0, XdpMode::Copy);
        options.interface = "there-is-none".to_owned();
        let error = XdpInterface::open(&options).unwrap_err();
        assert_eq!(error.to_string(), "there is no interface there-is-none");
    }
}

#[test]
fn the_loopback_is_no_ethernet() {
    if is_root() {
        let mut options = options(0, XdpMode::Generic);
        options.interface = "lo".to_owned();
        // It says that it is, but has no address of its own.
        let error = XdpInterface::open(&options).unwrap_err();
        assert!(matches!(error, XdpError::NotEthernet(_)), "{error}");
    }
}

#[test]
fn a_queue_beyond_those_that_there_are() {
    if is_root() {
        let link = Link::new(2);
        link.hosts[0].enter();
        let mut options = options(0, XdpMode::Copy);
        options.filter.blocks[0].queue = 2;
        let error = XdpInterface::open(&options).unwrap_err();
        assert!(
            error.to_string().starts_with("hk0 has no NIC queue 2: there are 2, counted from 0"),
            "{error}"
        );
        assert!(!link.hosts[0].has_program(), "nothing is left behind");
    }
}

#[test]
fn an_interface_is_opened_once() {
    if is_root() {
        let link = Link::new(2);
        let (first, ports) = link.open(0, &options(0, XdpMode::Copy));
        let mut second = options(0, XdpMode::Copy);
        let error = XdpInterface::open(&second).unwrap_err();
        assert_eq!(
            error.to_string(),
            "NIC queue 0 of hk0 is in use by another AF_XDP socket, perhaps of another process"
        );
        second.filter.blocks[0].queue = 1;
        let error = XdpInterface::open(&second).unwrap_err();
        assert!(error.to_string().starts_with("hk0 has an XDP program already"), "{error}");
        second.mode = None;
        let error = XdpInterface::open(&second).unwrap_err();
        assert!(matches!(error, XdpError::HasProgram(_)), "{error}");
        drop(first);
        assert!(link.hosts[0].has_program(), "a port is left");
        drop(ports);
        assert!(!link.hosts[0].has_program());
        link.open(0, &second);
    }
}

#[test]
fn a_mode_that_the_driver_does_not_know() {
    if is_root() {
        let link = Link::new(1);
        link.hosts[0].enter();
        let error = XdpInterface::open(&options(0, XdpMode::ZeroCopy)).unwrap_err();
        assert!(matches!(error, XdpError::System { .. }), "{error}");
        // Longer packets than the driver can give to a program.
        for host in &link.hosts {
            host.run(&format!("ip link set {INTERFACE} mtu 9000"));
        }
        link.hosts[0].enter();
        let error = XdpInterface::open(&options(0, XdpMode::Copy)).unwrap_err();
        assert!(error.to_string().contains("MTU"), "{error}");
        let mut auto = options(0, XdpMode::Copy);
        auto.mode = None;
        let (interface, _ports) = link.open(0, &auto);
        let report = interface.report();
        assert_eq!((report.mode, report.mtu), (XdpMode::Generic, 1_778));
    }
}
