//! What the daemon reads of a kernel's BTF, without the rest.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context as _, Result, bail};

use super::types::{Part, Type, Types, Writer, kind};

/// Structs and unions that keep their members: those on the dotted paths of
/// `monitor/src/bpf/facts.rs`. Other ones keep only their name and size.
const STRUCTS: [&str; 12] = [
    "dst_entry",
    "net",
    "net_device",
    "ns_common",
    "nsproxy",
    "rt6_info",
    "rtable",
    "sk_buff",
    "skb_shared_info",
    "sock",
    "sock_common",
    "task_struct",
];

/// Enums that keep their values, on kernels that have them.
const ENUMS: [&str; 2] = ["skb_drop_reason", "skb_drop_reason_subsys"];

/// Tracepoints whose prototype is kept.
const TRACEPOINTS: [&str; 1] = ["btf_trace_kfree_skb"];

/// The type that tells a reader how long a pointer is.
const LONG: &str = "long unsigned int";

/// Whether a type is kept for its own sake.
fn is_wanted(ty: &Type) -> bool {
    let among = |names: &[&str]| names.contains(&ty.name.as_str());
    match ty.kind {
        kind::STRUCT | kind::UNION => ty.vlen > 0 && among(&STRUCTS),
        kind::ENUM | kind::ENUM64 => ty.vlen > 0 && among(&ENUMS),
        kind::TYPEDEF => among(&TRACEPOINTS),
        kind::INT => ty.name == LONG,
        _ => false,
    }
}

/// The prototype behind a tracepoint's typedef.
fn prototype(types: &Types, typedef: &Type) -> Result<u32> {
    let pointer = types.get(typedef.size_or_target)?;
    let pointer = pointer.filter(|ty| ty.kind == kind::POINTER);
    let id = pointer.context("no pointer")?.size_or_target;
    let found = types.get(id)?.filter(|ty| ty.kind == kind::FUNC_PROTO);
    found.map(|_| id).context("no prototype")
}

/// BTF with what the daemon reads of it, and what that refers to. Types keep their order.
///
/// # Errors
///
/// When a struct, the tracepoint or the unsigned long is missing.
pub(super) fn reduce(types: &Types) -> Result<Vec<u8>> {
    let mut pending = Vec::new();
    let mut prototypes = BTreeSet::new();
    let mut found = BTreeSet::new();
    for (id, ty) in types.all().filter(|(_, ty)| is_wanted(ty)) {
        pending.push(id);
        found.insert(ty.name.as_str());
        if ty.kind == kind::TYPEDEF {
            let id = prototype(types, ty).with_context(|| ty.name.clone())?;
            prototypes.insert(id);
        }
    }
    for name in STRUCTS.iter().chain(&TRACEPOINTS).chain([&LONG]) {
        if !found.contains(name) {
            bail!("this kernel's BTF has no {name}");
        }
    }
    let mut kept = BTreeMap::new();
    while let Some(id) = pending.pop() {
        let Some(ty) = types.get(id)? else { continue };
        if kept.contains_key(&id) || is_left_out(id, ty, &prototypes) {
            continue;
        }
        let ty = shortened(ty);
        pending.extend(references(&ty));
        kept.insert(id, ty);
    }
    write(types, kept)
}

/// Functions behind members that are pointers: they become `void`.
fn is_left_out(id: u32, ty: &Type, prototypes: &BTreeSet<u32>) -> bool {
    ty.kind == kind::FUNC_PROTO && !prototypes.contains(&id)
}

/// The type without members or values, unless it is wanted. One without a name keeps them: its
/// members are those of the type that it stands in.
fn shortened(ty: &Type) -> Type {
    let mut ty = ty.clone();
    let has_elements = matches!(
        ty.kind,
        kind::STRUCT | kind::UNION | kind::ENUM | kind::ENUM64
    );
    if has_elements && !ty.name.is_empty() && !is_wanted(&ty) {
        ty.vlen = 0;
        ty.flag = false;
        ty.body.clear();
    }
    ty
}

/// The types that a type refers to.
fn references(ty: &Type) -> Vec<u32> {
    let target = ty.has_target().then_some(ty.size_or_target);
    let body = ty.parts().filter(|(part, _)| *part == Part::Type);
    body.map(|(_, id)| id).chain(target).collect()
}

