//! Types as C writes them, for messages and for the check of a tracepoint's prototype.

use super::raw::Kind;
use super::{Btf, BtfError, MAX_CHAIN};

impl Btf {
    /// The type as a C declaration without a name would have it: `const struct sock *`.
    ///
    /// A function behind a pointer is only called one, since nothing needs its parameters; type tags
    /// (`__rcu`, `__user`) are left out.
    pub(super) fn render(&self, id: u32) -> Result<String, BtfError> {
        self.render_at(id, MAX_CHAIN)
    }

    fn render_at(&self, id: u32, depth: usize) -> Result<String, BtfError> {
        if id == 0 {
            return Ok("void".to_owned());
        }
        let depth = depth.checked_sub(1).ok_or(BtfError::Malformed {
            what: "a cycle of types",
            offset: id as usize,
        })?;
        let ty = self.type_at(id)?;
        let target = || self.render_at(ty.size_or_target, depth);
        let named = |keyword: &str| -> Result<String, BtfError> {
            let name = self.name_at(ty.name)?;
            let name = if name.is_empty() {
                "(anonymous)".into()
            } else {
                name
            };
            Ok(if keyword.is_empty() {
                name.into_owned()
            } else {
                format!("{keyword} {name}")
            })
        };
        let qualified = |qualifier: &str| -> Result<String, BtfError> {
            let target = target()?;
            // What stands behind a star qualifies the pointer, what stands before it the target.
            Ok(if target.ends_with('*') {
                format!("{target} {qualifier}")
            } else {
                format!("{qualifier} {target}")
            })
        };
        match ty.kind {
            Kind::Int | Kind::Float | Kind::Typedef | Kind::Func | Kind::Var | Kind::DataSec => {
                named("")
            }
            Kind::Struct => named("struct"),
            Kind::Union => named("union"),
            Kind::Forward => named(if ty.flag { "union" } else { "struct" }),
            Kind::Enum | Kind::Enum64 => named("enum"),
            Kind::Pointer => {
                let target = target()?;
                let space = if target.ends_with('*') { "" } else { " " };
                Ok(format!("{target}{space}*"))
            }
            Kind::Array => {
                let element = self.render_at(self.u32_at(ty.body)?, depth)?;
                Ok(format!("{element}[{}]", self.u32_at(ty.body + 8)?))
            }
            Kind::Const => qualified("const"),
            Kind::Volatile => qualified("volatile"),
            Kind::Restrict => qualified("restrict"),
            Kind::TypeTag | Kind::DeclTag => target(),
            Kind::FuncProto => Ok("function".to_owned()),
        }
    }
}
