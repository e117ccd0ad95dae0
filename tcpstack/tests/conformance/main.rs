//! One suite for every implementation of `Transport`: a loop that runs on one runs on all.

mod harness;
mod kernel;
mod segments;
mod sim;
mod suite;
mod userspace;
#[cfg(feature = "xdp")]
mod xdp;
// Hosts and a link between them, as the tests of the ports have them.
#[cfg(feature = "xdp")]
#[allow(dead_code)]
#[path = "../../../dataplane/tests/xdp/network.rs"]
mod network;

/// The suite, for one harness.
macro_rules! conformance {
    ($name:ident, $harness:ty, [$($test:ident),* $(,)?]) => {
        mod $name {
            $(
                #[test]
                fn $test() {
                    crate::suite::$test::<$harness>();
                }
            )*
        }
    };
}

/// Names the tests once for all harnesses: `$suite` is the macro that makes them, of those over IPv4 and of what else.
macro_rules! all {
    ($suite:ident, $name:ident, $harness:ty $(, $more:ident)*) => {
        $suite!($name, $harness, [
            $($more,)*
            connects_accepts_and_echoes,
            a_connect_to_nobody_is_refused,
            an_address_in_use_cannot_be_listened_at,
            a_send_before_connected_takes_nothing_and_brings_writable,
            a_close_before_connected_brings_no_event,
            content_survives_short_sends_both_ways,
            a_send_that_was_taken_whole_brings_no_writable,
            writable_comes_once_after_a_short_send,
            readable_repeats_until_all_is_taken,
            left_bytes_come_again_alone_and_first,
            recv_into_takes_left_bytes_then_the_rest,
            a_paused_connection_is_not_announced_until_resumed,
            finish_ends_one_direction_only,
            finish_reaches_the_peer_after_all_bytes,
            what_was_sent_arrives_after_a_close,
            the_last_reply_survives_a_close_before_all_was_read,
            an_abort_is_a_reset_at_the_peer,
            a_reset_is_noticed_while_paused,
            a_reset_is_noticed_after_the_peer_finished,
            a_stale_name_does_not_reach_the_next_connection,
            no_event_comes_for_a_closed_name,
            unlisten_refuses_newcomers_and_keeps_the_others,
            many_connections_do_not_mix,
            a_full_table_refuses_to_connect,
            newcomers_wait_for_a_place_at_a_full_server,
        ]);
    };
}

/// The suite over IPv4 and IPv6, for each of these harnesses.
macro_rules! over_both {
    ($($name:ident: $harness:ty),* $(,)?) => {
        $(all!(conformance, $name, $harness, connects_over_ipv6);)*
    };
}

over_both! {
    over_kernel: crate::kernel::KernelPair,
    over_sim: crate::sim::SimPair<1>,
    over_sim_with_another_seed: crate::sim::SimPair<2>,
    over_sim_with_a_third_seed: crate::sim::SimPair<3>,
    over_smoltcp: crate::userspace::UserspacePair<0>,
    over_a_segment: crate::segments::SegmentPair<true>,
    over_the_kernel_beside_a_segment: crate::segments::SegmentPair<false>,
}

// Only tests that wait for events, and not for quiet, mean something here.
conformance!(
    over_smoltcp_with_loss,
    crate::userspace::UserspacePair<20_000>,
    [
        connects_accepts_and_echoes,
        content_survives_short_sends_both_ways,
        many_connections_do_not_mix,
        finish_reaches_the_peer_after_all_bytes,
        what_was_sent_arrives_after_a_close,
    ]
);

/// Over AF_XDP, which knows IPv4 alone. Each needs root, and two network namespaces.
#[cfg(feature = "xdp")]
macro_rules! over_xdp {
    ($name:ident, $harness:ty, [$($test:ident),* $(,)?]) => {
        mod $name {
            $(
                #[test]
                fn $test() {
                    if crate::network::is_root() {
                        crate::suite::$test::<$harness>();
                    }
                }
            )*
        }
    };
}

#[cfg(feature = "xdp")]
all!(over_xdp, over_xdp_in_the_driver, crate::xdp::XdpPair<false>);

#[cfg(feature = "xdp")]
over_xdp!(
    over_xdp_in_generic_mode,
    crate::xdp::XdpPair<true>,
    [
        connects_accepts_and_echoes,
        content_survives_short_sends_both_ways,
        many_connections_do_not_mix,
        finish_reaches_the_peer_after_all_bytes,
        the_last_reply_survives_a_close_before_all_was_read,
        an_abort_is_a_reset_at_the_peer,
        newcomers_wait_for_a_place_at_a_full_server,
    ]
);
