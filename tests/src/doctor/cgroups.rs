//! The doctor in a cgroup namespace of its own, as in a container: what is mounted there shows its own cgroup as the
//! root.

use std::ffi::CString;
use std::fs::{self, File};
use std::io::{self, Write as _};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::ptr::null;

use anyhow::{Context as _, Result, ensure};
use nix::sched::{CloneFlags, unshare};
use serde_json::Value;

use super::calls::hook;
use super::{Rig, all, report};
use crate::bpf::cgroup_root;
use crate::netns::unique_prefix;
use crate::wait::{DEADLINE, until};

/// A cgroup; removed on drop, when its processes have ended.
struct Cgroup(PathBuf);

impl Cgroup {
    fn create() -> Result<Self> {
        let path = cgroup_root()?.join(format!("{}doctor", unique_prefix()));
        fs::create_dir(&path).with_context(|| path.display().to_string())?;
        Ok(Self(path))
    }

    /// Lets a command be in it, and in a cgroup namespace whose root it is. With `mounts`, cgroup2 is mounted
    /// there as a container has it; without, the host's own mount is to be seen.
    fn contain(&self, command: &mut Command, mounts: &[CString]) -> Result<()> {
        let mut procs = File::options()
            .write(true)
            .open(self.0.join("cgroup.procs"))?;
        let mounts = mounts.to_vec();
        // SAFETY: between fork and exec only write(2), unshare(2), mount(2) and umount2(2) are called,
        // which are async-signal-safe, on a descriptor that the closure owns and strings that were made before the fork.
        unsafe {
            command.pre_exec(move || {
                procs.write_all(b"0")?;
                unshare(CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWCGROUP)?;
                let flags = libc::MS_REC | libc::MS_PRIVATE;
                done(libc::mount(
                    c"none".as_ptr(),
                    c"/".as_ptr(),
                    null(),
                    flags,
                    null(),
                ))?;
                mounts.iter().try_for_each(|point| {
                    let (point, kind) = (point.as_ptr(), c"cgroup2".as_ptr());
                    done(libc::umount2(point, libc::MNT_DETACH))?;
                    done(libc::mount(kind, point, kind, 0, null()))
                })
            });
        }
        Ok(())
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        // A process that has ended may still be in it for a moment.
        let gone = until("the cgroup is gone", DEADLINE, || {
            Ok(fs::remove_dir(&self.0).is_ok().then_some(()))
        });
        if let Err(error) = gone {
            eprintln!("cannot remove {}: {error:#}", self.0.display());
        }
    }
}

fn done(result: libc::c_int) -> io::Result<()> {
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// Where cgroup2 is mounted.
fn mounts() -> Result<Vec<CString>> {
    let table = fs::read_to_string("/proc/thread-self/mounts")?;
    let points = table.lines().filter_map(|line| {
        let mut words = line.split(' ').skip(1);
        let point = words.next()?;
        (words.next()? == "cgroup2").then_some(point)
    });
    Ok(points.map(CString::new).collect::<Result<_, _>>()?)
}

/// The root of a cgroup namespace is not taken for the real one; the host's own mount, which a container may have,
/// is.
pub(super) fn a_namespace() -> Result<()> {
    const ID: &str = "cgroup_root";
    let rig = Rig::create()?;
    let cgroup = Cgroup::create()?;
    let look = |is_contained: bool, mounts: &[CString]| -> Result<Value> {
        let mut command = rig.command()?;
        if is_contained {
            cgroup.contain(&mut command, mounts)?;
        }
        Ok(report(command.args(["--json", "--self-test=false"]))?.0)
    };
    for (is_contained, mounts) in [(false, Vec::new()), (true, Vec::new())] {
        let said = look(is_contained, &mounts)?;
        ensure!(!all(&said).contains(ID), "{said:#}");
        let path = said["host"]["cgroup_root"]["Ok"].as_str();
        ensure!(
            path.is_some_and(|path| Path::new(path).is_dir()),
            "{said:#}"
        );
    }
    let mounts = mounts()?;
    let said = look(true, &mounts)?;
    ensure!(all(&said).contains(ID), "{said:#}");
    let why = said["host"]["cgroup_root"]["Err"]
        .as_str()
        .unwrap_or_default();
    ensure!(why.contains("only that of this cgroup namespace"), "{why}");
    let deliver = hook(&said, "deliver")?;
    ensure!(deliver["state"] == "missing", "{deliver:#}");
    Ok(())
}
