//! What a browser sees, and everybody who does not know the rendezvous's key: what this is and how to join, nothing secret.

use bytes::Bytes;
use http_body_util::Full;
use hyper::header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE, HeaderValue};
use hyper::{Method, Response, StatusCode};

/// The answer to a request that is no peer's. `head` has no body (hyper leaves it out for HEAD itself).
pub(super) fn answer(method: &Method, path: &str) -> Response<Full<Bytes>> {
    let (status, text) = match (method, path) {
        (&Method::GET | &Method::HEAD, "/" | "/index.html") => (StatusCode::OK, PAGE),
        (&Method::GET | &Method::HEAD, _) => (StatusCode::NOT_FOUND, NOT_FOUND),
        _ => (StatusCode::METHOD_NOT_ALLOWED, NOT_ALLOWED),
    };
    let mut response = page(status, text);
    if status == StatusCode::METHOD_NOT_ALLOWED {
        let headers = response.headers_mut();
        headers.insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
    }
    response
}

/// The answer to a peer that there is no room for.
pub(super) fn busy() -> Response<Full<Bytes>> {
    page(StatusCode::SERVICE_UNAVAILABLE, BUSY)
}

fn page(status: StatusCode, text: &'static str) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from_static(text.as_bytes())));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    let html = HeaderValue::from_static("text/html; charset=utf-8");
    headers.insert(CONTENT_TYPE, html);
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

const PAGE: &str = include_str!("page.html");
const NOT_FOUND: &str = "<!doctype html>\n<title>404 Not Found</title>\n<h1>Not Found</h1>\n";
const NOT_ALLOWED: &str =
    "<!doctype html>\n<title>405 Method Not Allowed</title>\n<h1>Method Not Allowed</h1>\n";
const BUSY: &str =
    "<!doctype html>\n<title>503 Service Unavailable</title>\n<h1>Service Unavailable</h1>\n";
