//! How the kernel programs are linked.

use std::env;

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    // Clippy builds this for the host too, whose linker knows none of it.
    if env::var("CARGO_CFG_TARGET_ARCH").is_ok_and(|arch| arch == "bpf") {
        // bpf-linker asks LLVM to keep the loads and stores of a copy together, for offload to network
        // cards, and the price is that clearing or moving 16 bytes becomes a call of a function. Kernels
        // without `bpf_jit_supports_subprog_tailcalls` (arm64 before 6.0, and any interpreter) refuse
        // tail calls in programs that call functions of their own, and the programs that count end in one.
        println!("cargo::rustc-link-arg-bins=--disable-expand-memcpy-in-order");
    }
}
