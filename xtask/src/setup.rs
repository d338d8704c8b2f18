//! `cargo xtask setup`: brings what the build needs, and nothing twice.

use std::{fs, time::Instant};

use anyhow::{Context as _, Result, bail};

use crate::{
    cmd::{self, Privilege},
    linker, packages,
    prereq::Found,
    state::{self, BpfToolchain, LINKER_VERSION},
    toolchain,
};

/// What a task needs beyond a compiler and a linker.
#[derive(Clone, Copy, Debug, Default)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "independent wishes, not a state"
)]
pub(crate) struct Needs {
    /// Clippy for the kernel programs.
    pub(crate) clippy: bool,
    /// The programs that the tests start.
    pub(crate) tools: bool,
    /// What libFuzzer is compiled with.
    pub(crate) fuzz: bool,
    /// Root, or sudo, to run the daemon or the tests.
    pub(crate) root: bool,
}

/// Sets everything up and says what it does; without anything to do it is done in well under 2 s.
///
/// # Errors
///
/// Everything that is missing at once, before anything is changed; or what could not be brought,
/// with the commands to run by hand.
pub(crate) fn setup(needs: Needs) -> Result<BpfToolchain> {
    let start = Instant::now();
    let missing = Found::here(needs.root).missing();
    if !missing.is_empty() {
        let list: Vec<_> = missing
            .iter()
            .map(|missing| format!("  {missing}"))
            .collect();
        bail!("this machine lacks:\n{}", list.join("\n"));
    }
    if needs.root && Privilege::find() == Privilege::Sudo {
        // Asks for the password now, not after minutes of building.
        cmd::run(std::process::Command::new("sudo").arg("--validate"))
            .context("this needs root, and sudo does not let you")?;
    }
    let toolchain = match BpfToolchain::load() {
        Ok(toolchain) => toolchain,
        Err(reason) => {
            println!("setup: {reason:#}");
            bring()?
        }
    };
    if needs.clippy {
        toolchain::ensure_clippy(&toolchain.name, &toolchain.rustc)?;
    }
    if needs.tools {
        packages::test_tools()?;
    }
    if needs.fuzz {
        packages::fuzz_tools()?;
    }
    println!(
        "setup: kernel programs are built by {} with {} ({:.1} s)",
        toolchain.name,
        toolchain.linker.display(),
        start.elapsed().as_secs_f32()
    );
    Ok(toolchain)
}

/// Finds or installs compiler and linker, and writes down which they are.
fn bring() -> Result<BpfToolchain> {
    let file = state::file()?;
    let folder = state::cache_dir()?;
    fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
    let compiler = toolchain::find_or_install()?;
    let linker = linker::find_or_build(&compiler)?;
    let toolchain = BpfToolchain {
        name: compiler.name,
        rustc: compiler.rustc,
        cargo: compiler.cargo,
        identity: compiler.identity,
        linker,
    };
    toolchain.validate()?;
    // Renamed into place: a build that runs beside sees the old or the new file, never half of it.
    let new = file.with_extension(format!("new-{}", std::process::id()));
    fs::write(&new, text(&toolchain))
        .and_then(|()| fs::rename(&new, &file))
        .with_context(|| format!("cannot write {}", file.display()))?;
    Ok(toolchain)
}

/// The text that [`BpfToolchain::parse`] reads.
fn text(toolchain: &BpfToolchain) -> String {
    format!(
        "# Written by `cargo xtask setup`, read by the build script of peerwatch.\n\
         linker_version={LINKER_VERSION}\ntoolchain={}\nrustc={}\ncargo={}\nidentity={}\nlinker={}\n",
        toolchain.name,
        toolchain.rustc.display(),
        toolchain.cargo.display(),
        toolchain.identity,
        toolchain.linker.display()
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn example() -> BpfToolchain {
        BpfToolchain {
            name: "nightly-x86_64-unknown-linux-gnu".to_owned(),
            rustc: "/tools/with space/bin/rustc".into(),
            cargo: "/tools/with space/bin/cargo".into(),
            identity: "rustc 1.97.0-nightly; LLVM version: 22.1.4".to_owned(),
            linker: "/cache/bin/bpf-linker".into(),
        }
    }

    #[test]
    fn what_is_written_is_read_back() {
        assert_eq!(BpfToolchain::parse(&text(&example())).unwrap(), example());
    }

    #[test]
    fn a_file_about_another_linker_is_refused() {
        let text = text(&example()).replace(LINKER_VERSION, "0.1.0");
        assert!(
            BpfToolchain::parse(&text)
                .unwrap_err()
                .to_string()
                .contains("0.1.0")
        );
    }

    #[test]
    fn a_file_without_a_key_is_refused() {
        let text = text(&example()).replace("rustc=", "rusty=");
        assert_eq!(
            BpfToolchain::parse(&text).unwrap_err().to_string(),
            "no line rustc="
        );
    }

    #[test]
    fn a_compiler_that_is_gone_does_not_validate() {
        assert!(example().validate().is_err());
    }
}
