//! In real mount and cgroup namespaces.

use std::process::Command;

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};

use super::*;
use crate::netns::tests::isolated;

/// Set for the process that moves to a cgroup and a cgroup namespace of its own: its cgroup.
const CGROUP: &str = "PEERWATCH_TEST_CGROUP";

fn inode(root: &CgroupRoot) -> u64 {
    File::from(root.dir.try_clone().unwrap())
        .metadata()
        .unwrap()
        .ino()
}

/// Runs a function with a mount namespace of its own, out of which no mount gets.
fn with_mounts(run: impl FnOnce() + Send) {
    isolated(CloneFlags::CLONE_NEWNS, || {
        make_private();
        run();
    });
}

fn make_private() {
    let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
    mount(None::<&str>, "/", None::<&str>, private, None::<&str>).unwrap();
}

/// Takes every cgroup2 out of this thread's mount namespace, which must be its own. Gives the options of
/// the hierarchy: whoever mounts it again without them takes them from the whole host.
fn unmount_all() -> Vec<CString> {
    let mut options = Vec::new();
    for mount in mounted() {
        umount2(&mount.point, MntFlags::MNT_DETACH).unwrap();
        options = mount.options;
    }
    assert_eq!(mounted(), []);
    options
}

fn mounted() -> Vec<Mount> {
    read_mounts("/proc/thread-self/mountinfo")
}

fn mount_cgroup2(place: &Path, options: &[CString]) {
    let options: Vec<_> = options
        .iter()
        .map(|option| option.to_str().unwrap())
        .collect();
    let data = options.join(",");
    mount(
        Some("none"),
        place,
        Some("cgroup2"),
        MsFlags::empty(),
        Some(data.as_str()),
    )
    .unwrap();
}

#[test]
fn mounts_are_read_from_the_table() {
    let table = br"23 1 0:20 / /proc rw,relatime shared:5 - proc proc rw
41 31 0:38 / /sys/fs/cgroup/unified rw,relatime shared:9 master:1 - cgroup2 cgroup2 rw
40 31 0:37 / /sys/fs/cgroup/systemd rw,relatime - cgroup cgroup rw,name=systemd
42 31 0:38 /../.. /mnt/a\040b\134c\011 rw - cgroup2 none rw,nsdelegate,memory_recursiveprot
43 31 0:39 / /mnt/cgroup2 rw - tmpfs cgroup2 rw
short line
";
    let mount = |point, options: &[&str]| Mount {
        point: PathBuf::from(point),
        options: options
            .iter()
            .map(|option| CString::new(*option).unwrap())
            .collect(),
    };
    let wanted = [
        mount("/mnt/a b\\c\t", &["nsdelegate", "memory_recursiveprot"]),
        mount("/sys/fs/cgroup/unified", &[]),
    ];
    assert_eq!(mounts(table), wanted);
    assert_eq!(mounts(b""), []);
    assert_eq!(unescape(br"\04 \400 \08"), br"\04 \400 \08");
}

#[test]
fn the_real_root_is_found_without_a_visible_mount() {
    with_mounts(|| {
        let before = mounted();
        unmount_all();
        let root = open_root().unwrap();
        assert_eq!(root.path, PRIVATE);
        assert_eq!(inode(&root), ROOT_INODE);
        // It is the live hierarchy, and left no trace in the mount table.
        openat(&root.dir, "cgroup.procs", OFlag::O_RDONLY, Mode::empty()).unwrap();
        assert_eq!(mounted(), []);
        let host = read_mounts("/proc/1/mountinfo");
        assert_eq!(host, before, "the hierarchy has other options now");
    });
}

#[test]
fn the_real_root_is_found_where_it_is_mounted() {
    with_mounts(|| {
        let options = unmount_all();
        let place = tempdir();
        mount_cgroup2(&place.0, &options);
        let root = open_root().unwrap();
        assert_eq!(root.path, place.0.to_str().unwrap());
        assert_eq!(inode(&root), ROOT_INODE);

        // Something else on top of it, with the same inode: not taken for the root.
        mount(
            Some("none"),
            &place.0,
            Some("tmpfs"),
            MsFlags::empty(),
            None::<&str>,
        )
        .unwrap();
        assert_eq!(std::fs::metadata(&place.0).unwrap().ino(), ROOT_INODE);
        let root = open_root().unwrap();
        assert_eq!(root.path, PRIVATE);
        assert_eq!(inode(&root), ROOT_INODE);
    });
}

#[test]
fn the_root_of_a_cgroup_namespace_is_refused() {
    with_mounts(|| {
        let place = tempdir();
        mount_cgroup2(&place.0, &mounted()[0].options);
        let cgroup = place
            .0
            .join(format!("peerwatch-test-{}", std::process::id()));
        std::fs::create_dir(&cgroup).unwrap();
        // Another process: a cgroup holds processes, not threads.
        let output = Command::new(std::env::current_exe().unwrap())
            .args([
                "--exact",
                "cgroup::tests::inside",
                "--ignored",
                "--nocapture",
            ])
            .env(CGROUP, &cgroup)
            .output()
            .unwrap();
        std::fs::remove_dir(&cgroup).unwrap();
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(
            output.status.success(),
            "{text}{}",
            String::from_utf8_lossy(&output.stderr)
        );
        assert!(text.contains("1 passed"), "{text}");
    });
}

#[test]
#[ignore = "not a test: the process that the_root_of_a_cgroup_namespace_is_refused starts"]
fn inside() {
    let Some(cgroup) = std::env::var_os(CGROUP) else {
        return;
    };
    let procs = Path::new(&cgroup).join("cgroup.procs");
    std::fs::write(procs, std::process::id().to_string()).unwrap();
    unshare(CloneFlags::CLONE_NEWCGROUP | CloneFlags::CLONE_NEWNS).unwrap();
    make_private();

    // The host's mount is still there: its root is the real one, whatever namespace we are in.
    let root = open_root().unwrap();
    assert_eq!(inode(&root), ROOT_INODE);
    assert_ne!(root.path, PRIVATE);
    drop(root);

    unmount_all();
    let text = open_root().unwrap_err().to_string();
    let wanted =
        "the cgroup v2 root at (private mount) is only that of this cgroup namespace (inode ";
    assert!(text.starts_with(wanted), "{text}");

    let place = tempdir();
    mount_cgroup2(&place.0, &[]);
    let text = open_root().unwrap_err().to_string();
    assert!(text.contains(place.0.to_str().unwrap()), "{text}");
}

/// A directory that goes with the test, what is mounted there included.
struct TempDir(PathBuf);

fn tempdir() -> TempDir {
    let thread = std::thread::current().id();
    let name = format!("peerwatch-cgroup-{}-{thread:?}", std::process::id());
    let path = std::env::temp_dir().join(name);
    std::fs::create_dir(&path).unwrap();
    TempDir(path)
}

impl Drop for TempDir {
    fn drop(&mut self) {
        while umount2(&self.0, MntFlags::MNT_DETACH).is_ok() {}
        if let Err(error) = std::fs::remove_dir(&self.0) {
            eprintln!("{} stays: {error}", self.0.display());
        }
    }
}
