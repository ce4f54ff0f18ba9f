//! A look at a component's bytes before anything is compiled: what it is for, and what it wants that nobody here has.
//!
//! Everything a person can do something about is said here in a sentence: not WebAssembly, an import nobody offers, nothing to
//! run. Pure.

use crate::limits;
use wasmparser::{BinaryReaderError, ExternalKind, Parser, Payload};

/// Why a file is not code for this node: sentences for the person who deployed it.
#[derive(Debug, thiserror::Error)]
pub enum CodeError {
    /// The bytes are not WebAssembly.
    #[error("the image is not a WebAssembly file")]
    NotWasm,
    /// A core module that is no command of WASI's first preview.
    #[error("the image is a core WebAssembly module {0}; build a command for wasip1, or a component for wasm32-wasip2")]
    CoreModule(String),
    /// Imports nobody here offers, as written in the component.
    #[error("component imports {}, which this node does not offer", quoted(.0))]
    UnknownImports(Vec<String>),
    /// It is of WASI 0.3, which this node has switched off.
    #[error("component is built for WASI 0.3, which is switched off on this node")]
    SwitchedOff,
    /// It cannot be compiled or linked, or has nothing to run.
    #[error("the component cannot be run: {0}")]
    Invalid(String),
    /// The node's own trouble: worth another try.
    #[error("the component cannot be loaded: {0}")]
    Io(#[from] std::io::Error),
}

/// What a component is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// Exports `wasi:cli/run`, or is a core module with `_start`: runs to its end.
    Command,
    /// Exports `wasi:http/incoming-handler` (0.2) or `wasi:http/handler` (0.3): answers requests.
    HttpProxy,
}

/// What the bytes are: it decides how they are linked and called.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Form {
    /// `wasi:cli/run` of a 0.2 release.
    Command,
    /// `wasi:http/incoming-handler` of a 0.2 release.
    Proxy,
    /// `wasi:cli/run` of a 0.3 release.
    AsyncCommand,
    /// `wasi:http/handler` of a 0.3 release.
    Service,
    /// A core module of WASI's first preview, with `_start`.
    Module,
}

impl Form {
    pub(crate) fn kind(self) -> Kind {
        match self {
            Form::Command | Form::AsyncCommand | Form::Module => Kind::Command,
            Form::Proxy | Form::Service => Kind::HttpProxy,
        }
    }
}

/// What [`inspect`] found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Found {
    pub(crate) form: Form,
    /// Whether it has to do with WASI 0.3 at all: components of today's toolchains import some of 0.2 beside it.
    pub(crate) concurrent: bool,
    /// Whether it imports anything of `wasi:filesystem`.
    pub(crate) files: bool,
}

/// The interfaces of 0.2 in `guest::linker`; any 0.2 release of them fits.
pub(crate) const OFFERED: [&str; 29] = [
    "wasi:cli/environment",
    "wasi:cli/exit",
    "wasi:cli/stderr",
    "wasi:cli/stdin",
    "wasi:cli/stdout",
    "wasi:cli/terminal-input",
    "wasi:cli/terminal-output",
    "wasi:cli/terminal-stderr",
    "wasi:cli/terminal-stdin",
    "wasi:cli/terminal-stdout",
    "wasi:clocks/monotonic-clock",
    "wasi:clocks/wall-clock",
    "wasi:filesystem/preopens",
    "wasi:filesystem/types",
    "wasi:http/outgoing-handler",
    "wasi:http/types",
    "wasi:io/error",
    "wasi:io/poll",
    "wasi:io/streams",
    "wasi:random/insecure",
    "wasi:random/insecure-seed",
    "wasi:random/random",
    "wasi:sockets/instance-network",
    "wasi:sockets/ip-name-lookup",
    "wasi:sockets/network",
    "wasi:sockets/tcp",
    "wasi:sockets/tcp-create-socket",
    "wasi:sockets/udp",
    "wasi:sockets/udp-create-socket",
];

/// The interfaces of 0.3 in `guest::linker`; any 0.3 release of them fits.
pub(crate) const OFFERED_0_3: [&str; 21] = [
    "wasi:cli/environment",
    "wasi:cli/exit",
    "wasi:cli/stderr",
    "wasi:cli/stdin",
    "wasi:cli/stdout",
    "wasi:cli/terminal-input",
    "wasi:cli/terminal-output",
    "wasi:cli/terminal-stderr",
    "wasi:cli/terminal-stdin",
    "wasi:cli/terminal-stdout",
    "wasi:cli/types",
    "wasi:clocks/monotonic-clock",
    "wasi:clocks/system-clock",
    "wasi:clocks/types",
    "wasi:filesystem/preopens",
    "wasi:filesystem/types",
    "wasi:http/client",
    "wasi:http/types",
    "wasi:random/insecure",
    "wasi:random/insecure-seed",
    "wasi:random/random",
];

