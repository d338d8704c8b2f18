//! Every fault of a file, with the sentence that a user reads.

use super::*;

fn sentence(text: &str) -> String {
    Fixture::new(text).sentence()
}

#[test]
fn a_bad_file_gets_one_sentence_with_line_and_key() {
    for (text, expected) in [
        (
            "listen = \"10.0.0.1:1\"\nlog_level = debug\n",
            "peerwatch.toml:2:13: \"log_level = debug\" is not valid TOML (string values must be \
             quoted, expected literal string); texts stand in quotes, lists in brackets",
        ),
        (
            "# é\n é[traffic\n",
            "peerwatch.toml:2:3: \"é[traffic\" is not valid TOML (key with no value, expected `=`); texts \
             stand in quotes, lists in brackets",
        ),
        (
            "log_level = \"info\"\nlog_level = \"debug\"\n",
            "peerwatch.toml:2:1: \"log_level = \"debug\"\" is not valid TOML (duplicate key); texts \
             stand in quotes, lists in brackets",
        ),
        (
            "\nlisten_address = \":1\"\n",
            "peerwatch.toml:2:1: unknown key `listen_address`, expected one of `listen`, \
             `web_config`, `interface`, `exclude_interface`, `max_attempts`, `log_packets`, `log_packets_rate`, \
             `log_packets_burst`, `log_format`, `log_level`, `bpf_log`, `btf`, `bpffs`, `state_dir`, `ephemeral`, `bpf_stats`, `self_test`, `verifier_log`, \
             `builtin_traffics`, `traffic`",
        ),
        (
            "[[traffic]]\nname = \"a\"\nport = [\"tcp/1\"]\n",
            "peerwatch.toml:3:1: unknown key `port`, expected one of `name`, `ports`, \
             `state_directions`, `expect`, `window`, `hold`, `recovery`, `blocked_failures`, \
             `blocked_percent`, `blocked_spread`, `failing_attempts`, `degraded_attempts`, \
             `degraded_percent`, `lost_percent`",
        ),
        (
            "[[traffic]]\nexpect = \"open\"\n",
            "peerwatch.toml:1:1: [[traffic]] lacks `name`; it needs a name, and ports unless it is a \
             built-in one, like name = \"cache_http\", ports = [\"tcp/80\"]",
        ),
        (
            "[[traffic]]\nname = \"a\"\n",
            "peerwatch.toml:2:8: traffic.name: traffic \"a\" has no ports, and none is built in; add \
             them, like ports = [\"tcp/80\"]",
        ),
        (
            "builtin_traffics = false\n[[traffic]]\nname = \"do_peer\"\n",
            "peerwatch.toml:3:8: traffic.name: traffic \"do_peer\" has no ports, and none is built \
             in; add them, like ports = [\"tcp/80\"]",
        ),
        (
            "max_attempts = 1000\n",
            "peerwatch.toml:1:16: max_attempts: 1000 is not from 1024 to 1048576 attempts",
        ),
        (
            "listen = 9680\n",
            "peerwatch.toml:1:10: listen: invalid type: integer `9680`, expected a string",
        ),
        (
            "[[traffic]]\nname = \"a\"\nports = [\"tcp/1\", 80]\n",
            "peerwatch.toml:3:19: traffic.ports: invalid type: integer `80`, expected a string",
        ),
        (
            "[[traffic]]\nname = \"a\"\nports = [\"tcp/1\"]\n[[traffic]]\nname = 7\nports = []\n",
            "peerwatch.toml:5:8: traffic.name: invalid type: integer `7`, expected a string",
        ),
        (
            "traffic = 1\n",
            "peerwatch.toml:1:11: traffic: invalid type: integer `1`, expected a sequence",
        ),
        (
            "verifier_log = \"yes\"\n",
            "peerwatch.toml:1:16: verifier_log: invalid type: string \"yes\", expected a boolean",
        ),
        (
            "btf = \"\"\n",
            "peerwatch.toml:1:7: btf: it names no file; write its path, or leave the key out",
        ),
        (
            "log_packets_rate = 0\n",
            "peerwatch.toml:1:20: log_packets_rate: 0 is not from 1 to 1000000; to log no packets \
             set log_packets to none",
        ),
        (
            "log_packets = \"some\"\n",
            "peerwatch.toml:1:15: log_packets: \"some\" is none of dropped, allowed, all, none",
        ),
        (
            "interface = [\"eth0\",\n  \"wan[\"]\n",
            "peerwatch.toml:2:3: interface: \"wan[\" is no glob (unclosed character class; missing \
             ']'); write one like \"eth*\"",
        ),
        (
            "builtin_traffics = false\n",
            "peerwatch.toml:1:20: builtin_traffics: no traffic is left to watch; add a [[traffic]] \
             or set it to true",
        ),
    ] {
        assert_eq!(sentence(text), expected);
    }
}