/// Writes the types under new numbers. What is not among them becomes `void`.
fn write(types: &Types, kept: BTreeMap<u32, Type>) -> Result<Vec<u8>> {
    let numbers: BTreeMap<u32, u32> = kept.keys().copied().zip(1..).collect();
    let renumbered = |id| numbers.get(&id).copied().unwrap_or_default();
    let mut writer = Writer::new();
    for mut ty in kept.into_values() {
        if ty.has_target() {
            ty.size_or_target = renumbered(ty.size_or_target);
        }
        ty.body = ty
            .parts()
            .map(|(part, word)| {
                Ok(match part {
                    Part::Name => writer.name(types.name(word)?)?,
                    Part::Type => renumbered(word),
                    Part::Number => word,
                })
            })
            .collect::<Result<_>>()?;
        writer.add(&ty)?;
    }
    writer.finish()
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::{btf::FOLDER, build};

    /// A struct of these members: name, type, bits from its start.
    fn composite(writer: &mut Writer, name: &str, members: &[(&str, u32, u32)]) -> Type {
        let mut body = Vec::new();
        for &(member, id, bits) in members {
            body.extend([writer.name(member).unwrap(), id, bits]);
        }
        Type {
            name: name.to_owned(),
            kind: kind::STRUCT,
            flag: false,
            vlen: members.len().try_into().unwrap(),
            size_or_target: 64,
            body,
        }
    }

    fn plain(name: &str, kind: u8, size_or_target: u32, body: &[u32]) -> Type {
        Type {
            name: name.to_owned(),
            kind,
            flag: false,
            vlen: (body.len() / 2).try_into().unwrap(),
            size_or_target,
            body: body.to_vec(),
        }
    }

    /// BTF with all that is wanted; `sk_buff` has a number, an anonymous struct with a pointer to a
    /// function, and another struct.
    fn example() -> Types {
        let mut writer = Writer::new();
        let mut add = |ty: &Type| writer.add(ty).unwrap();
        add(&plain(LONG, kind::INT, 8, &[64]));
        add(&plain("unused", kind::INT, 4, &[32]));
        add(&plain("", kind::FUNC_PROTO, 0, &[0, 1]));
        add(&plain("", kind::POINTER, 3, &[]));
        add(&plain("", kind::FUNC_PROTO, 0, &[0, 0, 0, 1]));
        add(&plain("", kind::POINTER, 5, &[]));
        add(&plain(TRACEPOINTS[0], kind::TYPEDEF, 6, &[]));
        let other = composite(&mut writer, "other", &[("a", 1, 0), ("b", 2, 64)]);
        writer.add(&other).unwrap();
        let anonymous = composite(&mut writer, "", &[("function", 4, 0)]);
        writer.add(&anonymous).unwrap();
        for name in STRUCTS {
            let members = [("len", 1, 0), ("", 9, 64), ("other", 8, 128)];
            let wanted = composite(&mut writer, name, &members);
            writer.add(&wanted).unwrap();
        }
        Types::read(&writer.finish().unwrap()).unwrap()
    }

    #[test]
    fn what_nothing_wanted_refers_to_is_left_out() {
        let reduced = Types::read(&reduce(&example()).unwrap()).unwrap();
        let types: Vec<&Type> = reduced.all().map(|(_, ty)| ty).collect();
        assert_eq!(types.len(), 7 + STRUCTS.len());
        let named = |name: &str| types.iter().find(|ty| ty.name == name).copied();
        assert!(named("unused").is_none());
        let other = named("other").unwrap();
        assert_eq!((other.vlen, other.size_or_target), (0, 64));
        let skb = named("sk_buff").unwrap();
        let numbers: Vec<u32> = skb.parts().map(|(_, word)| word).collect();
        assert_eq!(reduced.name(numbers[0]).unwrap(), "len");
        // Members keep their places, and their types under new numbers.
        assert_eq!(numbers[1..3], [1, 0]);
        let anonymous = reduced.get(numbers[4]).unwrap().unwrap();
        assert_eq!((anonymous.name.as_str(), anonymous.vlen), ("", 1));
        let pointer = reduced.get(anonymous.body[1]).unwrap().unwrap();
        assert_eq!((pointer.kind, pointer.size_or_target), (kind::POINTER, 0));
        let typedef = named(TRACEPOINTS[0]).unwrap();
        prototype(&reduced, typedef).unwrap();
    }

    #[test]
    fn a_kernel_without_something_wanted_is_refused() {
        let mut writer = Writer::new();
        writer.add(&plain(LONG, kind::INT, 8, &[64])).unwrap();
        let types = Types::read(&writer.finish().unwrap()).unwrap();
        let error = reduce(&types).unwrap_err().to_string();
        assert!(error.contains(STRUCTS[0]), "{error}");
    }

    #[test]
    fn a_sample_is_what_it_is_reduced_to() {
        let folder = build::root().unwrap().join(FOLDER);
        let mut samples = 0;
        for entry in fs::read_dir(folder).unwrap() {
            let file = entry.unwrap().path();
            let sample = fs::read(&file).unwrap();
            let again = reduce(&Types::read(&sample).unwrap()).unwrap();
            assert!(again == sample, "{}", file.display());
            samples += 1;
        }
        assert!(samples >= 8, "{samples}");
    }
}
