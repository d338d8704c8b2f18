//! That the daemon builds for the other kind of machine that users have.

use anyhow::Result;

use super::Checked;
use crate::{build::root, cmd, cross};

/// Lints of the daemon and of what it shares with the kernel programs, which are built for that kind of
/// machine on the way. That it works there is shown by `cargo xtask vm-test --kernel 6.12-arm64`.
///
/// # Errors
///
/// When a lint finds something, or it does not build.
pub(super) fn check() -> Result<Checked> {
    // A part of the TLS library is C, so it takes a C compiler as well.
    if let Err(error) = cross::set_up() {
        return Ok(Checked::No(format!("{error:#}")));
    }
    cmd::run(
        cmd::cargo()
            .current_dir(root()?)
            .args(["clippy", "--quiet", "--locked", "--target", cross::TARGET])
            .args(["--package", "peerwatch", "--package", "monitor-common"])
            .args(["--", "--deny=warnings"]),
    )
    .map(|()| Checked::Yes)
}
