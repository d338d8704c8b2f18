//! The kinds of machines that guests are, and how QEMU makes them.

use serde::Deserialize;

/// A kind of machine.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq)]
#[serde(rename_all = "lowercase")]
pub(super) enum Arch {
    /// What the tests of the workspace are built for.
    #[default]
    Amd64,
    /// What they are cross-built for.
    Arm64,
}

impl Arch {
    /// Debian's name of it.
    pub(super) const fn debian(self) -> &'static str {
        match self {
            Self::Amd64 => "amd64",
            Self::Arm64 => "arm64",
        }
    }

    /// The program of QEMU.
    pub(super) const fn qemu(self) -> &'static str {
        match self {
            Self::Amd64 => "qemu-system-x86_64",
            Self::Arm64 => "qemu-system-aarch64",
        }
    }

    /// Board and processor.
    pub(super) const fn machine(self) -> [&'static str; 4] {
        match self {
            // QEMU 7.2 spoils the flags of cmpxchg16b, with which newer kernels allocate memory.
            Self::Amd64 => ["-machine", "q35", "-cpu", "max,cx16=off"],
            // Return addresses are signed, as newer processors do, but not by the algorithm of the
            // architecture, with which emulation takes several times as long.
            Self::Arm64 => ["-machine", "virt", "-cpu", "max,pauth-impdef=on"],
        }
    }

    /// The guest's name of its console.
    pub(super) const fn console(self) -> &'static str {
        match self {
            Self::Amd64 => "ttyS0",
            Self::Arm64 => "ttyAMA0",
        }
    }

    /// Arguments for a serial port beside the console that is our standard output.
    pub(super) const fn report_port(self) -> &'static [&'static str] {
        match self {
            Self::Amd64 => &["-serial", "stdio"],
            // The board has one port only; this is another on its bus.
            Self::Arm64 => &[
                "-chardev",
                "stdio,id=report",
                "-device",
                "pci-serial,chardev=report",
            ],
        }
    }

    /// The guest's name of that port.
    pub(super) const fn report(self) -> &'static str {
        match self {
            Self::Amd64 => "/dev/ttyS1",
            Self::Arm64 => "/dev/ttyS0",
        }
    }
}
