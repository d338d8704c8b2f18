//! The guest's initial file system: all that is in the virtual machine.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::{self, File},
    io::{BufWriter, Write},
    path::Path,
};

use anyhow::{Context as _, Result};

use super::{
    archive::Archive,
    kernels::{Kernel, Pin},
    programs::Programs,
    userland::Userland,
};

/// What the tests start in there. Debian's packages of `cargo xtask setup --tests`.
const TOOLS: [&str; 13] = [
    "busybox",
    "ip",
    "tc",
    "nft",
    "iptables-nft",
    "iptables-legacy",
    "ip6tables-nft",
    "ip6tables-legacy",
    "conntrack",
    "ethtool",
    "tcpdump",
    "bpftool",
    "wg",
];

/// Modules that come along, by the beginning of their path; those that they need come with them.
/// The kernel loads them on demand.
const MODULES: [&str; 20] = [
    // nf_tables asks for it by a name that no list of dependencies has.
    "kernel/crypto/crc32c",
    "kernel/net/802/",
    "kernel/net/8021q/",
    "kernel/net/bridge/",
    "kernel/net/ipv4/",
    "kernel/net/ipv6/",
    "kernel/net/netfilter/",
    "kernel/net/openvswitch/openvswitch.ko",
    "kernel/net/packet/",
    "kernel/net/sched/",
    "kernel/net/xfrm/xfrm_user.ko",
    "kernel/drivers/net/bonding/",
    "kernel/drivers/net/dummy.ko",
    "kernel/drivers/net/ifb.ko",
    "kernel/drivers/net/macvlan.ko",
    // Not in Debian's kernels.
    "kernel/drivers/net/netdevsim/",
    "kernel/drivers/net/tun.ko",
    "kernel/drivers/net/veth.ko",
    "kernel/drivers/net/vxlan/",
    "kernel/drivers/net/wireguard/",
];

/// Who is there. tcpdump gives its privileges up for a user of its own.
const USERS: &str = "root:x:0:0::/root:/bin/sh\ntcpdump:x:100:100::/:/bin/false\n";

/// The last line of the guest's report, up to the exit code.
const END: &str = "peerwatch guest: the tests ended with ";

/// What the kernel starts. The device `REPORT` takes the test program's output; its errors, and
/// those of this script, go to the console.
const INIT: &str = r#"#!/usr/bin/busybox sh
/usr/bin/busybox mkdir -p /usr/local/bin
/usr/bin/busybox --install -s /usr/local/bin
export PATH=/usr/sbin:/usr/bin:/usr/local/bin HOME=/root
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev
mount -t tmpfs tmpfs /run
mount -t tmpfs tmpfs /tmp
mount -t cgroup2 cgroup2 /sys/fs/cgroup
mount -t bpf bpf /sys/fs/bpf
mount -t securityfs securityfs /sys/kernel/security
mount -t debugfs debugfs /sys/kernel/debug
mount -t tracefs tracefs /sys/kernel/tracing
ip link set lo up
# On demand comes too late: tun's device node appears with it, and nft and ip fail where another is
# just loading the same module.
modprobe -a tun nf_tables veth bridge bonding 8021q wireguard sch_netem cls_matchall cls_flower act_gact \
    nfnetlink_queue
modprobe -q netdevsim
# In here no row is left out because of what the kernel was built without.
export PEERWATCH_BIN=/usr/bin/peerwatch PEERWATCH_TIME_SCALE=10 PEERWATCH_VM=1
export PEERWATCH_ONLY="$(cat /tests)"
# What the daemon says of this kernel, with an interface to attach to.
ip link add fact0 type veth
peerwatch run --log-level debug 2>/tmp/said & daemon=$!
tries=600
until wget -qO /tmp/metrics http://127.0.0.1:9680/metrics || [ $tries = 0 ]; do
    tries=$((tries - 1))
    sleep 0.1
done
{
    grep -o 'feature [a-z_]*: .*' /tmp/said
    grep -E '^peerwatch_(hook|kernel)_info' /tmp/metrics
} | sed 's/^/peerwatch guest says: /' >REPORT
kill $daemon
wait $daemon
ip link del fact0
{
    conformance --color never
    echo "peerwatch guest: the tests ended with $?"
} >REPORT
# Closing the port has waited until all was sent.
reboot -f
"#;

/// Writes the file system for a kernel and these tests.
///
/// # Errors
///
/// When a tool or library is missing, or the file cannot be written.
pub(super) fn write(
    to: &Path,
    pin: &Pin,
    kernel: &Kernel,
    programs: &Programs,
    tests: &[String],
) -> Result<()> {
    let userland = Userland::of(pin.arch, &pin.suite)?;
    let file = File::create(to).with_context(|| format!("cannot make {}", to.display()))?;
    let mut archive = Archive::new(BufWriter::new(file));
    // As Debian has it; the loader's own path begins with /lib64.
    for name in ["lib", "lib64", "bin", "sbin"] {
        archive.link(&Path::new("/").join(name), &format!("usr/{name}"))?;
    }
    for folder in ["/usr/lib64", "/usr/bin", "/usr/sbin", "/root"] {
        archive.folder(Path::new(folder))?;
    }
    for folder in ["/proc", "/sys", "/dev", "/run", "/tmp"] {
        archive.folder(Path::new(folder))?;
    }
    for tool in TOOLS {
        add_program(&mut archive, &userland, &userland.program(tool)?, tool)?;
    }
    add_program(&mut archive, &userland, &programs.daemon, "peerwatch")?;
    add_program(
        &mut archive,
        &userland,
        &programs.conformance,
        "conformance",
    )?;
    // Where the kernel looks for it.
    archive.link(Path::new("/usr/sbin/modprobe"), "../bin/busybox")?;
    add_modules(&mut archive, kernel)?;
    archive.file(Path::new("/etc/passwd"), USERS.as_bytes())?;
    archive.file(Path::new("/tests"), tests.join("\n").as_bytes())?;
    archive.program(
        Path::new("/init"),
        INIT.replace("REPORT", pin.arch.report()).as_bytes(),
    )?;
    archive.finish()?;
    Ok(())
}

