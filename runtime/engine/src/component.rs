//! From a component's bytes to [`Code`]: look first, then compile, then link.

use crate::compile::Machine;
use crate::guest::{self, Guest};
use crate::inspect::{CodeError, Form, Found, Kind, inspect};
use crate::parts::{EngineError, Parts};
use crate::pools::{Pool, Settings};
use crate::{EngineConfig, compile, limits};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::OnceCell;
use wasmtime::component;
use wasmtime_wasi::p2::bindings::CommandPre;
use wasmtime_wasi_http::p2::bindings::ProxyPre;
use wasmtime_wasi_http::p3::bindings::ServicePre;

/// Code with everything it imports at hand.
pub(crate) enum Pre {
    Command(CommandPre<Guest>),
    Proxy(ProxyPre<Guest>),
    AsyncCommand(component::InstancePre<Guest>),
    Service(ServicePre<Guest>),
    Module(wasmtime::InstancePre<Guest>),
}

/// A component ready to run: compiled and linked, once for all containers that run it.
pub struct Code {
    digest: String,
    parts: Arc<Parts>,
    pool: Arc<Pool>,
    form: Form,
    files: bool,
    pre: Pre,
}

impl Code {
    /// The digest it was loaded by.
    pub fn digest(&self) -> &str {
        &self.digest
    }

    /// What it is for.
    pub fn kind(&self) -> Kind {
        self.form.kind()
    }

    /// Whether it can look at files at all; opening folders for what cannot would cost every instance.
    #[must_use]
    pub fn sees_files(&self) -> bool {
        self.files
    }

    pub(crate) fn parts(&self) -> &Arc<Parts> {
        &self.parts
    }

    pub(crate) fn pool(&self) -> &Pool {
        &self.pool
    }

    pub(crate) fn pre(&self) -> &Pre {
        &self.pre
    }

    pub(crate) async fn load(
        parts: Arc<Parts>,
        config: &EngineConfig,
        digest: &str,
        path: &Path,
        metered: bool,
    ) -> Result<Code, CodeError> {
        let wasm = compile::read(path).await?;
        let Found { form, concurrent, files } = inspect(&wasm, config.wasi_0_3)?;
        let settings = Settings { concurrent, metered };
        let lost = |error: EngineError| CodeError::Io(std::io::Error::other(error));
        let pool = parts.pool(form.kind(), settings).await.map_err(lost)?;
        let machine = compile::machine(&parts, config, settings, &pool, wasm, path).await?;
        let pre = link(&pool, &machine, form).map_err(|error| CodeError::Invalid(format!("{error:#}")))?;
        Ok(Code { digest: digest.to_owned(), parts, pool, form, files, pre })
    }
}

impl std::fmt::Debug for Code {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Code").field("digest", &self.digest).field("kind", &self.kind()).finish_non_exhaustive()
    }
}

/// Finds what [`inspect`] cannot see: an interface of the right name with a function of another shape.
fn link(pool: &Pool, machine: &Machine, form: Form) -> wasmtime::Result<Pre> {
    let component = match machine {
        Machine::Component(component) => component,
        Machine::Module(module) => return guest::module_linker(&pool.wasm)?.instantiate_pre(module).map(Pre::Module),
    };
    let instance = pool.linker.instantiate_pre(component)?;
    Ok(match form {
        Form::Command => Pre::Command(CommandPre::new(instance)?),
        Form::Proxy => Pre::Proxy(ProxyPre::new(instance)?),
        Form::AsyncCommand => Pre::AsyncCommand(instance),
        Form::Service => Pre::Service(ServicePre::new(instance)?),
        Form::Module => return Err(wasmtime::Error::msg("a component took the place of a module")),
    })
}

type Cell = Arc<OnceCell<Arc<Code>>>;

/// The code kept open, most recently used last. Loads of one digest share a cell and thereby one compilation.
#[derive(Default)]
pub(crate) struct Codes {
    recent: Mutex<Vec<((String, bool), Cell)>>,
}

impl Codes {
    pub(crate) fn cell(&self, digest: &str, metered: bool) -> Cell {
        let mut recent = self.recent.lock().unwrap_or_else(PoisonError::into_inner);
        let entry = match recent.iter().position(|(known, _)| known.0 == digest && known.1 == metered) {
            Some(index) => recent.remove(index),
            None => ((digest.to_owned(), metered), Cell::default()),
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
    use crate::inspect::{OFFERED, OFFERED_0_3};
    use wasmtime::component::Component;

    #[tokio::test]
    async fn everything_offered_is_linked() {
        let config = EngineConfig { commands_max: 4, requests_max: 4, ..EngineConfig::new("unused") };
        let parts = Parts::new(&config).unwrap();
        let imports = |names: &[&str], release: &str| -> String {
            names.iter().map(|name| format!(r#"(import "{name}@{release}" (instance))"#)).collect()
        };
        let plain = imports(&OFFERED, "0.2.0");
        let both = plain.clone() + &imports(&OFFERED_0_3, "0.3.0");
        for kind in [Kind::Command, Kind::HttpProxy] {
            for (concurrent, imports) in [(false, &plain), (true, &both)] {
                let pool = parts.pool(kind, Settings { concurrent, metered: false }).await.unwrap();
                let wasm = wat::parse_str(format!("(component {imports})")).unwrap();
                let component = Component::new(&pool.wasm, &wasm).unwrap();
                pool.linker.instantiate_pre(&component).map(drop).unwrap();
            }
        }
    }
}
