//! A container's stdin and those who watch it: what `kubectl attach` connects to.
//!
//! Everything a container prints goes to its output files, and to each attached client. A client that is slow makes the
//! container wait, as it would on any terminal; the files never do. What a container with a stdin prints before anybody
//! has attached is kept for the first client, since whoever starts a program to talk to it wants its first words.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};

use api::channels;
use engine::Stream;
use network::pipe::{Reader, Writer, pipe};

use crate::limits::{ATTACHED_MAX, FIRST_WORDS_BYTES_MAX, STDIN_BYTES_MAX};
use crate::outlet::Outlet;
use crate::terminal::shown;

/// Where the output of one container's attempt goes, and where its input comes from.
pub(crate) struct Console {
    files: Arc<dyn engine::Output>,
    pub(crate) terminal: bool,
    /// `stdinOnce`: the input is over when its first client has gone.
    pub(crate) once: bool,
    input: Option<Arc<Writer>>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    clients: Vec<Client>,
    /// `None` once somebody has attached, or where nobody is expected to.
    first_words: Option<VecDeque<(u8, Vec<u8>)>>,
    first_bytes: usize,
    over: bool,
}

#[derive(Clone)]
struct Client {
    outlet: Outlet,
    stdout: bool,
    stderr: bool,
}

impl Client {
    fn wants(&self, channel: u8) -> bool {
        if channel == channels::STDERR { self.stderr } else { self.stdout }
    }
}

impl Console {
    /// A console over the container's files; with a stdin its reader is for the guest.
    pub(crate) fn new(
        files: Arc<dyn engine::Output>,
        stdin: bool,
        once: bool,
        terminal: bool,
    ) -> (Arc<Self>, Option<Arc<Reader>>) {
        let (input, reader) = match stdin {
            true => {
                let (writer, reader) = pipe(STDIN_BYTES_MAX);
                (Some(Arc::new(writer)), Some(Arc::new(reader)))
            }
            false => (None, None),
        };
        let state = State { first_words: stdin.then(VecDeque::new), ..State::default() };
        (Arc::new(Self { files, terminal, once, input, state: Mutex::new(state) }), reader)
    }

    /// The container's stdin, if it has one.
    pub(crate) fn input(&self) -> Option<Arc<Writer>> {
        self.input.clone()
    }

    /// Shows a client what is printed from now on, and what nobody has seen.
    ///
    /// # Errors
    /// A sentence when too many watch already.
    pub(crate) fn attach(&self, outlet: &Outlet, stdout: bool, stderr: bool) -> Result<(), String> {
        let client = Client { outlet: outlet.clone(), stdout, stderr };
        let mut state = self.lock();
        state.clients.retain(|client| client.outlet.is_open());
        if state.clients.len() >= ATTACHED_MAX {
            return Err(format!("at most {ATTACHED_MAX} clients can be attached to a container"));
        }
        for (channel, bytes) in state.first_words.take().into_iter().flatten() {
            if client.wants(channel) {
                outlet.send(channel, &bytes);
            }
        }
        state.first_bytes = 0;
        if !state.over {
            state.clients.push(client);
        }
        Ok(())
    }

    /// The container has ended: nobody sees anything more.
    pub(crate) fn end(&self) {
        let mut state = self.lock();
        state.over = true;
        state.clients.clear();
        if let Some(input) = &self.input {
            input.shutdown();
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl engine::Output for Console {
    fn write(&self, stream: Stream, bytes: &[u8]) {
        self.files.write(stream, bytes);
        let channel = channel(stream, self.terminal);
        let mut state = self.lock();
        if state.clients.is_empty() && state.first_words.is_none() {
            return;
        }
        let bytes = if self.terminal { shown(bytes) } else { bytes.to_vec() };
        let State { clients, first_words, first_bytes, .. } = &mut *state;
        if let Some(words) = first_words {
            *first_bytes += bytes.len();
            words.push_back((channel, bytes));
            while *first_bytes > FIRST_WORDS_BYTES_MAX {
                let Some((_, oldest)) = words.pop_front() else { break };
                *first_bytes -= oldest.len();
            }
            return;
        }
        clients.retain(|client| client.outlet.is_open());
        clients.iter().filter(|client| client.wants(channel)).for_each(|client| client.outlet.send(channel, &bytes));
    }

    fn poll_room(&self, cx: &mut Context<'_>) -> Poll<()> {
        let clients: Vec<Client> = self.lock().clients.clone();
        for client in clients {
            ready!(client.outlet.poll_room(cx));
        }
        Poll::Ready(())
    }
}

/// The channel of a guest's stream: a terminal has one for both.
pub(crate) fn channel(stream: Stream, terminal: bool) -> u8 {
    match stream {
        Stream::Stderr if !terminal => channels::STDERR,
        _ => channels::STDOUT,
    }
}

#[cfg(test)]
mod tests {
    use engine::Output;
    use http_body_util::BodyExt;

    use super::*;

    #[derive(Default)]
    struct Files(Mutex<Vec<u8>>);

    impl Output for Files {
        fn write(&self, _stream: Stream, bytes: &[u8]) {
            self.0.lock().unwrap().extend_from_slice(bytes);
        }
    }

    async fn all(outlet: Outlet) -> Vec<(u8, String)> {
        let body = outlet.body(());
        outlet.end();
        let mut decoder = channels::Decoder::default();
        decoder.push(&body.collect().await.unwrap().to_bytes());
        let frames = std::iter::from_fn(|| decoder.frame().unwrap());
        frames.map(|frame| (frame.channel, String::from_utf8_lossy(&frame.bytes).into_owned())).collect()
    }

    #[tokio::test]
    async fn the_first_client_gets_the_first_words_and_later_ones_what_follows() {
        let files = Arc::new(Files::default());
        let (console, stdin) = Console::new(files.clone(), true, true, false);
        assert!(stdin.is_some());
        console.write(Stream::Stdout, b"name? ");
        let (first, second) = (Outlet::default(), Outlet::default());
        console.attach(&first, true, true).unwrap();
        console.attach(&second, true, false).unwrap();
        console.write(Stream::Stderr, b"oops");
        console.write(Stream::Stdout, b"hello\n");
        let text = |channel, text: &str| (channel, text.to_owned());
        let expected = [text(1, "name? "), text(2, "oops"), text(1, "hello\n")];
        assert_eq!(all(first).await, expected);
        assert_eq!(all(second).await, [text(1, "hello\n")]);
        assert_eq!(*files.0.lock().unwrap(), b"name? oopshello\n");
    }

    #[tokio::test]
    async fn a_terminal_shows_both_streams_on_one() {
        let (console, stdin) = Console::new(Arc::new(Files::default()), false, false, true);
        assert!(stdin.is_none() && console.input().is_none());
        let outlet = Outlet::default();
        console.attach(&outlet, true, false).unwrap();
        console.write(Stream::Stderr, b"a\n");
        assert_eq!(all(outlet).await, [(channels::STDOUT, "a\r\n".to_owned())]);
    }

    #[test]
    fn first_words_and_clients_are_bounded() {
        let (console, _stdin) = Console::new(Arc::new(Files::default()), true, false, false);
        for _ in 0..100 {
            console.write(Stream::Stdout, &[b'x'; 10_000]);
        }
        assert!(console.lock().first_bytes <= FIRST_WORDS_BYTES_MAX);
        let outlets: Vec<Outlet> = (0..=ATTACHED_MAX).map(|_| Outlet::default()).collect();
        let refused = outlets.iter().map(|outlet| console.attach(outlet, true, true)).filter(Result::is_err).count();
        assert_eq!(refused, 1);
    }
}
