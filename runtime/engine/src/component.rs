//! From a component's bytes to [`Code`]: look first, then compile, then link.
//!
//! Everything a person can do something about is said before the compiler runs: not WebAssembly, a core module, an
//! import nobody here offers, nothing to run. Refused: components that export neither a command nor an HTTP handler.

use crate::guest::Guest;
use crate::parts::{Parts, Pool};
use crate::{EngineConfig, compile, limits};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::OnceCell;
use wasmparser::{Encoding, Parser, Payload};
use wasmtime::component::Component;
use wasmtime_wasi::p2::bindings::CommandPre;
use wasmtime_wasi_http::p2::bindings::ProxyPre;

/// Why a file is not code for this node: sentences for the person who deployed it.
#[derive(Debug, thiserror::Error)]
pub enum CodeError {
    /// The bytes are not WebAssembly.
    #[error("the image is not a WebAssembly file")]
    NotWasm,
    /// WebAssembly, but not a component.
    #[error("the image is a core WebAssembly module, not a component; build it for wasm32-wasip2")]
    CoreModule,
    /// Imports nobody here offers, as written in the component.
    #[error("component imports {}, which this node does not offer", quoted(.0))]
    UnknownImports(Vec<String>),
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
    /// Exports `wasi:cli/run`: runs to its end.
    Command,
    /// Exports `wasi:http/incoming-handler`: answers requests.
    HttpProxy,
}

/// The interfaces of `guest::linker`; any 0.2 release of them fits.
const OFFERED: [&str; 29] = [
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

/// Reads what a component is for and refuses what cannot run here. Pure.
pub(crate) fn inspect(bytes: &[u8]) -> Result<Kind, CodeError> {
    if !bytes.starts_with(b"\0asm") {
        return Err(CodeError::NotWasm);
    }
    let unreadable = |error: wasmparser::BinaryReaderError| CodeError::Invalid(error.to_string());
    let (mut depth, mut unknown, mut exports) = (0_usize, Vec::new(), Vec::new());
    for payload in Parser::new(0).parse_all(bytes) {
        match payload.map_err(unreadable)? {
            Payload::Version { encoding: Encoding::Module, .. } if depth == 0 => return Err(CodeError::CoreModule),
            Payload::ModuleSection { .. } | Payload::ComponentSection { .. } => depth += 1,
            Payload::End(_) => depth = depth.saturating_sub(1),
            Payload::ComponentImportSection(imports) if depth == 0 => {
                for import in imports {
                    let name = import.map_err(unreadable)?.name.name;
                    if !release_0_2(name).is_some_and(|interface| OFFERED.contains(&interface)) {
                        unknown.push(name.to_owned());
                    }
                }
            }
            Payload::ComponentExportSection(section) if depth == 0 => {
                for export in section {
                    exports.push(export.map_err(unreadable)?.name.name);
                }
            }
            _ => {}
        }
    }
    if !unknown.is_empty() {
        return Err(CodeError::UnknownImports(unknown));
    }
    let exported = |interface| exports.iter().any(|name| release_0_2(name) == Some(interface));
    if exported("wasi:http/incoming-handler") {
        Ok(Kind::HttpProxy)
    } else if exported("wasi:cli/run") {
        Ok(Kind::Command)
    } else {
        let nothing = "it exports neither wasi:cli/run nor wasi:http/incoming-handler of a 0.2 release";
        Err(CodeError::Invalid(nothing.into()))
    }
}

/// `wasi:io/poll` of `wasi:io/poll@0.2.6`; pre-releases are other interfaces.
fn release_0_2(name: &str) -> Option<&str> {
    let (interface, version) = name.split_once('@')?;
    let patch = version.strip_prefix("0.2.")?;
    patch.parse::<u32>().ok().map(|_| interface)
}

fn quoted(names: &[String]) -> String {
    let shown = &names[..names.len().min(limits::UNKNOWN_IMPORTS_SHOWN_MAX)];
    let mut text = shown.iter().map(|name| format!("{name:?}")).collect::<Vec<_>>().join(", ");
    if shown.len() < names.len() {
        text.push_str(&format!(" and {} more", names.len() - shown.len()));
    }
    text
}

pub(crate) enum Pre {
    Command(CommandPre<Guest>),
    HttpProxy(ProxyPre<Guest>),
}

/// A component ready to run: compiled and linked, once for all containers that run it.
pub struct Code {
    digest: String,
    parts: Arc<Parts>,
    pre: Pre,
}

impl Code {
    /// The digest it was loaded by.
    pub fn digest(&self) -> &str {
        &self.digest
    }

    /// What it is for.
    pub fn kind(&self) -> Kind {
        match self.pre {
            Pre::Command(_) => Kind::Command,
            Pre::HttpProxy(_) => Kind::HttpProxy,
        }
    }

    pub(crate) fn parts(&self) -> &Arc<Parts> {
        &self.parts
    }

    pub(crate) fn pool(&self) -> &Pool {
        self.parts.pool(self.kind())
    }

    pub(crate) fn pre(&self) -> &Pre {
        &self.pre
    }

    pub(crate) async fn load(
        parts: Arc<Parts>,
        config: &EngineConfig,
        digest: &str,
        path: &Path,
    ) -> Result<Code, CodeError> {
        let wasm = compile::read(path).await?;
        let kind = inspect(&wasm)?;
        let component = compile::component(&parts, config, kind, wasm, path).await?;
        let pre = link(parts.pool(kind), &component, kind).map_err(|error| CodeError::Invalid(format!("{error:#}")))?;
        Ok(Code { digest: digest.to_owned(), parts, pre })
    }
}

impl std::fmt::Debug for Code {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Code").field("digest", &self.digest).field("kind", &self.kind()).finish_non_exhaustive()
    }
}

