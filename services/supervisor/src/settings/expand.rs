//! `${NAME}` in a definition's texts: looked up once, when the definition is read. `$$` is a dollar; a `$` before
//! anything else stays, so that a shell command may be written as it is.

/// Longest text after expansion, in bytes (the spawn plan's limit for all strings together is the same).
pub(crate) const EXPANDED_MAX: usize = 256 * 1024;

/// Replaces every `${NAME}` by what `lookup` says.
///
/// # Errors
/// A variable that nobody knows, a brace that isn't closed, a result that is too long.
pub(crate) fn expand<'v>(
    text: &str,
    lookup: impl Fn(&str) -> Option<&'v str>,
) -> Result<String, String> {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('$') {
        out.push_str(&rest[..at]);
        rest = &rest[at + 1..];
        if let Some(after) = rest.strip_prefix('$') {
            out.push('$');
            rest = after;
        } else if let Some(after) = rest.strip_prefix('{') {
            let Some((name, after)) = after.split_once('}') else {
                return Err(
                    "\"${\" has no closing brace; write \"$$\" for a plain dollar".to_owned()
                );
            };
            let Some(value) = lookup(name) else {
                return Err(format!(
                    "variable \"{name}\" is set neither for the supervisor nor in the service's env; set it, or write \"$${{{name}}}\" to pass the text on"
                ));
            };
            out.push_str(value);
            rest = after;
        } else {
            out.push('$');
        }
        if out.len() > EXPANDED_MAX {
            break;
        }
    }
    out.push_str(rest);
    if out.len() > EXPANDED_MAX {
        return Err(format!(
            "the text is longer than {EXPANDED_MAX} bytes once its variables are filled in"
        ));
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn lookup(name: &str) -> Option<&'static str> {
        match name {
            "RUN" => Some("/run"),
            "DOLLARS" => Some("${RUN}$$"),
            _ => None,
        }
    }

    #[test]
    fn variables_are_filled_in_once_and_dollars_can_be_kept() {
        for (text, expanded) in [
            ("plain", "plain"),
            ("${RUN}/x${RUN}", "/run/x/run"),
            ("$${RUN}", "${RUN}"),
            ("$$", "$"),
            ("echo $1 $HOME $", "echo $1 $HOME $"),
            ("${DOLLARS}", "${RUN}$$"),
        ] {
            assert_eq!(expand(text, lookup).unwrap(), expanded);
        }
    }

    #[test]
    fn an_unknown_variable_is_named_and_an_open_brace_refused() {
        assert!(expand("${NO_SUCH}", lookup).unwrap_err().contains("\"NO_SUCH\""));
        assert!(expand("${}", lookup).is_err());
        assert!(expand("a${RUN", lookup).unwrap_err().contains("brace"));
    }

    #[test]
    fn expansion_ends_at_its_limit() {
        let long = "x".repeat(EXPANDED_MAX / 2);
        let text = "${L}".repeat(1000);
        assert!(expand(&text, |_| Some(&long)).unwrap_err().contains("262144"));
    }

    proptest! {
        #[test]
        fn no_text_makes_it_panic(text in "[$${}A-Zü]{0,24}") {
            let _ = expand(&text, lookup);
        }
    }
}