/// The exit code of the test program, out of what the guest said; none when it did not come to its
/// end.
pub(super) fn exit_code(said: &str) -> Option<u8> {
    said.lines()
        .rev()
        .find_map(|line| line.strip_prefix(END)?.parse().ok())
}

/// Adds a program under a name in `/usr/bin`, and the libraries that it is linked with.
fn add_program<W: Write>(
    archive: &mut Archive<W>,
    userland: &Userland,
    program: &Path,
    name: &str,
) -> Result<()> {
    archive.program(&Path::new("/usr/bin").join(name), &read(program)?)?;
    for library in userland.libraries(program)? {
        archive.program(&library.in_guest, &read(&library.file)?)?;
        if library
            .in_guest
            .file_name()
            .is_some_and(|name| name.as_encoded_bytes().starts_with(b"libxtables.so"))
        {
            add_plugins(
                archive,
                &library.file.with_file_name("xtables"),
                &library.in_guest.with_file_name("xtables"),
            )?;
        }
    }
    Ok(())
}

/// Adds what iptables loads for each match and target.
fn add_plugins<W: Write>(archive: &mut Archive<W>, folder: &Path, in_guest: &Path) -> Result<()> {
    let entries = fs::read_dir(folder)
        .with_context(|| format!("no extensions of iptables in {}", folder.display()))?;
    for entry in entries {
        let entry = entry?;
        archive.program(&in_guest.join(entry.file_name()), &read(&entry.path())?)?;
    }
    Ok(())
}

/// Adds the modules, and the lists that modprobe reads.
fn add_modules<W: Write>(archive: &mut Archive<W>, kernel: &Kernel) -> Result<()> {
    let folder = Path::new("/usr/lib/modules").join(&kernel.release);
    let list = fs::read_to_string(kernel.modules.join("modules.dep"))
        .with_context(|| format!("no modules.dep in {}", kernel.modules.display()))?;
    for module in closure(&list)? {
        let content = read(&kernel.modules.join(module))?;
        archive.file(&folder.join(module), &content)?;
    }
    for name in [
        "modules.dep",
        "modules.alias",
        "modules.symbols",
        "modules.builtin",
    ] {
        let path = kernel.modules.join(name);
        // Newer packages of Debian have the list of what is built in elsewhere; busybox asks it only
        // for words about modules that are not there.
        if path.exists() {
            archive.file(&folder.join(name), &read(&path)?)?;
        }
    }
    Ok(())
}

/// The paths of [`MODULES`] with those that they need, out of the text of `modules.dep`: lines
/// `module: needed needed`.
fn closure(list: &str) -> Result<BTreeSet<&str>> {
    let needs: BTreeMap<&str, &str> = list
        .lines()
        .filter_map(|line| line.split_once(':'))
        .collect();
    let mut found = BTreeSet::new();
    let mut next: Vec<&str> = needs
        .keys()
        .copied()
        .filter(|module| MODULES.iter().any(|prefix| module.starts_with(prefix)))
        .collect();
    while let Some(module) = next.pop() {
        if found.insert(module) {
            let needed = needs
                .get(module)
                .with_context(|| format!("modules.dep has no line for {module}"))?;
            next.extend(needed.split_whitespace());
        }
    }
    Ok(found)
}

fn read(path: &Path) -> Result<Vec<u8>> {
    fs::read(path).with_context(|| format!("cannot read {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_script_ends_with_the_line_that_is_looked_for() {
        assert!(INIT.contains(&format!("echo \"{END}$?\"")));
        assert!(INIT.contains(&format!("sed 's/^/{}/'", super::super::facts::PREFIX)));
        assert_eq!(exit_code(&format!("test a ... ok\n{END}101\n")), Some(101));
        assert_eq!(exit_code("test a ... ok\n"), None);
    }

    #[test]
    fn modules_come_with_what_they_need() {
        let list = "kernel/drivers/net/veth.ko:\n\
                    kernel/net/bridge/br_netfilter.ko: kernel/net/bridge/bridge.ko\n\
                    kernel/net/bridge/bridge.ko: kernel/net/llc/llc.ko\n\
                    kernel/net/llc/llc.ko:\n\
                    kernel/net/tipc/tipc.ko:\n";
        let found: Vec<_> = closure(list).unwrap().into_iter().collect();
        assert_eq!(
            found,
            [
                "kernel/drivers/net/veth.ko",
                "kernel/net/bridge/br_netfilter.ko",
                "kernel/net/bridge/bridge.ko",
                "kernel/net/llc/llc.ko",
            ]
        );
        assert!(closure("kernel/net/bridge/bridge.ko: gone.ko\n").is_err());
    }
}
