//! One API over one empty state, and short ways to ask it.

use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Method, Request, StatusCode};
use http_api::{ApiService, Body, Config, in_process, service};
use http_body_util::{BodyExt, Full};
use objects::{Objects, User, WriteOptions};
use serde_json::{Value, json};
use tempfile::TempDir;
use tower::ServiceExt;

/// How long a test waits for what must happen.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// An API with the namespace `default`.
pub(crate) struct Api {
    pub(crate) service: ApiService,
    user: User,
    store: raft_store::Store,
    _dir: TempDir,
}

/// An answer, read to its end.
pub(crate) struct Answer {
    pub(crate) code: u16,
    pub(crate) headers: HeaderMap,
    pub(crate) bytes: Bytes,
}

impl Answer {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.bytes).unwrap_or(Value::Null)
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.bytes).into_owned()
    }
}

impl Api {
    pub(crate) async fn start() -> Self {
        Self::with(Config::default()).await
    }

    pub(crate) async fn with(config: Config) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let store = raft_store::Store::open(raft_store::Config::single(dir.path())).await.unwrap();
        let objects = Objects::open(store.clone()).await.unwrap();
        let namespaces = objects.catalog().by_name("namespaces").unwrap().clone();
        let body = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "default"}});
        let who = User::system("system:bootstrap");
        objects.create(&who, &namespaces, "", body, &WriteOptions::manager("bootstrap")).await.unwrap();
        let user = User { name: "admin".into(), groups: vec!["system:masters".into()], ..User::default() };
        Self { service: service(objects, config), user, store, _dir: dir }
    }

    /// The same API, asked by somebody else.
    pub(crate) fn as_user(&self, name: &str, groups: &[&str]) -> Asker<'_> {
        let groups = groups.iter().map(|group| (*group).to_owned()).collect();
        Asker { api: self, user: Some(User { name: name.into(), groups, ..User::default() }) }
    }

    /// The same API, asked by nobody in particular.
    pub(crate) fn anonymous(&self) -> Asker<'_> {
        Asker { api: self, user: None }
    }

    fn admin(&self) -> Asker<'_> {
        Asker { api: self, user: Some(self.user.clone()) }
    }

    pub(crate) async fn get(&self, path: &str) -> Answer {
        self.admin().send(Method::GET, path, &[], "").await
    }

    pub(crate) async fn send(
        &self,
        method: Method,
        path: &str,
        headers: &[(&str, &str)],
        body: impl Into<Bytes>,
    ) -> Answer {
        self.admin().send(method, path, headers, body).await
    }

    pub(crate) async fn post(&self, path: &str, body: &Value) -> Answer {
        self.send(Method::POST, path, &[], body.to_string()).await
    }

    /// Creates a config map in `default` and answers its revision.
    pub(crate) async fn config_map(&self, name: &str, labels: Value) -> u64 {
        let body = json!({"metadata": {"name": name, "labels": labels}, "data": {"a": "b"}});
        let answer = self.post("/api/v1/namespaces/default/configmaps", &body).await;
        assert_eq!(answer.code, 201, "{}", answer.text());
        answer.json()["metadata"]["resourceVersion"].as_str().unwrap().parse().unwrap()
    }

    /// Opens a watch.
    pub(crate) async fn watch(&self, path: &str, accept: &str) -> Lines {
        let response = self.admin().open(Method::GET, path, &[("accept", accept)], Bytes::new()).await;
        assert_eq!(response.status(), StatusCode::OK);
        Lines { body: response.into_body(), rest: Vec::new() }
    }

    /// The same state behind a new door.
    pub(crate) async fn restart(self) -> Self {
        let objects = Objects::open(self.store.clone()).await.unwrap();
        Self { service: service(objects, Config::default()), ..self }
    }

    pub(crate) async fn close(self) {
        self.store.close().await;
    }
}

/// Who asks.
pub(crate) struct Asker<'a> {
    api: &'a Api,
    user: Option<User>,
}

impl Asker<'_> {
    async fn open(&self, method: Method, path: &str, headers: &[(&str, &str)], body: Bytes) -> http::Response<Body> {
        let mut request = Request::builder().method(method).uri(path);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.body(Full::new(body)).unwrap();
        match self.user.clone() {
            Some(user) => in_process(self.api.service.clone(), user, "unknown").oneshot(request).await.unwrap(),
            None => {
                let request = request.map(|body| body.map_err(|never| match never {}).boxed_unsync());
                self.api.service.clone().oneshot(request).await.unwrap()
            }
        }
    }

    pub(crate) async fn send(
        &self,
        method: Method,
        path: &str,
        headers: &[(&str, &str)],
        body: impl Into<Bytes>,
    ) -> Answer {
        let response = self.open(method, path, headers, body.into()).await;
        let (head, body) = response.into_parts();
        let bytes = tokio::time::timeout(PATIENCE, body.collect()).await.expect("an answer ends").unwrap().to_bytes();
        Answer { code: head.status.as_u16(), headers: head.headers, bytes }
    }

    pub(crate) async fn get(&self, path: &str) -> Answer {
        self.send(Method::GET, path, &[], "").await
    }
}

/// A stream of JSON lines.
pub(crate) struct Lines {
    body: Body,
    rest: Vec<u8>,
}

impl Lines {
    /// The next line; `None` at the end of the stream.
    pub(crate) async fn next(&mut self) -> Option<Value> {
        loop {
            if let Some(end) = self.rest.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.rest.drain(..=end).collect();
                return Some(serde_json::from_slice(&line).unwrap());
            }
            let frame = tokio::time::timeout(PATIENCE, self.body.frame()).await.expect("a watch answers in time")?;
            self.rest.extend_from_slice(frame.unwrap().data_ref().map_or(&[][..], |data| data));
        }
    }

    /// The next line as `TYPE name`.
    pub(crate) async fn brief(&mut self) -> String {
        let Some(event) = self.next().await else { return "end".into() };
        let name = event["object"]["metadata"]["name"].as_str().unwrap_or_default();
        format!("{} {name}", event["type"].as_str().unwrap()).trim().to_owned()
    }
}
