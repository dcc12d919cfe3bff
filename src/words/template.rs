//! Templates with named holes: `"port {port} is in use"`. What stands in a hole `{why*}` is a text of ours itself.

/// A template, cut at its holes.
#[derive(Debug)]
pub(super) struct Template {
    /// Text before the first hole.
    head: &'static str,
    /// Name of each hole, and the text behind it.
    holes: Vec<(&'static str, &'static str)>,
}

/// The name of a hole, and whether a text of ours stands in it.
pub(super) fn name(hole: &str) -> (&str, bool) {
    hole.strip_suffix('*').map_or((hole, false), |name| (name, true))
}

impl Template {
    pub(super) fn new(text: &'static str) -> Self {
        let mut pieces = text.split('{');
        let head = pieces.next().unwrap_or_default();
        Self { head, holes: pieces.filter_map(|piece| piece.split_once('}')).collect() }
    }

    /// How much text of its own it has, bytes.
    pub(super) fn weight(&self) -> usize {
        self.head.len() + self.holes.iter().map(|(_, after)| after.len()).sum::<usize>()
    }

    /// What stands in the holes of a text that was made of this template.
    ///
    /// A hole for a name or a number holds no `: `: a text with one is a chain, whose parts have templates of their own.
    ///
    /// `left` is how many bytes may still be looked at: texts of others may fit in a great many ways, or almost.
    pub(super) fn captures<'a>(
        &self,
        text: &'a str,
        left: &mut usize,
    ) -> Option<Vec<(&'static str, &'a str)>> {
        let mut found = Vec::new();
        fit(text.strip_prefix(self.head)?, &self.holes, (&mut found, left)).then_some(found)
    }

    /// The text with its holes filled, by name.
    pub(super) fn fill(&self, mut value: impl FnMut(&str) -> String) -> String {
        let mut text = self.head.to_owned();
        for (name, after) in &self.holes {
            text.push_str(&value(name));
            text.push_str(after);
        }
        text
    }

    /// The names of the holes, sorted.
    #[cfg(test)]
    pub(super) fn names(&self) -> Vec<&'static str> {
        let mut names: Vec<_> = self.holes.iter().map(|(hole, _)| name(hole).0).collect();
        names.sort_unstable();
        names
    }
}

/// The shortest fillings that leave nothing over.
fn fit<'a>(
    text: &'a str,
    holes: &[(&'static str, &'static str)],
    (found, left): (&mut Vec<(&'static str, &'a str)>, &mut usize),
) -> bool {
    let Some(((hole, after), rest)) = holes.split_first() else { return text.is_empty() };
    // Looking for the end of a hole, and for a colon in it, may read all of the text.
    *left = left.saturating_sub(text.len() + 1);
    if *left == 0 {
        return false;
    }
    let takes = |value: &str| name(hole).1 || !value.contains(": ");
    if rest.is_empty() {
        let value = text.strip_suffix(after).filter(|value| takes(value));
        found.extend(value.map(|value| (*hole, value)));
        return value.is_some();
    }
    for (at, _) in text.match_indices(after) {
        *left = left.saturating_sub(at);
        if *left == 0 || !takes(&text[..at]) {
            break;
        }
        found.push((hole, &text[..at]));
        if fit(&text[at + after.len()..], rest, (found, left)) {
            return true;
        }
        found.pop();
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    fn captures(template: &'static str, text: &'static str) -> Option<Vec<(&'static str, &'static str)>> {
        let mut left = usize::MAX;
        Template::new(template).captures(text, &mut left)
    }

    #[test]
    fn holes_take_what_leaves_nothing_over() {
        assert_eq!(captures("a {x} b {y}", "a 1 b 2"), Some(vec![("x", "1"), ("y", "2")]));
        assert_eq!(captures("{x} b", "b b b"), Some(vec![("x", "b b")]));
        assert_eq!(captures("{x} b {y} c", "1 b 2 b 3 c"), Some(vec![("x", "1"), ("y", "2 b 3")]));
        assert_eq!(captures("a", "a"), Some(Vec::new()));
        assert_eq!((captures("{x} b", "a: b b"), captures("{x*} b", "a: b b").is_some()), (None, true));
        assert_eq!((captures("b {x}", "b a: b"), captures("b {x*}", "b a: b").is_some()), (None, true));
        assert_eq!(
            (captures("a", "ab"), captures("a {x}", "b 1"), captures("{x}.", "x")),
            (None, None, None)
        );
    }

    #[test]
    fn a_template_is_filled_by_name() {
        let filled = Template::new("y {y*}, x {x}").fill(|hole| name(hole).0.to_uppercase());
        assert_eq!(filled, "y Y, x X");
        assert_eq!(Template::new("{b}{a*}").names(), ["a", "b"]);
    }
}
