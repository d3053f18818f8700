//! Host names: which model a Host header means.

use std::borrow::Cow;

use stoker_api::names::PREVIEW_SUFFIX;

/// The hosts that a model has by its name. Longer ones, such as `<name>.<namespace>.svc.cluster.local`, are found by
/// [`name_in`].
pub fn of_name(name: &str, namespace: &str) -> [String; 3] {
    [name.to_owned(), format!("{name}.{namespace}"), format!("{name}.{namespace}.svc")]
}

/// The name that stands for the preview of a model.
pub fn of_preview(name: &str) -> String {
    format!("{name}{PREVIEW_SUFFIX}")
}

/// The name in `<name>.<namespace>.svc.<anything>`.
pub fn name_in<'a>(host: &'a str, namespace: &str) -> Option<&'a str> {
    let (name, rest) = host.split_once('.')?;
    rest.strip_prefix(namespace)?.strip_prefix(".svc.").map(|_| name)
}

/// A host as it is compared: without port and final dot, in lower case.
pub fn normal(host: &str) -> Cow<'_, str> {
    let bare = match host.rsplit_once(':') {
        Some((bare, port)) if port.bytes().all(|b| b.is_ascii_digit()) => bare,
        _ => host,
    };
    let bare = bare.strip_suffix('.').unwrap_or(bare);
    if bare.bytes().any(|b| b.is_ascii_uppercase()) {
        Cow::Owned(bare.to_ascii_lowercase())
    } else {
        Cow::Borrowed(bare)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_are_compared_without_port_dot_and_case() {
        for (host, wanted) in [
            ("digits", "digits"),
            ("Digits:8080", "digits"),
            ("digits.team.svc.cluster.local.:80", "digits.team.svc.cluster.local"),
            ("[::1]:8080", "[::1]"),
            ("a:b", "a:b"),
            ("", ""),
        ] {
            assert_eq!(normal(host), wanted, "{host:?}");
        }
    }

    #[test]
    fn long_names_need_the_namespace() {
        assert_eq!(name_in("digits.team.svc.cluster.local", "team"), Some("digits"));
        for host in [
            "digits.other.svc.cluster.local",
            "digits.team.svcx",
            "digits.teams.svc.x",
            "digits",
            "digits.team",
        ] {
            assert_eq!(name_in(host, "team"), None, "{host}");
        }
    }
}
