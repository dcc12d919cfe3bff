//! The port forwarder and slirp4netns with real namespaces, real sockets and real processes; needs root.
#![expect(clippy::unwrap_used, clippy::panic, clippy::print_stdout, reason = "a test program of its own")]

mod bed;
mod datagrams;
mod limits;
mod roles;
mod slirp;
mod streams;

use libtest_mimic::{Arguments, Trial};

fn main() {
    if let Ok(role) = std::env::var("U7S_TEST_ROLE") {
        roles::play(&role);
        return;
    }
    let tests: [(&str, fn()); _] = [
        ("a_client_outside_is_seen_with_its_own_address", streams::source_outside),
        ("the_host_itself_is_seen_with_the_gateways_address", streams::source_host),
        ("200_mb_each_way_at_once_arrive_unchanged", streams::both_ways),
        ("a_half_closed_connection_lives_on_the_other_way", streams::half_close),
        ("a_reset_is_passed_on_both_ways", streams::reset),
        ("a_refused_connection_is_reset_at_once", streams::refused),
        ("a_service_that_does_not_answer_is_given_up", streams::unanswered),
        ("a_slow_reader_holds_the_sender_back_in_bounded_memory", streams::slow_reader),
        ("slow_readers_that_hold_all_pipes_stop_nobody_else", streams::slow_readers),
        ("2000_idle_connections_cost_two_descriptors_each", limits::idle),
        ("a_full_forwarder_stops_accepting_and_resumes_without_a_loss", limits::full),
        ("f10_silent_clients_of_another_port_leave_room_for_the_nodes_own", limits::own_ports),
        ("f10_one_address_has_no_more_than_its_part", limits::one_address),
        ("f10_in_a_full_forwarder_the_oldest_idle_ones_of_who_has_the_most_give_way", limits::oldest_idle),
        ("f11_connections_from_addresses_of_the_inside_are_refused", limits::inside_sources),
        ("f11_datagrams_from_addresses_of_the_inside_are_lost", datagrams::inside_sources),
        ("an_acceptor_without_descriptors_pauses_and_resumes", limits::no_descriptors),
        ("a_killed_inner_half_is_replaced", limits::replaced),
        ("an_inner_half_that_lost_its_host_half_ends_with_its_last_connection", limits::orphan),
        ("a_client_that_used_up_the_local_ports_is_still_served", limits::used_up_ports),
        ("a_taken_port_names_its_owner", limits::taken_port),
        ("a_datagram_keeps_its_source_and_the_answer_comes_from_where_it_went", datagrams::source_outside),
        ("datagrams_of_the_host_itself_are_told_apart", datagrams::source_host),
        ("ports_for_datagrams_are_opened_and_closed_at_run_time", datagrams::opened_and_closed),
        ("a_taken_port_for_datagrams_is_an_error_of_that_port_alone", datagrams::taken),
        ("datagrams_survive_a_new_inner_half", datagrams::replaced),
        ("vxlan_goes_out_by_the_port_that_it_comes_in_by", datagrams::peers),
        ("datagrams_keep_their_order_and_this_is_their_speed", datagrams::order_and_speed),
        ("slirp4netns_carries_packets_and_can_be_killed_and_attached_again", slirp::attach_again),
        ("slirp4netns_ends_with_its_exit_descriptor", slirp::exit_descriptor),
    ];
    let trial = |(name, test): (&str, fn())| {
        Trial::test(name, move || {
            test();
            Ok(())
        })
    };
    libtest_mimic::run(&Arguments::from_args(), tests.map(trial).into()).exit();
}
