//! Which tests run in a virtual machine.

use anyhow::{Result, bail};

/// The tests that say whether the main job is done on a kernel: each direction, allowed and dropped
/// in ways that the kernel programs tell apart by different facts, in both families; some of what only
/// these kernels can do; and whether the daemon finds out what they offer. Whole names.
const CORE: [&str; 29] = [
    "inbound/allowed/tcp7680/ipv4",
    "inbound/allowed/udp3544/ipv6",
    "inbound/nft_input_drop/tcp7680/ipv4",
    "inbound/nft_input_drop/udp443/ipv6",
    "inbound/iptables_legacy_drop/tcp443/ipv4",
    "inbound/nft_ingress_drop/udp3544/ipv4",
    "inbound/no_listener/tcp7680/ipv6",
    "inbound/no_listener/udp3544/ipv4",
    "inbound/rp_filter/tcp7680/ipv4",
    "outbound/allowed/tcp7680/ipv4",
    "outbound/allowed/udp443/ipv6",
    "outbound/nft_output_drop/tcp7680/ipv6",
    "outbound/iptables_nft_drop/udp3544/ipv4",
    "forwarded/allowed/tcp7680/ipv4",
    "forwarded/allowed/udp3544/ipv6",
    "forwarded/nft_forward_drop/tcp7680/ipv4",
    "forwarded/nft_forward_drop/tcp443/ipv6",
    "forwarded/nft_reject_icmp/tcp7680/ipv4",
    "forwarded/clsact_egress/tcp7680/ipv4",
    "forwarded/bridged/tcp7680/ipv4",
    "vm/vlan/forwarded_allowed/tcp7680/ipv4",
    "vm/nfqueue/forwarded_drop/tcp7680/ipv4",
    "vm/bond/active_backup_forwarded_allowed/tcp7680/ipv4",
    "lifecycle/inbound/chained_and_dropped/ipv6",
    "restarts/killed",
    "features/claims",
    "doctor/golden",
    "doctor/self_test",
    "lockdown/what_is_left",
];

/// The tests that have nothing to do with the kernel and need a program that is too big for the guest.
const HOST_ONLY: [&str; 1] = ["lifecycle/service/metrics_pass_promtool/"];

/// The tests for a kernel that is locked down begin so.
const LOCKED_DOWN: &str = "lockdown/";

/// Those for a kernel that runs as usual, and those for one that is locked down.
pub(super) fn by_boot(tests: Vec<String>) -> (Vec<String>, Vec<String>) {
    tests
        .into_iter()
        .partition(|test| !test.starts_with(LOCKED_DOWN))
}

/// All tests that can run in a virtual machine.
pub(super) fn possible(all: Vec<String>) -> Vec<String> {
    let fits = |test: &String| !HOST_ONLY.iter().any(|start| test.starts_with(start));
    all.into_iter().filter(fits).collect()
}

/// The tests to run out of all that there are: the core ones, or those whose name contains one of
/// `wanted`.
///
/// # Errors
///
/// When a core test is gone, or a wanted name is in no test's name.
pub(super) fn chosen(all: &[String], wanted: &[String]) -> Result<Vec<String>> {
    if wanted.is_empty() {
        let gone: Vec<_> = CORE
            .into_iter()
            .filter(|name| !all.iter().any(|test| test == name))
            .collect();
        if !gone.is_empty() {
            bail!("core tests that are no more: {}", gone.join(" "));
        }
        return Ok(CORE.map(str::to_owned).to_vec());
    }
    if let Some(unknown) = wanted
        .iter()
        .find(|name| !all.iter().any(|test| test.contains(name.as_str())))
    {
        bail!("no test has a name with {unknown:?}");
    }
    Ok(all
        .iter()
        .filter(|test| wanted.iter().any(|name| test.contains(name.as_str())))
        .cloned()
        .collect())
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    fn strings(names: &[&str]) -> Vec<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    #[test]
    fn core_tests_are_named_once() {
        assert_eq!(HashSet::from(CORE).len(), CORE.len());
    }

    #[test]
    fn what_belongs_to_the_host_does_not_run_in_a_guest() {
        let all = strings(&["a/b", "lifecycle/service/metrics_pass_promtool/ipv4"]);
        assert_eq!(possible(all), ["a/b"]);
    }

    #[test]
    fn what_needs_a_kernel_that_is_locked_down_is_apart() {
        let (usual, locked) = by_boot(strings(&["a/b", "lockdown/c"]));
        assert_eq!(
            (usual, locked),
            (strings(&["a/b"]), strings(&["lockdown/c"]))
        );
    }

    #[test]
    fn core_tests_run_when_none_is_named_and_all_are_there() {
        let all = strings(&CORE);
        assert_eq!(chosen(&all, &[]).unwrap(), all);
        let error = chosen(&all[1..], &[]).unwrap_err().to_string();
        assert!(error.ends_with(CORE[0]), "{error}");
    }

    #[test]
    fn tests_run_whose_name_contains_a_wanted_one() {
        let all = strings(&["inbound/a", "inbound/b", "outbound/a"]);
        let wanted = strings(&["outbound", "/b"]);
        assert_eq!(
            chosen(&all, &wanted).unwrap(),
            strings(&["inbound/b", "outbound/a"])
        );
        assert!(chosen(&all, &strings(&["outbound", "sideways"])).is_err());
    }
}
