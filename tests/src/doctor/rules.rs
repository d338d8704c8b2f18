//! Which rules name a watched port: those of nft, and those of iptables in tables of nftables, whose matches are
//! another kind of expression.

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use super::Rig;
use crate::netlink::{Attributes, nftables};
use crate::netns::NetNs;

/// From `linux/netfilter/nf_tables.h` and `nf_tables_compat.h`; the table's name is number 1 of a rule.
const NFT_MSG_NEWRULE: u16 = 6;
const NFTA_RULE_TABLE: u16 = 1;
const NFTA_RULE_CHAIN: u16 = 2;
const NFTA_RULE_EXPRESSIONS: u16 = 4;
const NFTA_RULE_COMPAT: u16 = 5;
const NFTA_RULE_COMPAT_PROTO: u16 = 1;
const NFTA_RULE_COMPAT_FLAGS: u16 = 2;
const NFTA_LIST_ELEM: u16 = 1;
const NFTA_EXPR_NAME: u16 = 1;
const NFTA_EXPR_DATA: u16 = 2;
const NFTA_MATCH_NAME: u16 = 1;
const NFTA_MATCH_REV: u16 = 2;
const NFTA_MATCH_INFO: u16 = 3;
const NFTA_IMMEDIATE_DREG: u16 = 1;
const NFTA_IMMEDIATE_DATA: u16 = 2;
const NFTA_DATA_VERDICT: u16 = 2;
const NFTA_VERDICT_CODE: u16 = 1;
const NFT_REG_VERDICT: u32 = 0;
const NF_DROP: u32 = 0;
const NFPROTO_IPV4: u8 = 2;

/// A rule that has to be told: the port, the chain, a hook, and the verdict.
type Wanted = (&'static str, &'static str, &'static str, &'static str);

/// What the report says of a watched port.
fn port(report: &Value, name: &str) -> Result<Value> {
    let ports = report["firewall"]["ports"].as_array();
    let found = ports.and_then(|ports| ports.iter().find(|one| one["port"] == name));
    Ok(found
        .with_context(|| format!("no {name}: {report:#}"))?
        .clone())
}

/// The rule is told, and by whom it is.
fn says(report: &Value, (name, chain, hook, verdict): Wanted, backend: &str) -> Result<()> {
    let of = port(report, name)?;
    let rules = of["rules"].as_array().context("no rules")?;
    let found = rules.iter().any(|rule| {
        let mut at = rule["hooks"].as_array().into_iter().flatten();
        rule["chain"] == chain
            && at.any(|one| one == hook)
            && rule["verdict"] == verdict
            && rule["backend"] == backend
    });
    ensure!(found, "no {verdict} of {name} at {hook}: {of:#}");
    Ok(())
}

/// Which rule names a watched port at which hook, and where none does.
pub(super) fn of_nft() -> Result<()> {
    let rig = Rig::create()?;
    rig.netns.nft(
        "table inet wall {\n set peers { type inet_service; flags interval; elements = { 7000-8000 }; };\n \
         chain into { type filter hook input priority 0; jump peer; };\n \
         chain peer { tcp dport @peers drop; };\n \
         chain through { type filter hook forward priority 0; policy drop; udp dport { 443, 3544 } accept; }; }",
    )?;
    let (report, _) = rig.report(&[])?;
    for wanted in [
        ("tcp/7680", "peer", "input", "drop"),
        ("udp/3544", "through", "forward", "accept"),
        ("udp/443", "through", "forward", "accept"),
    ] {
        says(&report, wanted, "nftables")?;
    }
    let of = port(&report, "tcp/443")?;
    ensure!(of["rules"].as_array().is_some_and(Vec::is_empty), "{of:#}");
    let of = port(&report, "tcp/7680")?;
    ensure!(
        of["silent_hooks"] == serde_json::json!(["forward", "output"]),
        "{of:#}"
    );
    let policies = report["firewall"]["policies"]
        .as_array()
        .context("no policies")?;
    let drops = |policy: &&Value| policy["drops"] == true;
    ensure!(policies.iter().filter(drops).count() == 1, "{policies:#?}");
    let backends = report["firewall"]["backends"]
        .as_array()
        .context("no backends")?;
    ensure!(
        backends.iter().any(|one| one["name"] == "nftables"),
        "{backends:#?}"
    );
    Ok(())
}

