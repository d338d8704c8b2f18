//! How large the programs are: in the object, and for the verifier.

use std::collections::{BTreeMap, HashSet};

use anyhow::{Context as _, Result, ensure};
use aya::Ebpf;
use aya_obj::Object;
use aya_obj::generated::bpf_insn;
use monitor::bpf::OBJECT;
use serde::{Deserialize, Serialize};

/// `BPF_JMP | BPF_CALL`: a helper's, where the source register is 0 (`linux/bpf.h`).
const CALL: u8 = 0x85;
/// `BPF_FUNC_map_lookup_elem`
const MAP_LOOKUP: i32 = 1;
/// `BPF_FUNC_tail_call`
const TAIL_CALL: i32 = 12;

/// The sizes of one program. The first three come from the object and so depend on the compiler alone;
/// the last one is this kernel's.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Size {
    /// Instructions, those of the functions that it calls included.
    pub(crate) instructions: u32,
    /// Calls of kernel helpers, each counted once however often it runs.
    pub(crate) helper_calls: u32,
    /// Those of them that look a map up.
    pub(crate) map_lookups: u32,
    /// Instructions that the verifier went through, along all paths: what loading takes. It gives up
    /// at a million.
    pub(crate) verified: u32,
}

/// The sizes of all programs of a loaded object, by name. Those that are not in the first object are in
/// the second: a kernel needs one of the two drop programs.
pub(crate) fn sizes(ebpf: &Ebpf, raw: &Ebpf) -> Result<BTreeMap<String, Size>> {
    let mut object = Object::parse(OBJECT).context("the object")?;
    // Appends to each program the functions that it calls, as the loader does.
    let sections: HashSet<_> = object
        .functions
        .keys()
        .map(|(section, _)| *section)
        .collect();
    object.relocate_calls(&sections)?;
    let mut sizes = BTreeMap::new();
    for (name, program) in &object.programs {
        let function = object
            .functions
            .get(&program.function_key())
            .with_context(|| format!("{name} has no instructions"))?;
        let verified = [ebpf, raw]
            .into_iter()
            .find_map(|ebpf| ebpf.program(name)?.info().ok())
            .with_context(|| format!("{name} is not loaded"))?
            .verified_instruction_count()
            .context("this kernel does not tell verified instructions (needs 5.16)")?;
        ensure_loads_without_mixed_calls(&function.instructions)
            .with_context(|| format!("{name} would not load everywhere"))?;
        sizes.insert(name.clone(), size(&function.instructions, verified)?);
    }
    Ok(sizes)
}

/// A program that ends in a tail call must not call functions of its own: kernels without
/// `bpf_jit_supports_subprog_tailcalls` (arm64 before 6.0, and any interpreter) refuse it
/// (`check_helper_call`: "`tail_calls` are not allowed in non-JITed programs with bpf-to-bpf calls").
fn ensure_loads_without_mixed_calls(instructions: &[bpf_insn]) -> Result<()> {
    let calls = || instructions.iter().filter(|one| one.code == CALL);
    let tail = calls().any(|call| call.src_reg() == 0 && call.imm == TAIL_CALL);
    let own = calls().filter(|call| call.src_reg() != 0).count();
    ensure!(
        !tail || own == 0,
        "it ends in a tail call and calls functions of its own {own} times"
    );
    Ok(())
}

fn size(instructions: &[bpf_insn], verified: u32) -> Result<Size> {
    let calls = instructions
        .iter()
        .filter(|instruction| instruction.code == CALL && instruction.src_reg() == 0);
    let helpers: Vec<i32> = calls.map(|call| call.imm).collect();
    let lookups = helpers.iter().filter(|helper| **helper == MAP_LOOKUP);
    Ok(Size {
        instructions: u32::try_from(instructions.len())?,
        helper_calls: u32::try_from(helpers.len())?,
        map_lookups: u32::try_from(lookups.count())?,
        verified,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Source register of a call of a function of the program itself.
    const PSEUDO_CALL: u8 = 1;

    fn call(source: u8, function: i32) -> bpf_insn {
        bpf_insn {
            code: CALL,
            _bitfield_align_1: [],
            _bitfield_1: bpf_insn::new_bitfield_1(0, source),
            off: 0,
            imm: function,
        }
    }

    #[test]
    fn tail_calls_do_not_mix_with_calls_of_own_functions() {
        let (tail, own) = (call(0, TAIL_CALL), call(PSEUDO_CALL, 1));
        assert!(ensure_loads_without_mixed_calls(&[tail]).is_ok());
        assert!(ensure_loads_without_mixed_calls(&[own, call(0, MAP_LOOKUP)]).is_ok());
        assert!(ensure_loads_without_mixed_calls(&[own, tail]).is_err());
    }

    #[test]
    fn calls_of_own_functions_are_not_calls_of_helpers() {
        // Lookup, its own function at a distance of 1, ktime_get_ns.
        let program = [call(0, MAP_LOOKUP), call(PSEUDO_CALL, 1), call(0, 5)];
        assert_eq!(
            size(&program, 7).unwrap(),
            Size {
                instructions: 3,
                helper_calls: 2,
                map_lookups: 1,
                verified: 7
            }
        );
    }
}
