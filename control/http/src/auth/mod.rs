//! Who asks and what they may do.
//!
//! Identity: a client certificate (read by the TLS layer), else a bearer token, else nobody. Nobody may ask for the
//! version and the health, nothing more. Rights: `system:masters` may everything; a node what a node needs; everybody
//! else what RBAC says.

mod bootstrap;
pub(crate) mod escalation;
mod node;
pub(crate) mod rbac;
pub(crate) mod reviews;
mod tokens;

use std::collections::HashMap;

use api::path::{self, Discovery, Route, Target};
use api::selector::FieldSelector;
use api::{Status, View};
use http::header::AUTHORIZATION;
use http::{HeaderMap, HeaderName};
use objects::User;
use sha2::{Digest, Sha256};

use crate::limits::{IMPERSONATED_MAX, TOKEN_BYTES_MAX};
use crate::service::{Call, Config};
use crate::verbs::now_ms;

pub(crate) use node::{may_create as node_may_create, name as node_name};
pub(crate) use tokens::KEYS_PATH;
pub use tokens::{KeyError, ServiceAccountTokens};

/// Everybody who proved who they are.
pub(crate) const AUTHENTICATED: &str = "system:authenticated";
/// Everybody else.
const UNAUTHENTICATED: &str = "system:unauthenticated";
const ANONYMOUS: &str = "system:anonymous";
/// The group that may do everything.
const MASTERS: &str = "system:masters";

/// Who a bearer token belongs to.
pub trait Authenticator: Send + Sync + 'static {
    /// The token's owner; `None` for a token that is not known or no longer valid.
    fn authenticate(&self, token: &str) -> Option<User>;
}

/// Tokens that are fixed when the server starts. Only their hashes are kept.
#[derive(Clone, Default)]
pub struct StaticTokens {
    // Looking a hash up tells a guesser nothing about the token through time.
    users: HashMap<[u8; 32], User>,
}

impl StaticTokens {
    /// Adds a token.
    #[must_use]
    pub fn with(mut self, token: &str, user: User) -> Self {
        self.users.insert(Sha256::digest(token).into(), user);
        self
    }
}

impl Authenticator for StaticTokens {
    fn authenticate(&self, token: &str) -> Option<User> {
        let digest: [u8; 32] = Sha256::digest(token).into();
        self.users.get(&digest).cloned()
    }
}

/// What somebody wants to do.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Attributes {
    pub(crate) verb: String,
    pub(crate) group: String,
    pub(crate) resource: String,
    pub(crate) subresource: String,
    pub(crate) namespace: String,
    pub(crate) name: String,
    /// For what is not a resource; empty otherwise.
    pub(crate) path: String,
}

impl Attributes {
    /// As tables of rights write it: `pods/log`, `deployments.apps`.
    #[cfg(test)]
    pub(crate) fn in_words(verb: &str, resource: &str, namespace: &str, name: &str) -> Self {
        let (plural, group) = resource.split_once('.').unwrap_or((resource, ""));
        let (plural, subresource) = plural.split_once('/').unwrap_or((plural, ""));
        Self {
            verb: verb.into(),
            group: group.into(),
            resource: plural.into(),
            subresource: subresource.into(),
            namespace: namespace.into(),
            name: name.into(),
            path: String::new(),
        }
    }

    /// What a request wants to do; 405 for a method that nobody may use.
    pub(crate) fn of(call: &Call, route: &Route) -> Result<Self, Status> {
        let path = match route {
            Route::Resource(target) => return Self::of_target(call, target),
            Route::NonResource(path) => path.clone(),
            Route::Discovery(Discovery::Core) => "/api".into(),
            Route::Discovery(Discovery::Groups) => "/apis".into(),
            Route::Discovery(Discovery::Group(group)) => format!("/apis/{group}"),
            Route::Discovery(Discovery::Resources { group, version }) if group.is_empty() => format!("/api/{version}"),
            Route::Discovery(Discovery::Resources { group, version }) => format!("/apis/{group}/{version}"),
        };
        let verb = match call.method.as_str() {
            "HEAD" => "get".into(),
            method => method.to_ascii_lowercase(),
        };
        Ok(Self { verb, path, ..Self::default() })
    }

    fn of_target(call: &Call, target: &Target) -> Result<Self, Status> {
        let watch = call.query.flag("watch")?;
        let verb = path::verb(call.method.as_str(), target, watch).ok_or_else(Status::method_not_allowed)?;
        let fields = FieldSelector::parse(call.query.get("fieldSelector").unwrap_or_default())?;
        let name = match verb {
            // Restricted to one name, these are about that object. A create is not: its body names what is made.
            "list" | "watch" | "deletecollection" if target.name.is_empty() => fields.exact("metadata.name"),
            _ => None,
        };
        let name = name.map_or_else(|| target.name.clone(), str::to_owned);
        Ok(Self {
            verb: verb.into(),
            group: target.group.clone(),
            resource: target.plural.clone(),
            subresource: target.subresource.clone(),
            // A namespace stands in itself, so that roles in it may speak about it.
            namespace: if target.plural == "namespaces" { target.name.clone() } else { target.namespace.clone() },
            name,
            path: String::new(),
        })
    }

    /// `pods/log`, `pods`.
    fn full_resource(&self) -> String {
        if self.subresource.is_empty() {
            self.resource.clone()
        } else {
            format!("{}/{}", self.resource, self.subresource)
        }
    }

