//! Devices on which others than the kernel's own stack decide where packets go.

use std::any::Any;

use anyhow::Result;

use super::{Rig, held};
use crate::netlink::{Attributes, generic};
use crate::netns::NetNs;

/// From `linux/openvswitch.h`.
const OVS_DP_CMD_NEW: u8 = 1;
const OVS_DATAPATH_VERSION: u8 = 2;
const OVS_DP_ATTR_NAME: u16 = 1;
const OVS_DP_ATTR_UPCALL_PID: u16 = 2;

/// Makes a switch of Open vSwitch in a namespace, without its daemon: a datapath, and the device of its own port.
///
/// # Errors
///
/// When the kernel has no Open vSwitch.
pub(crate) fn open_vswitch(netns: &NetNs, name: &str) -> Result<()> {
    // `struct ovs_header`: the index of a datapath that is there.
    let header = [0; 4];
    let attributes = Attributes::default()
        .text(OVS_DP_ATTR_NAME, name)?
        // Packets that no flow is for go nowhere.
        .bytes(OVS_DP_ATTR_UPCALL_PID, &[0; 4])?;
    let command = (OVS_DP_CMD_NEW, OVS_DATAPATH_VERSION);
    netns.run(move || generic("ovs_datapath", command, &header, &attributes))
}

pub(super) fn a_datapath(rig: &Rig) -> Result<Box<dyn Any>> {
    open_vswitch(&rig.netns, "switch0")?;
    Ok(held(()))
}

pub(super) fn netkit(rig: &Rig) -> Result<Box<dyn Any>> {
    rig.netns.ip("link add kit0 type netkit")?;
    Ok(held(()))
}
