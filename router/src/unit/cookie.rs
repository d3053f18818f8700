//! The cookie that carries a unit: read from requests, hidden from pods, set where it is missing (RFC 6265).

use http::HeaderMap;
use http::header::{COOKIE, HeaderValue};

/// How long a browser keeps the cookie, in seconds: one year.
const MAX_AGE: u32 = 365 * 24 * 3600;
/// A unit in hexadecimal digits.
const DIGITS: usize = 32;

/// The unit in the cookie `name`, in whichever of the Cookie headers it stands. One that is malformed is none, and is
/// replaced like a missing one.
pub fn read(headers: &HeaderMap, name: &str) -> Option<u128> {
    headers
        .get_all(COOKIE)
        .iter()
        .flat_map(|value| pairs(value.as_bytes()))
        .find_map(|pair| value_of(pair, name))
        .and_then(unit)
}

/// Takes the cookie `name` out; all others stay as they are, byte for byte.
pub fn hide(headers: &mut HeaderMap, name: &str) {
    let is_ours = |pair: &[u8]| value_of(pair, name).is_some();
    if !headers.get_all(COOKIE).iter().any(|value| pairs(value.as_bytes()).any(is_ours)) {
        return;
    }
    let kept: Vec<HeaderValue> = headers
        .get_all(COOKIE)
        .iter()
        .filter_map(|value| {
            let others: Vec<&[u8]> = pairs(value.as_bytes()).filter(|pair| !is_ours(pair)).collect();
            HeaderValue::from_bytes(&others.join(&b"; "[..])).ok().filter(|value| !value.is_empty())
        })
        .collect();
    headers.remove(COOKIE);
    for value in kept {
        headers.append(COOKIE, value);
    }
}

/// The Set-Cookie header for a unit. `secure` keeps browsers from sending it without TLS. `None` when the name cannot
/// stand in a header, which the CRD rules out.
pub fn set(name: &str, unit: u128, secure: bool) -> Option<HeaderValue> {
    let secure = if secure { "; Secure" } else { "" };
    let text = format!("{name}={unit:032x}; Path=/; Max-Age={MAX_AGE}; HttpOnly; SameSite=Lax{secure}");
    HeaderValue::try_from(text).ok()
}

/// The parts of a Cookie header, without the blanks around them.
fn pairs(value: &[u8]) -> impl Iterator<Item = &[u8]> {
    value.split(|byte| *byte == b';').map(<[u8]>::trim_ascii).filter(|pair| !pair.is_empty())
}

/// What stands after `name=`.
fn value_of<'a>(pair: &'a [u8], name: &str) -> Option<&'a [u8]> {
    pair.strip_prefix(name.as_bytes())?.strip_prefix(b"=")
}

fn unit(digits: &[u8]) -> Option<u128> {
    // `from_str_radix` takes a sign as well.
    let plain = digits.len() == DIGITS && digits.iter().all(u8::is_ascii_hexdigit);
    if plain { u128::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok() } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "00000000000000000000000000000abc";

    fn headers(values: &[&str]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(COOKIE, HeaderValue::from_str(value).unwrap());
        }
        headers
    }

    fn left(mut headers: HeaderMap) -> Vec<String> {
        hide(&mut headers, "unit");
        headers.get_all(COOKIE).iter().map(|value| value.to_str().unwrap().to_owned()).collect()
    }

    #[test]
    fn what_is_set_is_read_back() {
        let value = set("unit", 0xabc, true).unwrap();
        let text = value.to_str().unwrap();
        assert_eq!(text, format!("unit={ID}; Path=/; Max-Age=31536000; HttpOnly; SameSite=Lax; Secure"));
        assert_eq!(read(&headers(&[text.split(';').next().unwrap()]), "unit"), Some(0xabc));
        assert!(!set("unit", 1, false).unwrap().to_str().unwrap().contains("Secure"));
    }

    #[test]
    fn it_is_found_among_others_and_only_when_well_formed() {
        let good = [format!("unit={ID}"), format!("a=1; unit={ID};b=2"), format!("xunit=1;unit={ID}")];
        for text in &good {
            assert_eq!(read(&headers(&[text]), "unit"), Some(0xabc), "{text}");
        }
        // As HTTP/2 may split it.
        assert_eq!(read(&headers(&["a=1", &good[0]]), "unit"), Some(0xabc));
        let bad = [
            "unit=",
            "unit=abc",
            "unit=+0000000000000000000000000000abc",
            "unit=digits-b",
            "units=1",
            "unit",
        ];
        for text in bad {
            assert_eq!(read(&headers(&[text]), "unit"), None, "{text}");
        }
    }

    #[test]
    fn pods_see_all_cookies_but_ours() {
        assert_eq!(left(headers(&["a=1; b=\"x y\""])), ["a=1; b=\"x y\""]);
        assert_eq!(left(headers(&[&format!("a=1; unit={ID}; b=2"), "unit=bad", "c=3"])), ["a=1; b=2", "c=3"]);
        assert!(left(headers(&[&format!("unit={ID}")])).is_empty());
    }
}
