//! `cargo xtask vm-test --newer`: what Debian's archive has now for each pinned kernel.

use std::{collections::BTreeMap, fmt::Write as _};

use anyhow::{Context as _, Result, ensure};

use super::{apt::Apt, arch::Arch, kernels::Pin};

/// The package that depends on the newest kernel of a suite, without the kind of machine behind it.
const META: &str = "linux-image-cloud-";

/// What the packages begin with that image and modules are in. Since 6.19 the image's own package only
/// depends on these.
const PARTS: [&str; 2] = ["linux-binary-", "linux-modules-"];

/// One package in apt's words.
type Fields = BTreeMap<String, String>;

/// Prints, for each kernel, that its pin is the newest, or the newest in the form of the list.
///
/// # Errors
///
/// When no mirror of Debian is known, or apt fails.
pub(super) fn print(pins: &[Pin]) -> Result<()> {
    for pin in pins {
        if !pin.is_of_debian() {
            println!(
                "# {}: not of Debian, {} stays pinned",
                pin.name, pin.version
            );
            continue;
        }
        let apt = Apt::read(&pin.suite, pin.arch)?;
        let files = newest(pin.arch, &|name| Ok(fields(&apt.show(name)?)))?;
        let version = files
            .first()
            .and_then(|file| file.get("Version"))
            .context("a package without a version")?;
        if *version == pin.version {
            println!("# {}: {version} is the newest in {}", pin.name, pin.suite);
        } else {
            println!(
                "# {}: {} is pinned, {} has\n{}",
                pin.name,
                pin.version,
                pin.suite,
                entry(pin, version, &files)?
            );
        }
    }
    Ok(())
}

/// The package files of the newest kernel, by what `show` says of packages.
fn newest(arch: Arch, show: &dyn Fn(&str) -> Result<Fields>) -> Result<Vec<Fields>> {
    let meta = format!("{META}{}", arch.debian());
    let name = dependency(&show(&meta)?, "linux-image-")
        .with_context(|| format!("{meta} without an image"))?;
    let image = show(&name)?;
    let parts: Vec<String> = PARTS
        .iter()
        .filter_map(|part| dependency(&image, part))
        .collect();
    if parts.is_empty() {
        return Ok(vec![image]);
    }
    ensure!(
        parts.len() == PARTS.len(),
        "{name} depends on {parts:?} only"
    );
    parts.iter().map(|part| show(part)).collect()
}

/// The first package that a package depends on whose name begins so.
fn dependency(package: &Fields, start: &str) -> Option<String> {
    let depends = package.get("Depends")?;
    let mut names = depends
        .split([',', '|'])
        .filter_map(|dependency| dependency.split_whitespace().next());
    names
        .find(|name| name.starts_with(start))
        .map(str::to_owned)
}

/// An entry of xtask/kernels.toml.
fn entry(pin: &Pin, version: &str, files: &[Fields]) -> Result<String> {
    // 7.3.4-1~bpo13+1 is called 7.3.
    let name: Vec<&str> = version.split(['.', '-']).take(2).collect();
    let (suffix, arch) = match pin.arch {
        Arch::Amd64 => ("", ""),
        Arch::Arm64 => ("-arm64", "arch = \"arm64\"\n"),
    };
    let mut text = format!(
        "\n[[kernel]]\nname = \"{}{suffix}\"\ndistribution = \"{}\"\nsuite = \"{}\"\n\
         version = \"{version}\"\n{arch}{}",
        name.join("."),
        pin.distribution,
        pin.suite,
        if pin.short { "short = true\n" } else { "" }
    );
    for file in files {
        let field = |name: &str| {
            file.get(name)
                .with_context(|| format!("a package without the field {name}"))
        };
        let (path, sha256) = (field("Filename")?, field("SHA256")?);
        writeln!(
            text,
            "\n[[kernel.file]]\npath = \"{path}\"\nsha256 = \"{sha256}\""
        )?;
    }
    Ok(text)
}

/// The first paragraph of what apt shows; lines that continue a field are left out.
fn fields(text: &str) -> Fields {
    text.lines()
        .take_while(|line| !line.is_empty())
        .filter_map(|line| line.split_once(": "))
        .filter(|(name, _)| !name.starts_with(' '))
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::super::kernels;
    use super::*;

    fn show(name: &str) -> Result<Fields> {
        let text = match name {
            "linux-image-cloud-amd64" => {
                "Package: x\nDepends: linux-image-7.4.1-cloud-amd64 (= 7.4.1-1)\n"
            }
            "linux-image-7.4.1-cloud-amd64" => {
                "Depends: dracut | initramfs-tools (>= 0.120), linux-base-7.4.1 (= 7.4.1-1), \
                 linux-binary-7.4.1 (= 7.4.1-1), linux-modules-7.4.1 (= 7.4.1-1)\n"
            }
            "linux-binary-7.4.1" => {
                "Version: 7.4.1-1\nFilename: pool/b.deb\nSHA256: 12\nDescription: text\n more: of it\n"
            }
            "linux-modules-7.4.1" => {
                "Version: 7.4.1-1\nFilename: pool/m.deb\nSHA256: 34\n\nSHA256: 5\n"
            }
            other => anyhow::bail!("no {other}"),
        };
        Ok(fields(text))
    }

    #[test]
    fn a_kernel_in_parts_becomes_an_entry_of_the_list() {
        let files = newest(Arch::Amd64, &show).unwrap();
        let pin = kernels::chosen(&["6.1".to_owned()]).unwrap().remove(0);
        let text = entry(&pin, "7.4.1-1", &files).unwrap();
        assert!(text.contains("name = \"7.4\""), "{text}");
        assert!(
            text.contains("path = \"pool/b.deb\"\nsha256 = \"12\""),
            "{text}"
        );
        assert!(
            text.contains("path = \"pool/m.deb\"\nsha256 = \"34\""),
            "{text}"
        );
        assert!(entry(&pin, "7.4.1-1", &[Fields::new()]).is_err());
    }

    #[test]
    fn a_kernel_in_one_package_is_that_package() {
        let one = |name: &str| match name {
            "linux-image-cloud-arm64" => Ok(fields("Depends: linux-image-6.1.0-9 (= 6.1.9-1)\n")),
            _ => Ok(fields("Version: 6.1.9-1\nDepends: kmod, linux-base\n")),
        };
        assert_eq!(newest(Arch::Arm64, &one).unwrap().len(), 1);
        assert!(newest(Arch::Amd64, &|_| Ok(Fields::new())).is_err());
    }
}