#[test]
fn a_bad_traffic_is_named_by_its_line() {
    for (text, expected) in [
        (
            "[[traffic]]\nname = \"a\"\nports = [\n  \"tcp/1\",\n  \"tcp/65536\",\n]\n",
            "peerwatch.toml:5:3: traffic.ports: \"tcp/65536\" has no port from 1 to 65535; write a \
             port like \"tcp/7680\"",
        ),
        (
            "[[traffic]]\nname = \"web\"\nports = [\"tcp/80\", \"tcp/443\"]\n",
            "peerwatch.toml:3:20: traffic.ports: tcp/443 is in the built-in traffic \"https\" already; \
             leave it out here, or replace that one by a [[traffic]] named \"https\"",
        ),
        (
            "[[traffic]]\nname = \"a\"\nports = [\"tcp/1\"]\n[[traffic]]\nname = \"b\"\n\
             ports = [\"udp/1\", \"tcp/1\"]\n",
            "peerwatch.toml:6:19: traffic.ports: tcp/1 is in traffic \"a\" already; take it out of \
             one of the two places",
        ),
        (
            // The built-in one comes second here, but has no line.
            "[[traffic]]\nname = \"do_peer\"\nports = [\"tcp/443\"]\n",
            "peerwatch.toml:3:10: traffic.ports: tcp/443 is in the built-in traffic \"https\" already; \
             leave it out here, or replace that one by a [[traffic]] named \"https\"",
        ),
        (
            "[[traffic]]\nname = \"a\"\nports = [\"tcp/1\"]\n[[traffic]]\nname = \"a\"\n\
             ports = [\"tcp/2\"]\n",
            "peerwatch.toml:5:8: traffic.name: two traffics are named \"a\"; rename one or merge \
             their ports",
        ),
        (
            "[[traffic]]\nname = \"do_peer\"\nports = [\"tcp/1\"]\n[[traffic]]\n\
             name = \"do_peer\"\nports = [\"tcp/2\"]\n",
            "peerwatch.toml:5:8: traffic.name: two traffics are named \"do_peer\"; rename one or \
             merge their ports",
        ),
        (
            "[[traffic]]\nname = \"Cache\"\nports = [\"tcp/1\"]\n",
            "peerwatch.toml:2:8: traffic.name: \"Cache\" is no name for a traffic; use a lower-case \
             letter, then up to 31 lower-case letters, digits or _",
        ),
        (
            // Its ports are not written, those of the other are.
            "[[traffic]]\nname = \"https\"\n[[traffic]]\nname = \"do_peer\"\nports = [\"tcp/443\"]\n",
            "peerwatch.toml:5:10: traffic.ports: tcp/443 is in the built-in traffic \"https\" already; \
             leave it out here, or give the [[traffic]] named \"https\" other ports",
        ),
        (
            "[[traffic]]\nname = \"do_peer\"\n[[traffic]]\nname = \"do_peer\"\n",
            "peerwatch.toml:4:8: traffic.name: two traffics are named \"do_peer\"; rename one or \
             merge their ports",
        ),
        (
            "[[traffic]]\nname = \"a\"\nports = []\n",
            "peerwatch.toml:3:9: traffic.ports: traffic \"a\" has no port; add one, like \
             \"tcp/7680\"",
        ),
    ] {
        assert_eq!(sentence(text), expected);
    }
}

#[test]
fn limits_are_named_by_the_line_that_exceeds_them() {
    use std::fmt::Write;

    let mut text = String::new();
    for n in 1..=14 {
        writeln!(text, "[[traffic]]\nname = \"t{n}\"\nports = [\"tcp/{n}\"]").unwrap();
    }
    assert_eq!(
        sentence(&text),
        "peerwatch.toml:41:8: traffic.name: 17 traffics are more than the 16 that can be watched; \
         merge some"
    );
    // 64 ports of the file, and the built-in ones that come after it in the table.
    let ports: Vec<_> = (1000..1064).map(|n| format!("\"udp/{n}\"")).collect();
    let text = format!(
        "[[traffic]]\nname = \"do_peer\"\nports = [{}]\n",
        ports.join(", ")
    );
    assert_eq!(
        sentence(&text),
        "peerwatch.toml:2:8: traffic.name: 67 ports are more than the 64 that can be watched; leave \
         some out"
    );
}

#[test]
fn no_prefix_of_a_file_makes_the_parser_panic() {
    let text = "listen = \":1\"\n# é\nlog_packets_rate = 10\ninterface = [\"é*\",\n 'x']\n\
                [[traffic]]\nname = \"a\"\nports = [\"tcp/1\"]\n[[traffic]]\nnämé = 1\n";
    let mut refused = 0;
    for (end, _) in text.char_indices() {
        let file = File::parse(Path::new("x"), text[..end].to_owned());
        match file.and_then(|file| file.traffics()) {
            Ok(_) => {}
            Err(error) => {
                refused += 1;
                assert!(error.to_string().starts_with("x:"), "{error}");
                assert_eq!(error.to_string().lines().count(), 1, "{error}");
            }
        }
    }
    assert!(refused > 50, "{refused}");
}