/// Reads what a component is for and refuses what cannot run here.
pub(crate) fn inspect(bytes: &[u8], wasi_0_3: bool) -> Result<Found, CodeError> {
    if !bytes.starts_with(b"\0asm") {
        return Err(CodeError::NotWasm);
    }
    if is_core_module(bytes) {
        check_module(bytes)?;
        return Ok(Found { form: Form::Module, concurrent: false, files: true });
    }
    let names = names(bytes)?;
    let concurrent = names.imports.iter().chain(&names.exports).any(|name| release_0_3(name).is_some());
    if concurrent && !wasi_0_3 {
        return Err(CodeError::SwitchedOff);
    }
    let offered = |name: &str| {
        release_0_2(name).is_some_and(|interface| OFFERED.contains(&interface))
            || release_0_3(name).is_some_and(|interface| OFFERED_0_3.contains(&interface))
    };
    let files = names.imports.iter().any(|name| name.starts_with("wasi:filesystem/"));
    let unknown: Vec<String> = names.imports.into_iter().filter(|name| !offered(name)).map(str::to_owned).collect();
    if !unknown.is_empty() {
        return Err(CodeError::UnknownImports(unknown));
    }
    let exports_0_2 = |interface| names.exports.iter().any(|name| release_0_2(name) == Some(interface));
    let exports_0_3 = |interface| names.exports.iter().any(|name| release_0_3(name) == Some(interface));
    let form = if exports_0_3("wasi:http/handler") {
        Form::Service
    } else if exports_0_2("wasi:http/incoming-handler") {
        Form::Proxy
    } else if exports_0_3("wasi:cli/run") {
        Form::AsyncCommand
    } else if exports_0_2("wasi:cli/run") {
        Form::Command
    } else {
        let nothing = "it exports neither wasi:cli/run, nor wasi:http/incoming-handler of a 0.2 release, nor \
                       wasi:http/handler of a 0.3 release";
        return Err(CodeError::Invalid(nothing.into()));
    };
    Ok(Found { form, concurrent, files })
}

/// What a core module may import: WASI's first preview, as one module of functions.
const PREVIEW_1: &str = "wasi_snapshot_preview1";

/// Whether the bytes are a core module; their version says so.
pub(crate) fn is_core_module(bytes: &[u8]) -> bool {
    bytes.get(4..8) == Some(&[1, 0, 0, 0])
}

/// Whether a core module can be run as a command. Which functions of the preview there are the linker knows.
fn check_module(bytes: &[u8]) -> Result<(), CodeError> {
    let (mut strange, mut starts) = (Vec::new(), false);
    for payload in Parser::new(0).parse_all(bytes) {
        match payload? {
            Payload::ImportSection(imports) => {
                for import in imports.into_imports() {
                    let import = import?;
                    if import.module != PREVIEW_1 {
                        strange.push(format!("{}.{}", import.module, import.name));
                    }
                }
            }
            Payload::ExportSection(section) => {
                for export in section {
                    let export = export?;
                    starts |= export.name == "_start" && export.kind == ExternalKind::Func;
                }
            }
            _ => {}
        }
    }
    match (strange.is_empty(), starts) {
        (false, _) => Err(CodeError::CoreModule(format!("that imports {}, which nobody offers", quoted(&strange)))),
        (true, false) => Err(CodeError::CoreModule("without _start, so there is nothing to run".to_owned())),
        (true, true) => Ok(()),
    }
}

/// What a component itself imports and exports, without what stands inside it.
#[derive(Default)]
struct Names<'a> {
    imports: Vec<&'a str>,
    exports: Vec<&'a str>,
}

fn names(bytes: &[u8]) -> Result<Names<'_>, CodeError> {
    let (mut depth, mut names) = (0_usize, Names::default());
    for payload in Parser::new(0).parse_all(bytes) {
        match payload? {
            Payload::ModuleSection { .. } | Payload::ComponentSection { .. } => depth += 1,
            Payload::End(_) => depth = depth.saturating_sub(1),
            Payload::ComponentImportSection(imports) if depth == 0 => {
                for import in imports {
                    names.imports.push(import?.name.name);
                }
            }
            Payload::ComponentExportSection(section) if depth == 0 => {
                for export in section {
                    names.exports.push(export?.name.name);
                }
            }
            _ => {}
        }
    }
    Ok(names)
}

impl From<BinaryReaderError> for CodeError {
    fn from(error: BinaryReaderError) -> CodeError {
        CodeError::Invalid(error.to_string())
    }
}

/// `wasi:io/poll` of `wasi:io/poll@0.2.6`; pre-releases are other interfaces.
fn release_0_2(name: &str) -> Option<&str> {
    release(name, "0.2.")
}

fn release_0_3(name: &str) -> Option<&str> {
    release(name, "0.3.")
}

