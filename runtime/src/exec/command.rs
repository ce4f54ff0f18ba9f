//! What the first word of a command means in a container. Pure.

use k8s_openapi::api::core::v1 as k8s;

/// What is to be run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Meaning {
    /// The container's own component.
    Own,
    /// The toolbox's command of that name.
    Toolbox,
    /// The container's own component, which is no command.
    AnswersHttp,
    /// Nobody knows.
    Unknown,
}

/// Decides by the container's own names first, so that a program called `test` can be run in its own container.
pub(crate) fn meaning(word: &str, programs: &[String], answers_http: bool) -> Meaning {
    let name = base(word);
    if programs.iter().any(|program| program == word || base(program) == name) && !name.is_empty() {
        // Of an HTTP component only the name is its own; the toolbox may know a command of that name.
        return match answers_http {
            false => Meaning::Own,
            true if toolbox::knows(name) => Meaning::Toolbox,
            true => Meaning::AnswersHttp,
        };
    }
    if name == "toolbox" || toolbox::knows(name) { Meaning::Toolbox } else { Meaning::Unknown }
}

/// The names of a container's own program: its command, its image, itself.
pub(crate) fn programs(container: &k8s::Container) -> Vec<String> {
    let command = container.command.iter().flatten().next().cloned();
    let image = container.image.as_deref().map(image_name).filter(|name| !name.is_empty()).map(str::to_owned);
    let mut names: Vec<String> = command.into_iter().chain(image).chain([container.name.clone()]).collect();
    names.dedup();
    names
}

/// `batch-job` of `registry.example:5000/apps/batch-job:0.1.0@sha256:…`, and of `file:///build/batch-job.wasm`.
fn image_name(image: &str) -> &str {
    let name = base(image.split('@').next().unwrap_or_default());
    let name = name.split(':').next().unwrap_or_default();
    name.strip_suffix(".wasm").unwrap_or(name)
}

fn base(path: &str) -> &str {
    path.rsplit('/').next().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_word_decides() {
        let job = ["/app/run", "batch-job", "main"].map(str::to_owned);
        let table = [
            ("batch-job", Meaning::Own),
            ("./batch-job", Meaning::Own),
            ("run", Meaning::Own),
            ("main", Meaning::Own),
            ("ls", Meaning::Toolbox),
            ("/bin/ls", Meaning::Toolbox),
            ("toolbox", Meaning::Toolbox),
            ("sh", Meaning::Unknown),
            ("", Meaning::Unknown),
        ];
        for (word, expected) in table {
            assert_eq!(meaning(word, &job, false), expected, "{word}");
        }
        assert_eq!(meaning("batch-job", &job, true), Meaning::AnswersHttp);
        assert_eq!(meaning("test", &["test".to_owned()], false), Meaning::Own);
        assert_eq!(meaning("test", &["test".to_owned()], true), Meaning::Toolbox);
    }

    #[test]
    fn a_program_is_called_like_its_image() {
        let table = [
            ("batch-job:0.1.0", "batch-job"),
            ("registry.example:5000/apps/batch-job@sha256:0123", "batch-job"),
            ("file:///build/batch-job.wasm", "batch-job"),
            ("batch-job", "batch-job"),
        ];
        for (image, expected) in table {
            assert_eq!(image_name(image), expected, "{image}");
        }
    }
}