/// The matches of iptables-nft that nft has no words for, and those that older releases of it wrote for every
/// port: each is one of xtables in the kernel.
pub(super) fn of_iptables() -> Result<()> {
    let rig = Rig::create()?;
    let (report, _) = rig.report(&[])?;
    for name in ["tcp/7680", "udp/3544", "tcp/443"] {
        let of = port(&report, name)?;
        ensure!(of["rules"].as_array().is_some_and(Vec::is_empty), "{of:#}");
    }
    for rule in [
        "-A INPUT -p tcp -m multiport --dports 22,7680 -j DROP",
        "-A OUTPUT -p udp -m multiport --ports 3000:4000 -j ACCEPT",
        // What nft has no words for brings the rest of the match with it.
        "-A FORWARD -p tcp -m tcp --dport 443 --tcp-option 2 -j DROP",
    ] {
        rig.netns.sh(&format!("iptables-nft -w {rule}"))?;
    }
    rig.netns.sh("iptables-nft -w -N pw")?;
    rig.netns.sh("iptables-nft -w -A FORWARD -j pw")?;
    older_rule(&rig.netns)?;
    // They are of xtables indeed.
    let text = rig.netns.sh("nft --debug=netlink list table ip filter")?;
    for of in ["name multiport", "name tcp", "name udp"] {
        ensure!(text.contains(&format!("match {of}")), "no {of}: {text}");
    }
    let (report, _) = rig.report(&[])?;
    for wanted in [
        ("tcp/7680", "INPUT", "input", "drop"),
        ("udp/3544", "OUTPUT", "output", "accept"),
        ("tcp/443", "FORWARD", "forward", "drop"),
        ("udp/443", "pw", "forward", "drop"),
    ] {
        says(&report, wanted, "iptables-nft")?;
    }
    // Protocols are told apart: no rule is for these.
    for (name, chain) in [("tcp/443", "pw"), ("udp/443", "FORWARD")] {
        let of = port(&report, name)?;
        let rules = of["rules"].as_array().context("no rules")?;
        ensure!(!rules.iter().any(|rule| rule["chain"] == chain), "{of:#}");
    }
    let silent = &port(&report, "tcp/7680")?["silent_hooks"];
    ensure!(
        *silent == serde_json::json!(["forward", "output"]),
        "{silent:#}"
    );
    Ok(())
}

/// `-A pw -p udp --dport 443 -j DROP` as iptables before 1.8.8 wrote it.
fn older_rule(netns: &NetNs) -> Result<()> {
    // `struct xt_udp`, up to what the kernel aligns it to: source and destination ports, from and to.
    let ports: [u16; 8] = [0, u16::MAX, 443, 443, 0, 0, 0, 0];
    let udp: Vec<u8> = ports.iter().flat_map(|port| port.to_ne_bytes()).collect();
    let is_udp = Attributes::default()
        .text(NFTA_MATCH_NAME, "udp")?
        .number(NFTA_MATCH_REV, 0)?
        .bytes(NFTA_MATCH_INFO, &udp)?;
    let code = Attributes::default().number(NFTA_VERDICT_CODE, NF_DROP)?;
    let drops = Attributes::default()
        .number(NFTA_IMMEDIATE_DREG, NFT_REG_VERDICT)?
        .nest(
            NFTA_IMMEDIATE_DATA,
            &Attributes::default().nest(NFTA_DATA_VERDICT, &code)?,
        )?;
    let expression = |list: Attributes, name: &str, data: &Attributes| {
        let inside = Attributes::default()
            .text(NFTA_EXPR_NAME, name)?
            .nest(NFTA_EXPR_DATA, data)?;
        list.nest(NFTA_LIST_ELEM, &inside)
    };
    let list = expression(Attributes::default(), "match", &is_udp)?;
    let list = expression(list, "immediate", &drops)?;
    let compat = Attributes::default()
        .number(NFTA_RULE_COMPAT_PROTO, libc::IPPROTO_UDP.cast_unsigned())?
        .number(NFTA_RULE_COMPAT_FLAGS, 0)?;
    let rule = Attributes::default()
        .text(NFTA_RULE_TABLE, "filter")?
        .text(NFTA_RULE_CHAIN, "pw")?
        .nest(NFTA_RULE_EXPRESSIONS, &list)?
        .nest(NFTA_RULE_COMPAT, &compat)?;
    netns.run(move || nftables(NFT_MSG_NEWRULE, NFPROTO_IPV4, &rule))
}
