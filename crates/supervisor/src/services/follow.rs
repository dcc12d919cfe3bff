//! Follows one collection of the API: lists it, watches it, and does both again when the watch ends.
//!
//! `kubectl get --raw` hands the API's own bytes through: a list has an end, so it is known when it is whole, and the lines
//! of a watch from its version on leave no gap.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use tokio::sync::mpsc;
use tokio::time::sleep;
use u7s_plan::services::{self, Event, Item, Key};

use super::kubectl::{Failure, Kubectl};
use crate::backoff::Backoff;

/// The longest page of a list, bytes; a longer one is asked for again in halves.
///
/// One object has at most 1.5 MiB, what etcd takes.
const PAGE: usize = 8 << 20;

/// How many objects a page has at first.
const OBJECTS: u32 = 500;

/// The longest event, bytes.
const LINE: usize = 4 << 20;

/// How long a page may take.
const LIST: Duration = Duration::from_secs(30);

/// How long a watch lasts, seconds: then everything is listed anew, so that no error stays for ever.
const WATCH: u64 = 1800;

/// How much longer it may last: a kubectl that was stopped does not end by itself.
const LATE: Duration = Duration::from_secs(30);

/// The longest pause before the next try: what became of the Services is not known in the meantime.
const LONGEST: Duration = Duration::from_secs(5);

/// The most objects of one collection that are kept.
const MOST: usize = 50_000;

/// News of one collection.
#[derive(Debug)]
pub(crate) enum News<T> {
    /// All of it.
    All(BTreeMap<Key, T>),
    /// One object was made or changed.
    Is(T),
    /// One object is gone.
    Gone(Key),
    /// Nothing is heard of it: why. What was known stays.
    Silent(String),
}

/// Follows the collection at `path` for ever; ends when nobody hears.
///
/// `path` has a query already, such as `/api/v1/pods?fieldSelector=spec.nodeName%3Dn1`.
pub(crate) async fn follow<T, M>(kubectl: Kubectl, path: String, heard: mpsc::Sender<M>)
where
    T: Item,
    M: From<News<T>>,
{
    let mut backoff = Backoff::default();
    loop {
        let began = Instant::now();
        let Some(reason) = once(&kubectl, &path, &heard).await else { return };
        let pause = backoff.endless(began.elapsed()).min(LONGEST);
        tracing::debug!(path, reason, ?pause, "listed anew");
        if heard.send(News::Silent(reason).into()).await.is_err() {
            return;
        }
        sleep(pause).await;
    }
}

/// One list and one watch; returns why it ended, `None` if nobody hears.
async fn once<T: Item, M: From<News<T>>>(
    kubectl: &Kubectl,
    path: &str,
    heard: &mpsc::Sender<M>,
) -> Option<String> {
    let (version, objects) = match list(kubectl, path).await {
        Ok(listed) => listed,
        Err(reason) => return Some(reason),
    };
    heard.send(News::All(objects).into()).await.ok()?;
    watch(kubectl, &format!("{path}&watch=true&resourceVersion={version}&timeoutSeconds={WATCH}"), heard)
        .await
}

/// The version and the objects of all pages.
async fn list<T: Item>(kubectl: &Kubectl, path: &str) -> Result<(String, BTreeMap<Key, T>), String> {
    let mut objects = BTreeMap::new();
    let (mut limit, mut next) = (OBJECTS, String::new());
    loop {
        let page = format!("{path}&limit={limit}&continue={}", escape(&next));
        let text = match kubectl.run(&["get", "--raw", &page], (PAGE, crate::patience::of(LIST))).await {
            Err(Failure::TooLong) if limit > 1 => {
                limit /= 2;
                continue;
            }
            answer => answer.map_err(|failure| failure.to_string())?,
        };
        let list =
            services::list::<T>(&text).map_err(|error| format!("a list is not understood: {error}"))?;
        objects.extend(list.items.into_iter().map(|item| (item.key().clone(), item)));
        if objects.len() > MOST {
            return Err(format!("there are more than {MOST} objects"));
        }
        match list.next {
            Some(more) => next = more,
            None if is_word(&list.version) => return Ok((list.version, objects)),
            None => return Err("the version of a list is no word".into()),
        }
    }
}

async fn watch<T: Item, M: From<News<T>>>(
    kubectl: &Kubectl,
    path: &str,
    heard: &mpsc::Sender<M>,
) -> Option<String> {
    let mut running = match kubectl.start(&["get", "--raw", path]).await {
        Ok(running) => running,
        Err(failure) => return Some(failure.to_string()),
    };
    let until = Instant::now() + Duration::from_secs(WATCH) + crate::patience::of(LATE);
    loop {
        let left = until.saturating_duration_since(Instant::now());
        let line = tokio::select! {
            line = running.line(LINE, left) => line,
            () = heard.closed() => return None,
        };
        let line = match line {
            Ok(Some(line)) => line,
            Ok(None) => return Some(running.words().await),
            Err(failure) => return Some(failure.to_string()),
        };
        let news = match services::event::<T>(&line) {
            Ok(Event::Is(object)) => News::Is(object),
            Ok(Event::Gone(object)) => News::Gone(object.key().clone()),
            Ok(Event::Other) => continue,
            Ok(Event::Failed(words)) => return Some(words),
            Err(error) => return Some(format!("an event is not understood: {error}")),
        };
        heard.send(news.into()).await.ok()?;
        if !running.has_line() {
            tokio::task::yield_now().await;
        }
    }
}

/// A token of the server's own, in a query.
fn escape(token: &str) -> String {
    let plain = |byte: &u8| byte.is_ascii_alphanumeric() || b"-_.~".contains(byte);
    token
        .bytes()
        .map(|byte| if plain(&byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") })
        .collect()
}

fn is_word(version: &str) -> bool {
    !version.is_empty() && version.len() <= 64 && version.bytes().all(|byte| byte.is_ascii_alphanumeric())
}

/// A token and a version of a list: both stay one parameter.
#[cfg(feature = "fuzzing")]
pub(crate) fn fuzz(text: &str) {
    assert!(!escape(text).contains(['&', '=', '#', '/', ' ', '?']));
    assert!(!is_word(text) || escape(text) == text);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_stays_one_parameter() {
        assert_eq!(escape("aZ0-_.~"), "aZ0-_.~");
        assert_eq!(escape("a&b=c/ü"), "a%26b%3Dc%2F%C3%BC");
    }

    #[test]
    fn a_version_is_one_word() {
        assert!(is_word("12345"));
        for version in ["", "1&watch=0", &"1".repeat(65)] {
            assert!(!is_word(version), "{version}");
        }
    }
}
