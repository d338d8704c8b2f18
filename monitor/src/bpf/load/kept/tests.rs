use super::*;
use crate::bpf::OBJECT;

/// A map that is neither is one that programs of before go on with while the daemon looks at another.
#[test]
fn each_map_of_the_object_is_kept_or_the_programs_own() {
    /// Of the programs alone: what logs do, and what never changes.
    const OWN: [&str; 2] = [".bss.pause", ".rodata"];
    let object = aya_obj::Object::parse(OBJECT).unwrap();
    let mut cells = 0;
    for (name, map) in &object.maps {
        if let Some(cell) = CELLS.iter().find(|cell| cell.section == name) {
            assert_eq!(map.value_size() as usize, cell.size, "{name}");
            cells += 1;
            continue;
        }
        let name = name.as_str();
        let is_kept = name == ATTEMPTS
            || OTHERS.contains(&name)
            || CARRIED.iter().any(|(carried, _)| *carried == name);
        assert!(is_kept || OWN.contains(&name), "{name}");
    }
    assert_eq!(cells, CELLS.len());
}
