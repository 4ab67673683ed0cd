//! Pages of other origins in a browser: told that they may ask, if the server was started so.

use axum::extract::Request;
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use axum::response::{IntoResponse, Response};

/// Any origin.
const ANY: &str = "*";
/// Seconds for which a browser may remember what it was told.
const MAX_AGE: HeaderValue = HeaderValue::from_static("600");

/// Why a text is no origin, if it is none.
pub fn check(origin: &str) -> Result<String, String> {
    let host = origin.split_once("://").filter(|(scheme, _)| !scheme.is_empty()).map(|(_, host)| host);
    let whole = host.is_some_and(|host| !host.is_empty() && !host.contains(['/', '?', '#', '@', ',']));
    if origin == ANY || (whole && origin.chars().all(|c| c.is_ascii_graphic())) {
        return Ok(origin.to_ascii_lowercase());
    }
    Err("an origin is https://HOST or https://HOST:PORT, without a path, or * for any".into())
}

/// What the page's origin is to be told, if it is one of `origins`.
pub fn allowed(origins: &[String], headers: &HeaderMap) -> Option<HeaderValue> {
    let origin = headers.get(header::ORIGIN)?;
    if origins.iter().any(|allowed| allowed == ANY) {
        return Some(HeaderValue::from_static(ANY));
    }
    origins.iter().any(|allowed| allowed.as_bytes() == origin.as_bytes()).then(|| origin.clone())
}

/// The answer to a browser that asks whether it may ask; it sends no key with that.
pub fn preflight(request: &Request) -> Option<Response> {
    let asks = request.headers().contains_key(header::ACCESS_CONTROL_REQUEST_METHOD);
    (request.method() == Method::OPTIONS && asks).then(|| {
        let headers = [
            (header::ACCESS_CONTROL_ALLOW_METHODS, HeaderValue::from_static("GET, POST")),
            (header::ACCESS_CONTROL_ALLOW_HEADERS, HeaderValue::from_static("authorization, content-type")),
            (header::ACCESS_CONTROL_MAX_AGE, MAX_AGE),
        ];
        (StatusCode::NO_CONTENT, headers).into_response()
    })
}

/// Lets the page read the answer.
pub fn allow(response: &mut Response, origin: HeaderValue) {
    let headers = response.headers_mut();
    headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin);
    headers.insert(header::ACCESS_CONTROL_EXPOSE_HEADERS, HeaderValue::from_static("retry-after"));
    headers.append(header::VARY, HeaderValue::from_static("origin"));
}

#[cfg(test)]
mod tests {
    use super::check;

    #[test]
    fn origins() {
        for good in ["*", "http://localhost:3000", "https://example.org", "https://[::1]:8"] {
            assert_eq!(check(good).as_deref(), Ok(good));
        }
        for bad in
            ["", "example.org", "https://", "https://a/", "https://a/b", "https://a,https://b", "://a", "https://a b"]
        {
            assert!(check(bad).is_err(), "{bad}");
        }
    }
}
