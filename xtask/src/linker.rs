//! Builds bpf-linker for the LLVM of the compiler that builds the kernel programs.
//!
//! The linker reads the bitcode that the compiler writes, so its LLVM must not be older. It is
//! linked to the very library that the compiler uses, and lives in the cache folder: the user's
//! own bpf-linker, if there is one, stays as it is.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, bail};

use crate::{
    cmd::{self, replace_link},
    state::{LINKER_VERSION, cache_dir},
    toolchain::Compiler,
};

/// A shared LLVM library.
#[derive(Debug, Eq, PartialEq)]
struct Llvm {
    /// The name by which programs ask the dynamic linker for it.
    soname: String,
    /// Where it is.
    path: PathBuf,
}

/// Returns the linker for a compiler; builds it if it is not in the cache.
///
/// # Errors
///
/// When the compiler's LLVM is no shared library, or the build fails.
pub(crate) fn find_or_build(compiler: &Compiler) -> Result<PathBuf> {
    let llvm = Llvm::of(&compiler.rustc)?;
    let cache = cache_dir()?;
    let root = cache.join(format!("bpf-linker-{LINKER_VERSION}-{}", llvm.soname));
    let linker = root.join("bin/bpf-linker");
    offer(&llvm, &root.join("lib"))?;
    if !linker.is_file() {
        let feature = format!("llvm-{}", compiler.llvm_major()?);
        println!(
            "setup: building bpf-linker {LINKER_VERSION} for LLVM {} into {} (it links the kernel \
             programs; takes about a minute)",
            compiler.llvm,
            root.display()
        );
        let mut command = cmd::cargo();
        command
            .args([
                "install",
                "--quiet",
                "--locked",
                "--no-default-features",
                "--no-track",
            ])
            .args([
                "--features",
                &feature,
                "--version",
                LINKER_VERSION,
                "bpf-linker",
                "--root",
            ])
            .arg(&root)
            // Its build script looks for lib/libLLVM.so in here, and sets the run path to it.
            .env("LLVM_PREFIX", &root)
            // What the workspace is built with is not for it.
            .env_remove("RUSTFLAGS")
            .env_remove("CARGO_ENCODED_RUSTFLAGS");
        cmd::run(&mut command)?;
    }
    let used = Llvm::of(&linker)?;
    if fs::canonicalize(&used.path)? != fs::canonicalize(&llvm.path)? {
        bail!(
            "{} uses {}, but the compiler's LLVM is {}: the older one cannot read what the newer \
             one writes",
            linker.display(),
            used.path.display(),
            llvm.path.display()
        );
    }
    Ok(linker)
}

impl Llvm {
    /// The library that a program uses.
    fn of(program: &Path) -> Result<Self> {
        // `cargo run` puts its own toolchain's folder into this variable; it would come first.
        let text = cmd::output(
            Command::new("ldd")
                .arg(program)
                .env_remove("LD_LIBRARY_PATH"),
        )?;
        Self::parse(&text).with_context(|| format!("{} uses no shared libLLVM", program.display()))
    }

    /// Finds it in what ldd prints.
    fn parse(text: &str) -> Option<Self> {
        text.lines().find_map(|line| {
            let (soname, rest) = line.trim().split_once(" => ")?;
            let (path, _address) = rest.rsplit_once(" (")?;
            let llvm = Self {
                soname: soname.to_owned(),
                path: path.into(),
            };
            soname.starts_with("libLLVM").then_some(llvm)
        })
    }
}

/// Makes a folder in which both the build and the dynamic linker find the library.
fn offer(llvm: &Llvm, folder: &Path) -> Result<()> {
    fs::create_dir_all(folder)?;
    for name in ["libLLVM.so", &llvm.soname] {
        replace_link(&llvm.path, &folder.join(name))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_library_is_found_among_others() {
        let text = "\tlinux-vdso.so.1 (0x00007ffd)\n\
                    \tlibrustc_driver-1.so => /usr/lib/librustc_driver-1.so (0x00007f01)\n\
                    \tlibLLVM.so.22.1 => /lib/x (1)/libLLVM.so.22.1 (0x00007f02)\n";
        let llvm = Llvm::parse(text).unwrap();
        assert_eq!(llvm.soname, "libLLVM.so.22.1");
        assert_eq!(llvm.path, Path::new("/lib/x (1)/libLLVM.so.22.1"));
    }

    #[test]
    fn none_is_found_where_none_is_or_where_it_is_lost() {
        assert_eq!(Llvm::parse("\tlibc.so.6 => /lib/libc.so.6 (0x1)\n"), None);
        assert_eq!(Llvm::parse("\tlibLLVM.so.22.1 => not found\n"), None);
    }
}
