//! Bad input: the exit code, one clear sentence that names the thing, and nothing attached.

use std::net::{Ipv4Addr, TcpListener};

use anyhow::{Context, Result, ensure};
use monitor_tests::http::request;

use crate::attached::{OnInterface, orphans, wait_no_orphans};
use crate::site::{Outcome, Process, Site, command, wrapped};

/// A failure at run time, and a call that is wrong in itself (sysexits are not used).
const FAILURE: i32 = 1;
const USAGE: i32 = 2;

/// Runs a command that must be refused; returns the one line that it wrote to stderr.
fn refused(site: &Site, command: std::process::Command, code: i32) -> Result<String> {
    let before = orphans()?;
    let outcome = Process::start(command, site, "refused")?.outcome()?;
    ensure!(outcome.code == Some(code), "{outcome:?}");
    nothing_written(&outcome)?;
    let on_interface = OnInterface::look(&site.host, "lan0")?;
    ensure!(on_interface.programs == 0, "attached: {on_interface:?}");
    wait_no_orphans(&before)?;
    Ok(outcome.stderr)
}

fn nothing_written(outcome: &Outcome) -> Result<()> {
    ensure!(outcome.stdout.is_empty(), "stdout: {outcome:?}");
    ensure!(!outcome.stderr.contains("panicked"), "{outcome:?}");
    Ok(())
}

/// A failure: `peerwatch: ` and the sentence, nothing else.
fn fails(site: &Site, command: std::process::Command, sentence: &str) -> Result<()> {
    let said = refused(site, command, FAILURE)?;
    ensure!(
        said.starts_with("peerwatch: ") && said.lines().count() == 1,
        "not one sentence: {said:?}"
    );
    ensure!(said.contains(sentence), "no {sentence:?} in {said:?}");
    Ok(())
}

#[test]
fn without_root() -> Result<()> {
    let site = Site::create()?;
    let words = [
        "setpriv",
        "--reuid=65534",
        "--regid=65534",
        "--clear-groups",
    ];
    let start = wrapped(&site.host, &words, &["run", "--config", "/dev/null"])?;
    fails(
        &site,
        start,
        "this process lacks CAP_NET_ADMIN, CAP_PERFMON, CAP_BPF; run it as root",
    )
}

#[test]
fn without_one_capability() -> Result<()> {
    let site = Site::create()?;
    for (dropped, lacks) in [
        ("-net_admin", "lacks CAP_NET_ADMIN; run it as root"),
        ("-bpf,-sys_admin", "lacks CAP_BPF; run it as root"),
    ] {
        let bounding = format!("--bounding-set={dropped}");
        let inherited = format!("--inh-caps={dropped}");
        let words = ["setpriv", &bounding, &inherited];
        let start = wrapped(&site.host, &words, &["run", "--config", "/dev/null"])?;
        fails(&site, start, lacks).context(dropped)?;
    }
    Ok(())
}

#[test]
fn a_file_that_is_not_the_kernel_s_btf() -> Result<()> {
    let site = Site::create()?;
    let none = site.temp.path().join("none").to_string_lossy().into_owned();
    let text = site.file("text", "no BTF")?.to_string_lossy().into_owned();
    let whole = std::fs::read("/sys/kernel/btf/vmlinux")?;
    let half = site.temp.path().join("half");
    std::fs::write(&half, &whole[..whole.len() / 2])?;
    let half = half.to_string_lossy().into_owned();
    let other = site.temp.path().join("other");
    // Bytes behind the end harm nobody, so this is as good as another kernel's.
    std::fs::write(&other, [whole.as_slice(), &[0; 8]].concat())?;
    let other = other.to_string_lossy().into_owned();
    for (path, why) in [
        (&other, "it is the BTF of another kernel"),
        (&none, "No such file or directory"),
        (&text, "malformed BTF: shorter than its header"),
        (&half, "malformed BTF: "),
    ] {
        let sentence = format!("peerwatch: {path} can't be used as the kernel's BTF: {why}");
        let start = command(&site.host, &["run", "--config", "/dev/null", "--btf", path])?;
        fails(&site, start, &sentence)?;
        let file = site.file("peerwatch.toml", &format!("btf = \"{path}\"\n"))?;
        let start = command(&site.host, &["run", "--config", &file.to_string_lossy()])?;
        fails(&site, start, &sentence)?;
    }
    let mut start = command(&site.host, &["run", "--config", "/dev/null"])?;
    start.env("PEERWATCH_BTF", &text);
    fails(
        &site,
        start,
        "give the BTF of the running kernel with --btf",
    )
}

#[test]
fn unknown_interface() -> Result<()> {
    let site = Site::create()?;
    let words = ["run", "--config", "/dev/null", "--interface", "nosuch0"];
    fails(
        &site,
        command(&site.host, &words)?,
        "interface \"nosuch0\" does not exist (there are: lan0); name one of these, or give a glob",
    )
}

