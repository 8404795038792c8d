//! What must never leave the process in a text.

use std::fmt;

/// In place of a secret.
const STAND_IN: &str = "(secret)";
/// Shorter values are no secrets, and would cut holes into every text.
const LEN_MIN: usize = 4;
/// How much of what an object store says is passed on, in characters.
const TEXT_MAX: usize = 400;

/// The values of the environment that are credentials, or part of them.
#[derive(Clone, Default)]
pub(super) struct Secrets(Vec<String>);

impl Secrets {
    /// Looks for them in variables.
    pub(super) fn among(variables: impl Iterator<Item = (String, String)>) -> Self {
        let mut secrets = Vec::new();
        for (name, value) in variables.filter(|(name, _)| name.starts_with("AWS_")) {
            let is_secret = ["KEY", "SECRET", "TOKEN", "PASSWORD"].iter().any(|word| name.contains(word));
            if is_secret {
                secrets.push(value);
            } else if let Some((_, rest)) = value.split_once("://")
                && let Some((login, _)) = rest.split_once('@')
            {
                // The login of a proxy, whole and in parts.
                secrets.push(login.to_owned());
                secrets.extend(login.split(':').map(str::to_owned));
            }
        }
        secrets.retain(|secret| secret.len() >= LEN_MIN);
        // The longest first: one may be part of another.
        secrets.sort_by_key(|secret| std::cmp::Reverse(secret.len()));
        Self(secrets)
    }

    /// A text in one line of bounded length without secrets in it.
    pub(super) fn cut_out(&self, text: &str) -> String {
        let mut text = text.to_owned();
        for secret in &self.0 {
            text = text.replace(secret.as_str(), STAND_IN);
        }
        let line = text.split_whitespace().collect::<Vec<_>>().join(" ");
        match line.char_indices().nth(TEXT_MAX) {
            Some((end, _)) => format!("{} ...", line.get(..end).unwrap_or_default()),
            None => line,
        }
    }
}

impl fmt::Debug for Secrets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} secrets", self.0.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn secrets() -> Secrets {
        let variables = [
            ("AWS_SECRET_ACCESS_KEY", "hunter2"),
            ("AWS_SESSION_TOKEN", "hunter2-session"),
            ("AWS_PROXY_URL", "http://me:swordfish@proxy:80"),
            ("AWS_REGION", "attic"),
            ("HOME", "://a:home@"),
            ("AWS_ACCESS_KEY_ID", "abc"),
        ];
        Secrets::among(variables.into_iter().map(|(name, value)| (name.to_owned(), value.to_owned())))
    }

    #[test]
    fn secrets_are_cut_out_and_the_rest_stays() {
        let cut = secrets().cut_out("in attic: hunter2\n hunter2-session, swordfish of abc at home");
        assert_eq!(cut, "in attic: (secret) (secret), (secret) of abc at home");
        assert_eq!(format!("{:?}", secrets()), "4 secrets");
    }

    #[test]
    fn a_long_text_is_cut_short() {
        let cut = secrets().cut_out(&"\u{e9} ".repeat(1000));
        assert_eq!(cut.chars().count(), TEXT_MAX + 4);
    }
}