fn release<'a>(name: &'a str, of: &str) -> Option<&'a str> {
    let (interface, version) = name.split_once('@')?;
    version.strip_prefix(of)?.parse::<u32>().ok().map(|_| interface)
}

fn quoted(names: &[String]) -> String {
    let shown = &names[..names.len().min(limits::UNKNOWN_IMPORTS_SHOWN_MAX)];
    let mut text = shown.iter().map(|name| format!("{name:?}")).collect::<Vec<_>>().join(", ");
    if shown.len() < names.len() {
        text.push_str(&format!(" and {} more", names.len() - shown.len()));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn look(text: &str) -> Result<Found, CodeError> {
        inspect(&wat::parse_str(text).unwrap(), true)
    }

    fn refusal(text: &str) -> String {
        look(text).unwrap_err().to_string()
    }

    #[test]
    fn what_cannot_run_is_refused_in_a_sentence() {
        assert_eq!(inspect(b"#!/bin/sh", true).unwrap_err().to_string(), "the image is not a WebAssembly file");
        assert!(refusal("(module)").contains("core WebAssembly module without _start"));
        let strange = refusal(r#"(module (import "env" "now" (func)) (func (export "_start")))"#);
        assert!(strange.contains("that imports \"env.now\", which nobody offers"), "{strange}");
        assert!(refusal(r#"(module (memory (export "_start") 1))"#).contains("without _start"));
        assert_eq!(
            refusal(r#"(component (import "acme:db/sql@1.0.0" (instance)) (import "wasi:io/poll@0.2.99" (instance)))"#),
            r#"component imports "acme:db/sql@1.0.0", which this node does not offer"#
        );
        assert_eq!(
            refusal(r#"(component (import "wasi:http/handler@0.3.0" (instance)) (import "log" (func)))"#),
            r#"component imports "wasi:http/handler@0.3.0", "log", which this node does not offer"#
        );
        assert!(refusal("(component)").contains("exports neither wasi:cli/run"));
        assert!(matches!(inspect(b"\0asm\x0d\0\x01\0\xff\xff", true), Err(CodeError::Invalid(_))));
    }

    #[test]
    fn a_component_of_0_3_is_known_by_any_of_its_names() {
        let exporting = |name: &str| format!(r#"(component (instance $i) (export "{name}" (instance $i)))"#);
        let found = |form, concurrent| Found { form, concurrent, files: false };
        assert_eq!(look(&exporting("wasi:http/handler@0.3.2")).unwrap(), found(Form::Service, true));
        assert_eq!(look(&exporting("wasi:cli/run@0.3.0")).unwrap(), found(Form::AsyncCommand, true));
        assert_eq!(look(&exporting("wasi:cli/run@0.2.3")).unwrap(), found(Form::Command, false));
        let both = r#"(component (import "wasi:clocks/system-clock@0.3.0" (instance)) (instance $i)
          (export "wasi:cli/run@0.2.0" (instance $i)))"#;
        assert_eq!(look(both).unwrap(), found(Form::Command, true));
        let refused = inspect(&wat::parse_str(both).unwrap(), false).unwrap_err().to_string();
        assert_eq!(refused, "component is built for WASI 0.3, which is switched off on this node");
        assert!(look(&exporting("wasi:cli/run@0.3.0-rc-2025-09-16")).is_err(), "pre-releases are other interfaces");
    }

    #[test]
    fn a_core_module_with_a_start_is_a_command() {
        let module =
            r#"(module (import "wasi_snapshot_preview1" "proc_exit" (func (param i32))) (func (export "_start")))"#;
        assert_eq!(look(module).unwrap(), Found { form: Form::Module, concurrent: false, files: true });
    }

    #[test]
    fn what_looks_at_files_is_known_by_its_imports() {
        let importing = |name: &str| {
            let text = format!(
                r#"(component (import "{name}" (instance)) (instance $i) (export "wasi:cli/run@0.2.0" (instance $i)))"#
            );
            look(&text).unwrap().files
        };
        assert!(importing("wasi:filesystem/preopens@0.2.3") && importing("wasi:filesystem/types@0.3.0"));
        assert!(!importing("wasi:cli/stdout@0.2.3"));
    }

    #[test]
    fn no_bytes_make_it_panic() {
        let whole = wat::parse_str(r#"(component (core module (func)) (import "a:b/c@1.0.0" (instance)))"#).unwrap();
        for length in 0..whole.len() {
            assert!(inspect(&whole[..length], true).is_err());
        }
        for at in 8..whole.len() {
            let mut damaged = whole.clone();
            damaged[at] ^= 0xff;
            let _ = inspect(&damaged, true);
        }
    }

    #[test]
    fn many_unknown_imports_are_counted() {
        let names = (0..40).map(|n| format!("acme:x/y{n}@1.0.0")).collect();
        assert!(CodeError::UnknownImports(names).to_string().contains("and 24 more, which"));
    }
}
