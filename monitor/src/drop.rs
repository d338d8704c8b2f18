//! What the kernel's drops mean: reasons and places as classes and groups.
//!
//! The kernel program gets two tables from here before it is loaded: one row for each reason that
//! this kernel knows ([`ReasonTable`]), and the addresses of the functions that decide where the
//! reason alone does not ([`places`]). Reasons are known by name only: their numbers differ from
//! kernel to kernel, and a backport can shift them within one version.

mod places;
mod reasons;
mod table;

pub use places::places;
pub use reasons::{classify, classify_subsystem, is_known};
pub use table::ReasonTable;