#[test]
fn a_file_with_a_fault() -> Result<()> {
    let site = Site::create()?;
    for (text, place, sentence) in [
        (
            "log_packets = all\n",
            "1:15",
            "\"log_packets = all\" is not valid TOML",
        ),
        (
            "listen = \":9680\"\nlistn = \":9681\"\n",
            "2:1",
            "unknown key `listn`",
        ),
        (
            "\n[[traffic]]\nname = \"x\"\nports = [\"tcp/80\", \"tcp/70000\"]\n",
            "4:20",
            "traffic.ports: \"tcp/70000\" has no port from 1 to 65535",
        ),
        (
            "[[traffic]]\nname = \"x\"\nports = [\"tcp/80\"]\n[[traffic]]\nname = \"y\"\n\
             ports = [\"udp/80\", \"tcp/80\"]\n",
            "6:20",
            "traffic.ports: tcp/80 is in traffic \"x\" already",
        ),
        (
            "[[traffic]]\nname = \"x\"\nports = [\"tcp/443\"]\n",
            "3:10",
            "traffic.ports: tcp/443 is in the built-in traffic \"https\" already",
        ),
        ("log_packets = 5\n", "1:15", "log_packets: invalid type"),
    ] {
        let path = site.file("peerwatch.toml", text)?;
        let path = path.to_string_lossy();
        let start = command(&site.host, &["run", "--config", &path])?;
        fails(
            &site,
            start,
            &format!("peerwatch: {path}:{place}: {sentence}"),
        )?;
        let check = command(&site.host, &["check-config", "--config", &path])?;
        fails(
            &site,
            check,
            &format!("peerwatch: {path}:{place}: {sentence}"),
        )?;
    }
    Ok(())
}

#[test]
fn a_web_configuration_with_a_fault() -> Result<()> {
    let site = Site::create()?;
    for (text, sentence) in [
        (
            "tls_server_config:\n  cert_file: a.crt\n  key_fle: a.key\n",
            ":3: tls_server_config: unknown key `key_fle`, expected one of `cert_file`,",
        ),
        (
            "tls_server_config:\n  cert_file: a.crt\n  key_file: a.key\n",
            ":2: tls_server_config.cert_file: can't read ",
        ),
        (
            "basic_auth_users:\n  prom: secret\n",
            ":2: basic_auth_users.prom: this is no bcrypt hash",
        ),
    ] {
        let web = site.file("web.yml", text)?.display().to_string();
        let sentence = format!("peerwatch: {web}{sentence}");
        let flags = ["run", "--config", "/dev/null", "--web-config", &web];
        fails(&site, command(&site.host, &flags)?, &sentence)?;
        let file = site.file("peerwatch.toml", &format!("web_config = \"{web}\"\n"))?;
        let file = file.to_string_lossy();
        for flags in [
            ["run", "--config", &file],
            ["check-config", "--config", &file],
        ] {
            fails(&site, command(&site.host, &flags)?, &sentence)?;
        }
        let mut start = command(&site.host, &["run", "--config", "/dev/null"])?;
        start.env("PEERWATCH_WEB_CONFIG", &web);
        fails(&site, start, &sentence)?;
    }
    let none = site.temp.path().join("none.yml").display().to_string();
    let flags = ["run", "--config", "/dev/null", "--web.config.file", &none];
    let sentence = format!("can't read {none}: No such file or directory");
    fails(&site, command(&site.host, &flags)?, &sentence)
}

#[test]
fn a_file_that_is_not_there() -> Result<()> {
    let site = Site::create()?;
    let path = site.temp.path().join("none.toml");
    let path = path.to_string_lossy();
    fails(
        &site,
        command(&site.host, &["run", "--config", &path])?,
        &format!("can't read {path}: No such file or directory"),
    )
}

#[test]
fn an_address_in_use() -> Result<()> {
    let site = Site::create()?;
    let _listener = site
        .host
        .run(|| Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 9680))?))?;
    fails(
        &site,
        command(&site.host, &["run", "--config", "/dev/null"])?,
        "127.0.0.1:9680",
    )
}

#[test]
fn a_wrong_call_is_a_usage_error() -> Result<()> {
    let site = Site::create()?;
    for (words, sentence) in [
        (
            &["run", "--listen", "9680"][..],
            "is no IP:PORT; write it like",
        ),
        (
            &["run", "--log-packets", "some"],
            "possible values: dropped",
        ),
        (&["run", "--interfaces", "lan0"], "unexpected argument"),
        (&["run", "--interface", "lan["], "is no glob"),
        (&["start"], "unrecognized subcommand"),
    ] {
        let said = refused(&site, command(&site.host, words)?, USAGE)?;
        ensure!(
            said.starts_with("error: ") && said.matches("error:").count() == 1,
            "{words:?}: {said}"
        );
        let first = said.lines().next().unwrap_or_default();
        ensure!(said.contains(sentence), "{words:?}: {first}");
    }
    let mut start = command(&site.host, &["run", "--config", "/dev/null"])?;
    start.env("PEERWATCH_LOG_PACKETS_RATE", "many");
    let said = refused(&site, start, USAGE)?;
    ensure!(
        said.starts_with("peerwatch: PEERWATCH_LOG_PACKETS_RATE in the environment: \"many\"")
            && said.lines().count() == 1,
        "{said}"
    );
    Ok(())
}

#[test]
fn a_wrong_request_is_answered_and_changes_nothing() -> Result<()> {
    let site = Site::create()?;
    let daemon = site.daemon(&[])?;
    let before = daemon.settled()?;
    let unknown = request(&site.host, 9680, "GET /metric", "")?;
    ensure!(unknown.status == 404, "{unknown:?}");
    ensure!(
        unknown.text()?
            == "no such page: /metric; try /metrics, /api/v1/status, /healthz or /readyz\n",
        "{:?}",
        unknown.text()
    );
    let post = request(&site.host, 9680, "POST /metrics", "Content-Length: 0\r\n")?;
    ensure!(post.status == 405, "{post:?}");
    ensure!(post.header("Allow") == Some("GET, HEAD"), "{post:?}");
    ensure!(post.text()?.starts_with("POST is not possible"), "{post:?}");
    ensure!(daemon.settled()? == before, "the counters moved");
    Ok(())
}
