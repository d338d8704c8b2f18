//! From a kernel package to the kernel's BTF.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context as _, Result, bail};

use super::types::{START, Types};
use crate::{cmd, state};

/// The BTF of the kernel in a package.
///
/// # Errors
///
/// When the package has no kernel, it is packed in a way that is not known here, or has no BTF.
pub(super) fn btf(package: &Path) -> Result<Types> {
    let scratch = state::cache_dir()?.join(format!("image-{}", std::process::id()));
    fs::create_dir_all(&scratch)?;
    let result = extract(package, &scratch)
        .and_then(|image| unpacked(fs::read(image)?, &scratch))
        .and_then(|kernel| find(&kernel));
    fs::remove_dir_all(&scratch)?;
    result.with_context(|| format!("the kernel of {}", package.display()))
}

/// Takes the image out of a package, and nothing else of it.
fn extract(package: &Path, to: &Path) -> Result<PathBuf> {
    let mut archive = Command::new("dpkg-deb")
        .arg("--fsys-tarfile")
        .arg(package)
        .stdout(Stdio::piped())
        .spawn()
        .context("cannot start dpkg-deb")?;
    let pipe = archive.stdout.take().context("no pipe")?;
    let result = cmd::run(
        Command::new("tar")
            .args(["--extract", "--wildcards", "--transform", "s,.*/,,"])
            .arg("--directory")
            .arg(to)
            // Of Debian until 6.18 and of Ubuntu; of Debian since.
            .args(["./boot/vmlinuz-*", "./usr/lib/modules/*/vmlinuz"])
            .stdin(pipe)
            // It complains of the pattern that fits nothing, and fails for it.
            .stderr(Stdio::null()),
    );
    if !archive.wait()?.success() {
        bail!("dpkg-deb failed");
    }
    let found = fs::read_dir(to)?
        .map(|entry| Ok(entry?.path()))
        .collect::<Result<Vec<_>>>()?;
    match (<[PathBuf; 1]>::try_from(found), result) {
        (Ok([image]), _) => Ok(image),
        (Err(found), Ok(())) => bail!("{} images in it, not one", found.len()),
        (Err(_), Err(error)) => Err(error),
    }
}

/// What boots, uncompressed: x86's `bzImage`, arm64's `Image`, or an EFI image with one in it.
fn unpacked(image: Vec<u8>, scratch: &Path) -> Result<Vec<u8>> {
    let payload = if image.get(0x202..0x206) == Some(b"HdrS") {
        // Documentation/arch/x86/boot.rst: sectors of the set-up code less one, then where in the
        // rest the payload is.
        let setup = usize::from(image[0x1f1]);
        let setup = (if setup == 0 { 4 } else { setup } + 1) * 512;
        slice(
            &image,
            setup + number(&image, 0x248)?,
            number(&image, 0x24c)?,
        )?
    } else if image.get(4..8) == Some(b"zimg") {
        // drivers/firmware/efi/libstub/zboot-header.S
        slice(&image, number(&image, 8)?, number(&image, 12)?)?
    } else {
        &image
    };
    let (program, sized) = match payload {
        [0x1f, 0x8b, ..] => ("gzip", false),
        [0xfd, b'7', b'z', b'X', b'Z', 0, ..] => ("xz", true),
        [0x28, 0xb5, 0x2f, 0xfd, ..] => ("zstd", true),
        // The old format of lz4, which is all that the kernel unpacks.
        [0x02, 0x21, 0x4c, 0x18, ..] => ("lz4", true),
        _ if payload.len() == image.len() => return Ok(image),
        _ => bail!("packed in a way that is not known here"),
    };
    // The kernel's build appends the uncompressed size where the format itself does not have it,
    // and x86 counts it as part of the payload.
    let is_x86 = image.get(4..8) != Some(b"zimg");
    let payload = match payload.len().checked_sub(4) {
        Some(length) if sized && is_x86 => &payload[..length],
        _ => payload,
    };
    let file = scratch.join("payload");
    fs::write(&file, payload)?;
    let mut command = Command::new(program);
    let output = command
        .arg("-dc")
        .stdin(File::open(&file)?)
        .output()
        .with_context(|| format!("cannot start {program}"))?;
    if !output.status.success() {
        let stderr = String::from_utf8_lossy(&output.stderr);
        bail!("{program} failed: {}", stderr.trim_end());
    }
    Ok(output.stdout)
}

