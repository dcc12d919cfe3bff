//! Reading and setting fields of configuration documents by path.

use serde_json::{Map, Value};

use super::Error;

/// One configuration document.
pub(super) type Document = Map<String, Value>;

/// The value at `path`; `None` also for null, which Go reads as absent.
pub(super) fn at<'a>(document: &'a Document, path: &[&str]) -> Option<&'a Value> {
    let (last, parents) = path.split_last()?;
    let parent = parents.iter().try_fold(document, |document, key| document.get(*key)?.as_object())?;
    parent.get(*last).filter(|value| !value.is_null())
}

/// The text at `path`; `None` also for an empty one, which Go does not tell from an absent one.
pub(super) fn text<'a>(document: &'a Document, path: &[&str]) -> Option<&'a str> {
    at(document, path)?.as_str().filter(|text| !text.is_empty())
}

/// The items of the list at `path`; none if there is no list.
pub(super) fn items<'a>(document: &'a Document, path: &[&str]) -> &'a [Value] {
    at(document, path).and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

/// Sets the value at `path`, making the objects on the way.
///
/// # Errors
/// [`Error::Invalid`] if something on the way is no object.
pub(super) fn set(document: &mut Document, path: &[&str], value: impl Into<Value>) -> Result<(), Error> {
    if let Some((last, parents)) = path.split_last() {
        object(document, parents)?.insert((*last).to_owned(), value.into());
    }
    Ok(())
}

/// Sets the value at `path` unless there is one.
pub(super) fn default(document: &mut Document, path: &[&str], value: impl Into<Value>) -> Result<(), Error> {
    let there = at(document, path).is_some_and(|value| value.as_str() != Some(""));
    if there { Ok(()) } else { set(document, path, value) }
}

/// Appends to the list at `path`, making it.
pub(super) fn push(document: &mut Document, path: &[&str], item: Value) -> Result<(), Error> {
    let mut list = items(document, path).to_vec();
    list.push(item);
    set(document, path, list)
}

/// The object at `path`, made if it is absent.
fn object<'a>(document: &'a mut Document, path: &[&str]) -> Result<&'a mut Document, Error> {
    let mut document = document;
    for key in path {
        let child = document.entry(*key).or_insert(Value::Null);
        if child.is_null() {
            *child = Value::Object(Map::new());
        }
        document = child.as_object_mut().ok_or_else(|| not_an_object(path))?;
    }
    Ok(document)
}

fn not_an_object(path: &[&str]) -> Error {
    Error::Invalid { path: path.join("."), why: "must be an object".into() }
}

/// The last value of argument `name` in the list of `{name, value}` at `path`, as kubeadm's `GetArgValue` finds it.
pub(super) fn argument<'a>(document: &'a Document, path: &[&str], name: &str) -> Option<&'a str> {
    let found = items(document, path)
        .iter()
        .rev()
        .find(|item| item.get("name").and_then(Value::as_str) == Some(name))?;
    Some(found.get("value").and_then(Value::as_str).unwrap_or_default())
}

/// Appends argument `name` to the list of `{name, value}` at `path` unless it is there.
pub(super) fn default_argument(
    document: &mut Document,
    path: &[&str],
    name: &str,
    value: &str,
) -> Result<(), Error> {
    if argument(document, path, name).is_some() {
        return Ok(());
    }
    push(document, path, serde_json::json!({ "name": name, "value": value }))
}

/// Takes out every null: Go reads it as absent.
pub(super) fn strip_nulls(value: &mut Value) {
    match value {
        Value::Object(map) => {
            map.retain(|_, value| !value.is_null());
            map.values_mut().for_each(strip_nulls);
        }
        Value::Array(items) => items.iter_mut().for_each(strip_nulls),
        _ => {}
    }
}
