//! Sheets of configuration, identities and rights.

use api::Object;
use serde_json::Value;

use super::cells::{age, count, list_at, str_at};
use super::{AGE, Column, NAME, Sheet, int, text, wide};

pub(super) fn sheet(resource: &str) -> Option<&'static Sheet> {
    Some(match resource {
        "configmaps" => &CONFIG_MAPS,
        "secrets" => &SECRETS,
        "serviceaccounts" => &SERVICE_ACCOUNTS,
        "roles.rbac.authorization.k8s.io" | "clusterroles.rbac.authorization.k8s.io" => &ROLES,
        "limitranges" | "customresourcedefinitions.apiextensions.k8s.io" => &ROLES,
        "rolebindings.rbac.authorization.k8s.io" | "clusterrolebindings.rbac.authorization.k8s.io" => &BINDINGS,
        "mutatingwebhookconfigurations.admissionregistration.k8s.io"
        | "validatingwebhookconfigurations.admissionregistration.k8s.io" => &WEBHOOKS,
        "validatingadmissionpolicies.admissionregistration.k8s.io" => &POLICIES,
        "validatingadmissionpolicybindings.admissionregistration.k8s.io" => &POLICY_BINDINGS,
        _ => return None,
    })
}

static CONFIG_MAPS: Sheet = Sheet {
    columns: &[NAME, int("Data"), AGE],
    row: |object, now_ms| vec![object.name().into(), count(object, &["data", "binaryData"]), age(object, now_ms)],
};

static SECRETS: Sheet = Sheet {
    columns: &[NAME, text("Type"), int("Data"), AGE],
    row: |object, now_ms| {
        let type_ = str_at(&object.value, "type").into();
        vec![object.name().into(), type_, count(object, &["data"]), age(object, now_ms)]
    },
};

static SERVICE_ACCOUNTS: Sheet = Sheet {
    columns: &[NAME, int("Secrets"), AGE],
    row: |object, now_ms| {
        vec![object.name().into(), list_at(&object.value, "secrets").len().into(), age(object, now_ms)]
    },
};

const CREATED_AT: Column = Column { name: "Created At", type_: "date", format: "", priority: 0 };

static ROLES: Sheet = Sheet {
    columns: &[NAME, CREATED_AT],
    row: |object, _| vec![object.name().into(), object.creation_timestamp().into()],
};

static BINDINGS: Sheet = Sheet {
    columns: &[NAME, text("Role"), AGE, wide("Users"), wide("Groups"), wide("ServiceAccounts")],
    row: |object, now_ms| {
        let value = &object.value;
        let role = format!("{}/{}", str_at(value, "roleRef.kind"), str_at(value, "roleRef.name"));
        vec![
            object.name().into(),
            role.into(),
            age(object, now_ms),
            subjects(object, "User"),
            subjects(object, "Group"),
            subjects(object, "ServiceAccount"),
        ]
    },
};

fn subjects(binding: &Object, kind: &str) -> Value {
    let all = list_at(&binding.value, "subjects").iter().filter(|subject| subject["kind"] == kind);
    let names = all.map(|subject| match str_at(subject, "namespace") {
        "" => str_at(subject, "name").to_owned(),
        namespace => format!("{namespace}/{}", str_at(subject, "name")),
    });
    names.collect::<Vec<_>>().join(", ").into()
}

static WEBHOOKS: Sheet = Sheet {
    columns: &[NAME, int("Webhooks"), AGE],
    row: |object, now_ms| {
        vec![object.name().into(), list_at(&object.value, "webhooks").len().into(), age(object, now_ms)]
    },
};

static POLICIES: Sheet = Sheet {
    columns: &[NAME, int("Validations"), text("ParamKind"), AGE],
    row: |object, now_ms| {
        let kind = object.field("spec.paramKind");
        let shown = match kind.is_object() {
            true => format!("{}/{}", str_at(kind, "apiVersion"), str_at(kind, "kind")),
            false => "<unset>".to_owned(),
        };
        let validations = list_at(&object.value, "spec.validations").len();
        vec![object.name().into(), validations.into(), shown.into(), age(object, now_ms)]
    },
};

static POLICY_BINDINGS: Sheet = Sheet {
    columns: &[NAME, text("PolicyName"), text("ParamRef"), AGE],
    row: |object, now_ms| {
        let reference = object.field("spec.paramRef");
        let shown = match (reference.is_object(), str_at(reference, "namespace"), str_at(reference, "name")) {
            (false, ..) => "<unset>".to_owned(),
            (true, home, "") => format!("{}/*", if home.is_empty() { "*" } else { home }),
            (true, "", name) => format!("*/{name}"),
            (true, home, name) => format!("{home}/{name}"),
        };
        vec![object.name().into(), str_at(&object.value, "spec.policyName").into(), shown.into(), age(object, now_ms)]
    },
};