/// Finds what [`inspect`] cannot see: an interface of the right name with a function of another shape.
fn link(pool: &Pool, component: &Component, kind: Kind) -> wasmtime::Result<Pre> {
    let instance = pool.linker.instantiate_pre(component)?;
    Ok(match kind {
        Kind::Command => Pre::Command(CommandPre::new(instance)?),
        Kind::HttpProxy => Pre::HttpProxy(ProxyPre::new(instance)?),
    })
}

type Cell = Arc<OnceCell<Arc<Code>>>;

/// The code kept open, most recently used last. Loads of one digest share a cell and thereby one compilation.
#[derive(Default)]
pub(crate) struct Codes {
    recent: Mutex<Vec<(String, Cell)>>,
}

impl Codes {
    pub(crate) fn cell(&self, digest: &str) -> Cell {
        let mut recent = self.recent.lock().unwrap_or_else(PoisonError::into_inner);
        let entry = match recent.iter().position(|(known, _)| known == digest) {
            Some(index) => recent.remove(index),
            None => (digest.to_owned(), Cell::default()),
        };
        let cell = entry.1.clone();
        recent.push(entry);
        if recent.len() > limits::CODES_MAX {
            recent.remove(0);
        }
        cell
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(text: &str) -> String {
        inspect(&wat::parse_str(text).unwrap()).unwrap_err().to_string()
    }

    #[test]
    fn what_cannot_run_is_refused_in_a_sentence() {
        assert_eq!(inspect(b"#!/bin/sh").unwrap_err().to_string(), "the image is not a WebAssembly file");
        assert!(matches!(inspect(&wat::parse_str("(module)").unwrap()), Err(CodeError::CoreModule)));
        assert_eq!(
            refusal(r#"(component (import "acme:db/sql@1.0.0" (instance)) (import "wasi:io/poll@0.2.99" (instance)))"#),
            r#"component imports "acme:db/sql@1.0.0", which this node does not offer"#
        );
        assert_eq!(
            refusal(r#"(component (import "wasi:http/types@0.3.0" (instance)) (import "log" (func)))"#),
            r#"component imports "wasi:http/types@0.3.0", "log", which this node does not offer"#
        );
        assert!(refusal("(component)").contains("exports neither wasi:cli/run"));
        assert!(matches!(inspect(b"\0asm\x0d\0\x01\0\xff\xff"), Err(CodeError::Invalid(_))));
    }

    #[test]
    fn everything_offered_is_linked() {
        let config = EngineConfig { commands_max: 4, requests_max: 4, ..EngineConfig::new("unused") };
        let parts = Parts::new(&config).unwrap();
        let imports = OFFERED.map(|name| format!(r#"(import "{name}@0.2.0" (instance))"#)).concat();
        let wasm = wat::parse_str(format!("(component {imports})")).unwrap();
        for kind in [Kind::Command, Kind::HttpProxy] {
            let pool = parts.pool(kind);
            let component = Component::new(&pool.wasm, &wasm).unwrap();
            pool.linker.instantiate_pre(&component).map(drop).unwrap();
        }
    }

    #[test]
    fn no_bytes_make_it_panic() {
        let whole = wat::parse_str(r#"(component (core module (func)) (import "a:b/c@1.0.0" (instance)))"#).unwrap();
        for length in 0..whole.len() {
            assert!(inspect(&whole[..length]).is_err());
        }
        for at in 8..whole.len() {
            let mut damaged = whole.clone();
            damaged[at] ^= 0xff;
            let _ = inspect(&damaged);
        }
    }

    #[test]
    fn many_unknown_imports_are_counted() {
        let names = (0..40).map(|n| format!("acme:x/y{n}@1.0.0")).collect();
        assert!(CodeError::UnknownImports(names).to_string().contains("and 24 more, which"));
    }
}
