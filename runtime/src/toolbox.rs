//! The toolbox of this build: the component behind `kubectl exec` where a pod has no program of that name.
//!
//! Its bytes are in this program. They are put into the node's images, as `toolbox:latest`, when they are first needed:
//! so `kubectl debug --image=toolbox` finds them too.

use std::collections::BTreeMap;
use std::sync::Arc;

use engine::{Code, Engine};
use image::{Images, Resolved};
use tokio::sync::OnceCell;

/// The image's name without its tag.
const NAME: &str = "toolbox";

/// Empty where the build had no compiler for it.
static COMPONENT: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/toolbox.wasm"));

/// The toolbox in a node's images.
#[derive(Debug)]
pub(crate) struct Toolbox {
    images: Images,
    found: OnceCell<Arc<Resolved>>,
}

impl Toolbox {
    pub(crate) fn new(images: Images) -> Self {
        Self { images, found: OnceCell::new() }
    }

    /// The image, put where images are if it is not there.
    ///
    /// # Errors
    /// A sentence: this build has none, or the images cannot be written.
    pub(crate) async fn image(&self) -> Result<&Arc<Resolved>, String> {
        if COMPONENT.is_empty() {
            let why = "this kogia was built without its toolbox, because the Rust target wasm32-wasip2 was missing";
            return Err(why.to_owned());
        }
        let images = self.images.clone();
        let put = || async {
            let put = tokio::task::spawn_blocking(move || {
                images.put(&format!("{NAME}:latest"), COMPONENT, &BTreeMap::new())?;
                images.resolve(NAME)
            });
            put.await.map_err(|error| error.to_string())?.map_err(|error| error.to_string())
        };
        self.found.get_or_try_init(put).await
    }

    /// The component, compiled.
    ///
    /// # Errors
    /// A sentence.
    pub(crate) async fn code(&self, engine: &Engine) -> Result<Arc<Code>, String> {
        let image = self.image().await?;
        engine.load(&image.digest, &image.path, false).await.map_err(|error| format!("the toolbox: {error}"))
    }
}

/// Whether a container's image is the toolbox.
pub(crate) fn is_meant(image: &str) -> bool {
    matches!(image, "toolbox" | "toolbox:latest")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_build_has_it() {
        assert!(COMPONENT.starts_with(b"\0asm"), "the build script says why");
        assert!(is_meant("toolbox") && !is_meant("toolbox:1") && !is_meant("my/toolbox"));
    }
}
