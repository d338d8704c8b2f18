//! The running kernel, as far as what it must show depends on it.
//!
//! By its release: the product asks the kernel for features, and a test that did the same would go wrong
//! together with it.

use std::sync::LazyLock;

/// What the label `reason` says on kernels that give none.
pub const UNAVAILABLE: &str = "unavailable";

static RELEASE: LazyLock<(u32, u32)> = LazyLock::new(|| {
    let names = nix::sys::utsname::uname();
    names
        .ok()
        .and_then(|names| parse(names.release().to_str()?))
        .unwrap_or((0, 0))
});

/// Version and patch level of a release, `6.12` of `6.12.107+deb13-cloud-amd64`.
fn parse(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release
        .split(|c: char| !c.is_ascii_digit())
        .map(str::parse::<u32>);
    Some((numbers.next()?.ok()?, numbers.next()?.ok()?))
}

/// True when the kernel is of this release or a later one.
#[must_use]
pub fn is_at_least(version: u32, patch_level: u32) -> bool {
    *RELEASE >= (version, patch_level)
}

/// Whether the kernel says why it drops a packet: Linux 5.17 (commit c504e5c2f964) and later.
#[must_use]
pub fn gives_reasons() -> bool {
    is_at_least(5, 17)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn releases_are_compared_by_their_first_two_numbers() {
        assert_eq!(parse("6.12.107+deb13-cloud-amd64"), Some((6, 12)));
        assert_eq!(parse("5.10.0-32-cloud-amd64"), Some((5, 10)));
        assert_eq!(parse("7.3-rc1"), Some((7, 3)));
        assert_eq!(parse("strange"), None);
        assert!(is_at_least(5, 8), "this test needs a kernel of today");
        assert!(!is_at_least(99, 0));
    }
}
