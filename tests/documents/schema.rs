//! As much of JSON Schema as ours use: type, const, enum, required, properties, additionalProperties, items.
//!
//! `pattern` and descriptions are for others' tools; a keyword that is not known here is a fault of the schema.

use serde_json::Value;

const KNOWN: [&str; 11] = [
    "$schema",
    "title",
    "description",
    "type",
    "const",
    "enum",
    "required",
    "properties",
    "additionalProperties",
    "items",
    "pattern",
];

/// What does not fit, each with its place.
pub(crate) fn faults(schema: &Value, value: &Value, place: &str) -> Vec<String> {
    let mut faults = Vec::new();
    let mut fault = |what: String| faults.push(format!("{place}: {what}"));
    for keyword in schema.as_object().into_iter().flat_map(|schema| schema.keys()) {
        if !KNOWN.contains(&keyword.as_str()) {
            fault(format!("the schema's keyword {keyword} is not known"));
        }
    }
    let types: Vec<&str> = match &schema["type"] {
        Value::String(one) => vec![one],
        Value::Array(several) => several.iter().filter_map(Value::as_str).collect(),
        _ => Vec::new(),
    };
    if !types.is_empty() && !types.contains(&kind(value)) {
        fault(format!("{value} is no {types:?}"));
    }
    if schema.get("const").is_some_and(|wanted| wanted != value) {
        fault(format!("{value} is not {}", schema["const"]));
    }
    if schema["enum"].as_array().is_some_and(|known| !known.contains(value)) {
        fault(format!("{value} is none of {}", schema["enum"]));
    }
    if let Some(fields) = value.as_object() {
        for name in schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str) {
            if !fields.contains_key(name) {
                fault(format!("{name} is missing"));
            }
        }
        for (name, value) in fields {
            match schema["properties"].get(name) {
                Some(below) => faults.extend(self::faults(below, value, &format!("{place}/{name}"))),
                None if schema["additionalProperties"] == false => {
                    faults.push(format!("{place}: {name} is not in the schema"))
                }
                None => {}
            }
        }
    }
    if let (Some(elements), Some(below)) = (value.as_array(), schema.get("items")) {
        for (index, value) in elements.iter().enumerate() {
            faults.extend(self::faults(below, value, &format!("{place}/{index}")));
        }
    }
    faults
}

fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(number) if number.is_f64() => "number",
        Value::Number(_) => "integer",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}