/// The little-endian number of four bytes at `at`.
fn number(image: &[u8], at: usize) -> Result<usize> {
    let bytes = image.get(at..).and_then(<[u8]>::first_chunk);
    Ok(u32::from_le_bytes(*bytes.context("cut short")?).try_into()?)
}

fn slice(image: &[u8], start: usize, length: usize) -> Result<&[u8]> {
    let rest = image.get(start..);
    let found = rest.and_then(|rest| rest.get(..length));
    found.context("a payload beyond the end")
}

/// The BTF in a kernel. An arm64 image has no section table, so it is looked for by how it begins;
/// there can be small ones of built-in programs too.
fn find(kernel: &[u8]) -> Result<Types> {
    let starts = kernel.windows(START.len()).enumerate();
    let found = starts
        .filter(|(_, window)| *window == START)
        .filter_map(|(at, _)| Types::read(&kernel[at..]).ok())
        .max_by_key(|types| types.bytes().len());
    found.context("no BTF in it that can be read")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::btf::types::Writer;

    /// BTF without types, but with a name of this length.
    fn btf_of(length: usize) -> Vec<u8> {
        let mut writer = Writer::new();
        writer.name(&"x".repeat(length)).unwrap();
        writer.finish().unwrap()
    }

    #[test]
    fn the_longest_btf_of_a_kernel_is_its_own() {
        let long = btf_of(300);
        let mut kernel = b"code".to_vec();
        for part in [&btf_of(30), &b"\x9f\xeb\x01 is no BTF"[..], &long, b"code"] {
            kernel.extend(part);
        }
        assert_eq!(find(&kernel).unwrap().bytes(), long);
        assert!(find(b"code").is_err());
    }

    #[test]
    fn packed_kernels_are_unpacked_and_others_left_alone() {
        let scratch = std::env::temp_dir().join(format!("peerwatch-image-{}", std::process::id()));
        fs::create_dir(&scratch).unwrap();
        fs::write(scratch.join("kernel"), "a kernel").unwrap();
        let pack = |program: &str| {
            let kernel = File::open(scratch.join("kernel")).unwrap();
            let mut command = Command::new(program);
            command.arg("-c").stdin(kernel).output().unwrap().stdout
        };
        let length = |bytes: &[u8]| u32::try_from(bytes.len()).unwrap().to_le_bytes();
        let mut images = vec![b"a kernel".to_vec()];
        for program in ["gzip", "xz", "zstd"] {
            let payload = pack(program);
            let mut zboot = b"MZ\0\0zimg\x10\0\0\0".to_vec();
            zboot.extend(length(&payload));
            zboot.extend(&payload);
            zboot.extend(b"more");
            images.push(zboot);

            let mut sized = payload;
            if program != "gzip" {
                sized.extend(8_u32.to_le_bytes());
            }
            let mut x86 = vec![0; 2 * 512];
            x86[0x1f1] = 1;
            x86[0x202..0x206].copy_from_slice(b"HdrS");
            x86[0x248..0x24c].copy_from_slice(&4_u32.to_le_bytes());
            x86[0x24c..0x250].copy_from_slice(&length(&sized));
            x86.extend(b"stub");
            x86.extend(&sized);
            x86.extend(b"more");
            images.push(x86);
        }
        let results: Vec<_> = images
            .into_iter()
            .map(|image| unpacked(image, &scratch))
            .collect();
        fs::remove_dir_all(&scratch).unwrap();
        assert_eq!(results.len(), 7);
        for result in results {
            assert_eq!(result.unwrap(), b"a kernel");
        }
    }
}