    /// The sentence of a 403.
    fn refusal(&self, user: &User) -> Status {
        let (who, verb, group) = (&user.name, &self.verb, &self.group);
        if !self.path.is_empty() {
            let path = &self.path;
            let message = format!("forbidden: User {who:?} cannot {verb} path {path:?}");
            return Status::new(403, "Forbidden", message);
        }
        let scope = if self.namespace.is_empty() {
            "at the cluster scope".to_owned()
        } else {
            format!("in the namespace {:?}", self.namespace)
        };
        let why =
            format!("User {who:?} cannot {verb} resource {:?} in API group {group:?} {scope}", self.full_resource());
        let dotted = if group.is_empty() { self.resource.clone() } else { format!("{}.{group}", self.resource) };
        Status::forbidden(&dotted, &self.name, &why)
    }
}

/// Finds out who asks.
pub(crate) fn identify(
    config: &Config,
    view: &View,
    certificate: Option<&User>,
    headers: &HeaderMap,
) -> Result<User, Status> {
    if let Some(user) = certificate {
        return Ok(user.clone());
    }
    let Some(header) = headers.get(AUTHORIZATION) else {
        return Ok(User { name: ANONYMOUS.into(), groups: vec![UNAUTHENTICATED.into()], ..User::default() });
    };
    let (scheme, token) = header.to_str().ok().and_then(|text| text.split_once(' ')).unwrap_or_default();
    let token = token.trim();
    if !scheme.eq_ignore_ascii_case("bearer") || token.is_empty() || token.len() > TOKEN_BYTES_MAX {
        return Err(Status::unauthorized());
    }
    bearer(config, view, token).ok_or_else(Status::unauthorized)
}

/// Whose token this is.
fn bearer(config: &Config, view: &View, token: &str) -> Option<User> {
    let account = || config.service_accounts.as_ref()?.authenticate(view, token, now_ms());
    let joiner = || bootstrap::authenticate(view, token, now_ms());
    config.authenticator.authenticate(token).or_else(account).or_else(joiner).map(authenticated)
}

/// The user with the group that everybody known is in.
fn authenticated(mut user: User) -> User {
    if !user.is_in(AUTHENTICATED) && user.name != ANONYMOUS {
        user.groups.push(AUTHENTICATED.into());
    }
    user
}

/// Decides; 403, or 401 for those who have not said who they are.
pub(crate) fn authorize(view: &View, user: &User, attributes: &Attributes) -> Result<(), Status> {
    if allowed(view, user, attributes).is_some() {
        return Ok(());
    }
    if user.is_in(UNAUTHENTICATED) {
        return Err(Status::unauthorized());
    }
    Err(attributes.refusal(user))
}

/// Why somebody may; `None` when they may not.
pub(crate) fn allowed(view: &View, user: &User, attributes: &Attributes) -> Option<String> {
    if user.is_in(MASTERS) {
        return Some(format!("group {MASTERS:?} may do everything"));
    }
    if node::allowed(view, user, attributes) {
        return Some("a node may do this".into());
    }
    rbac::allowed(view, user, attributes)
}

/// `Impersonate-User` and its kin: act as somebody else, if RBAC allows the verb `impersonate` on them.
pub(crate) fn impersonate(view: &View, real: User, headers: &HeaderMap) -> Result<User, Status> {
    let text = |name: &HeaderName| -> Vec<String> {
        let values = headers.get_all(name).iter().filter_map(|value| value.to_str().ok());
        values.map(str::to_owned).take(IMPERSONATED_MAX).collect()
    };
    let mut user = User::default();
    let mut asked = Vec::new();
    for name in headers.keys().filter(|name| name.as_str().starts_with("impersonate-")).take(IMPERSONATED_MAX) {
        let values = text(name);
        let (resource, subresource) = match name.as_str() {
            "impersonate-user" => ("users", String::new()),
            "impersonate-group" => ("groups", String::new()),
            "impersonate-uid" => ("uids", String::new()),
            other => match other.strip_prefix("impersonate-extra-") {
                Some(key) => ("userextras", key.to_owned()),
                None => continue,
            },
        };
        asked.extend(values.iter().map(|value| (resource, subresource.clone(), value.clone())));
        match resource {
            "users" => user.name = values.into_iter().next().unwrap_or_default(),
            "uids" => user.uid = values.into_iter().next().unwrap_or_default(),
            "groups" => user.groups = values,
            _ => drop(user.extra.insert(subresource, values)),
        }
    }
    if asked.is_empty() {
        return Ok(real);
    }
    if user.name.is_empty() {
        return Err(Status::bad_request("requested impersonation without impersonating a user"));
    }
    for (resource, subresource, name) in asked {
        authorize(view, &real, &impersonation(resource, subresource, name))?;
    }
    Ok(finish(user))
}

/// What RBAC is asked before somebody acts as somebody else.
fn impersonation(resource: &str, subresource: String, name: String) -> Attributes {
    let account = name.strip_prefix("system:serviceaccount:").and_then(|rest| rest.split_once(':'));
    let verb = "impersonate".into();
    match account {
        Some((namespace, account)) if resource == "users" => Attributes {
            verb,
            resource: "serviceaccounts".into(),
            namespace: namespace.into(),
            name: account.into(),
            ..Attributes::default()
        },
        _ => {
            let extra = matches!(resource, "userextras" | "uids");
            let group = if extra { "authentication.k8s.io".into() } else { String::new() };
            Attributes { verb, group, resource: resource.into(), subresource, name, ..Attributes::default() }
        }
    }
}

/// The groups that follow from a name.
fn finish(mut user: User) -> User {
    if user.name == ANONYMOUS {
        user.groups.push(UNAUTHENTICATED.into());
        return user;
    }
    if let Some((namespace, _)) = user.name.strip_prefix("system:serviceaccount:").and_then(|rest| rest.split_once(':'))
        && user.groups.is_empty()
    {
        let of_namespace = format!("system:serviceaccounts:{namespace}");
        user.groups = vec!["system:serviceaccounts".into(), of_namespace];
    }
    authenticated(user)
}
