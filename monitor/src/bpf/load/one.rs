//! Loading one program, and what an error says of it.

use std::os::fd::{AsFd as _, OwnedFd};
use std::path::Path;

use aya::programs::{Program, ProgramError};
use aya::{Ebpf, Endianness};

use super::{Cause, Refusal, TP_BTF};
use crate::bpf::may_pass;

/// The first refusal of all programs, where there is no program that is loaded or may be later.
pub(super) fn hopeless<'a>(
    mut programs: impl Iterator<Item = Option<&'a Refusal>>,
) -> Option<&'a Refusal> {
    let stays = |refusal: &&Refusal| refusal.cause != Cause::Passing;
    let first = programs.next()?.filter(stays)?;
    programs
        .all(|refusal| refusal.as_ref().is_some_and(stays))
        .then_some(first)
}

/// Whether an error of loading may pass.
pub(super) fn cause(error: &std::io::Error) -> Cause {
    if may_pass(error) {
        Cause::Passing
    } else {
        Cause::Kernel
    }
}

/// Loads one program of the object.
pub(super) fn load_one(
    ebpf: &mut Ebpf,
    name: &str,
    btf: Option<&Path>,
) -> Result<OwnedFd, ProgramError> {
    let program = ebpf.program_mut(name).ok_or(ProgramError::NotLoaded)?;
    match program {
        Program::BtfTracePoint(program) => {
            let btf = btf.ok_or(ProgramError::NotLoaded)?;
            // Named after the tracepoint, whatever the program's own name is.
            program.load(TP_BTF, &aya::Btf::parse_file(btf, Endianness::default())?)?;
        }
        Program::RawTracePoint(program) => program.load()?,
        Program::CgroupSkb(program) => program.load()?,
        Program::SchedClassifier(program) => program.load()?,
        _ => return Err(ProgramError::UnexpectedProgramType),
    }
    Ok(program.fd()?.as_fd().try_clone_to_owned()?)
}
