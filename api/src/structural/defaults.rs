//! Defaults: an absent property gets what its schema says, from the outside in, so that a default has defaults too.

use serde_json::Value;

use super::Structural;

/// Fills in the defaults of a value and of everything inside it.
pub(crate) fn apply(value: &mut Value, schema: &Structural) {
    match value {
        Value::Object(members) => {
            for (name, property) in &schema.properties {
                let Some(default) = &property.default else { continue };
                // A null that is no value counts as absent.
                if members.get(name).is_none_or(|value| value.is_null() && !property.nullable) {
                    members.insert(name.clone(), default.clone());
                }
            }
            for (name, value) in members.iter_mut() {
                if !(schema.embedded && name == "metadata")
                    && let Some(property) = schema.property(name)
                {
                    apply(value, property);
                }
            }
        }
        Value::Array(items) => {
            if let Some(schema) = schema.items.as_deref() {
                items.iter_mut().for_each(|item| apply(item, schema));
            }
        }
        _ => {}
    }
}
