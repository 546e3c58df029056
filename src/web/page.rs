//! The page at `/ui`: files that are part of the program.
//!
//! The page holds no data. Its script reads the API at `/v1`, with the token that the user enters.

use std::hash::Hasher as _;

use axum::Router;
use axum::extract::{Request, State};
use axum::http::header::{
    CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, ETAG, IF_NONE_MATCH, REFERRER_POLICY,
    X_CONTENT_TYPE_OPTIONS,
};
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse as _, Response};
use axum::routing::get;
use siphasher::sip::SipHasher13;

use super::access::is_of_this_machine;

/// The files: path, media type and content.
const FILES: [(&str, &str, &str); 6] = [
    ("/ui", HTML, PAGE),
    ("/ui/", HTML, PAGE),
    ("/ui/page.css", "text/css; charset=utf-8", include_str!("page/page.css")),
    ("/ui/page.js", SCRIPT, include_str!("page/page.js")),
    ("/ui/parts.js", SCRIPT, include_str!("page/parts.js")),
    ("/ui/page.svg", "image/svg+xml", include_str!("page/page.svg")),
];

const HTML: &str = "text/html; charset=utf-8";
const SCRIPT: &str = "text/javascript; charset=utf-8";
const PAGE: &str = include_str!("page/page.html");

/// The headers of each answer. The browser loads nothing from elsewhere, runs no script of another
/// file, sends no form, and shows the page in no frame.
static HEADERS: [(HeaderName, &str); 4] = [
    (
        CONTENT_SECURITY_POLICY,
        "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self'; \
         base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    ),
    (X_CONTENT_TYPE_OPTIONS, "nosniff"),
    (REFERRER_POLICY, "no-referrer"),
    // Browsers keep the files, and ask each time whether they are still the same.
    (CACHE_CONTROL, "no-cache"),
];

/// A file of the page.
#[derive(Clone, Copy, Debug)]
struct File {
    media_type: &'static str,
    content: &'static str,
    hash: u64,
}

impl File {
    fn new(media_type: &'static str, content: &'static str) -> Self {
        let mut hasher = SipHasher13::new();
        hasher.write(content.as_bytes());
        Self { media_type, content, hash: hasher.finish() }
    }

    /// Answers a request with these headers: 304 if the browser has the file.
    fn answer(self, headers: &HeaderMap) -> Response {
        let tag = format!("\"{:016x}\"", self.hash);
        let known = headers.get(IF_NONE_MATCH).and_then(|tags| tags.to_str().ok());
        let mut known = known.unwrap_or_default().split(',').map(str::trim);
        if known.any(|known| known == "*" || known.trim_start_matches("W/") == tag) {
            return (StatusCode::NOT_MODIFIED, [(ETAG, tag)]).into_response();
        }
        let headers = [(CONTENT_TYPE, self.media_type.to_owned()), (ETAG, tag)];
        (headers, self.content).into_response()
    }
}

/// Returns the routes of the page. Without `is_open`, callers must name an address of this machine, as
/// for the API without a token.
pub fn router(is_open: bool) -> Router {
    let mut router = Router::new();
    for (path, media_type, content) in FILES {
        let file = File::new(media_type, content);
        let answer = move |headers: HeaderMap| async move { file.answer(&headers) };
        router = router.route(path, get(answer));
    }
    router
        .route("/ui/{*rest}", get(async || StatusCode::NOT_FOUND))
        .layer(from_fn_with_state(is_open, guard))
}

/// Checks the host of a request, and adds the headers of the page to the answer.
async fn guard(State(is_open): State<bool>, request: Request, next: Next) -> Response {
    let mut answer = if is_open || is_of_this_machine(request.headers()) {
        next.run(request).await
    } else {
        let message = "reach the page by localhost or an IP address";
        (StatusCode::BAD_REQUEST, message).into_response()
    };
    for (name, value) in &HEADERS {
        answer.headers_mut().insert(name, HeaderValue::from_static(value));
    }
    answer
}

#[cfg(test)]
mod tests {
    use axum::body::Body;
    use axum::http::header::{ALLOW, AsHeaderName, HOST};
    use tower::ServiceExt as _;

    use super::*;

    async fn send(
        is_open: bool,
        method: &str,
        path: &str,
        headers: &[(HeaderName, &str)],
    ) -> Response {
        let mut request = Request::builder().method(method).uri(path);
        for (name, value) in headers {
            request = request.header(name, *value);
        }
        let request = request.body(Body::empty()).unwrap();
        router(is_open).oneshot(request).await.unwrap()
    }

    async fn body(answer: Response) -> String {
        let body = axum::body::to_bytes(answer.into_body(), usize::MAX).await.unwrap();
        String::from_utf8(body.to_vec()).unwrap()
    }

    fn header(answer: &Response, name: impl AsHeaderName) -> &str {
        answer.headers().get(name).map_or("", |value| value.to_str().unwrap())
    }

    #[tokio::test]
    async fn each_file_is_served_to_who_reads() {
        let host = [(HOST, "localhost:9180")];
        for (path, media_type, content) in FILES {
            let answer = send(false, "GET", path, &host).await;
            assert_eq!(answer.status(), 200, "{path}");
            assert_eq!(header(&answer, CONTENT_TYPE), media_type);
            let tag = header(&answer, ETAG).to_owned();
            for (name, value) in &HEADERS {
                assert_eq!(header(&answer, name), *value);
            }
            assert_eq!(body(answer).await, content);
            let answer = send(false, "HEAD", path, &host).await;
            assert_eq!((answer.status().as_u16(), body(answer).await.as_str()), (200, ""));
            // The browser asks again with the tag.
            for (known, status) in
                [(&*tag, 304), (&*format!("\"a\", W/{tag}"), 304), ("\"a\"", 200)]
            {
                let headers = [(HOST, "127.0.0.1"), (IF_NONE_MATCH, known)];
                let answer = send(false, "GET", path, &headers).await;
                assert_eq!(answer.status(), status, "{path}: {known}");
                assert_eq!(header(&answer, ETAG), tag);
            }
            let answer = send(false, "POST", path, &host).await;
            assert_eq!((answer.status().as_u16(), header(&answer, ALLOW)), (405, "GET,HEAD"));
        }
        assert_eq!(send(false, "GET", "/ui/other", &host).await.status(), 404);
        assert_eq!(send(false, "GET", "/uimore", &host).await.status(), 404);
    }

    #[tokio::test]
    async fn another_name_leads_to_the_page_only_where_the_api_needs_a_token() {
        for (is_open, host, expected) in [
            (false, "localhost", 200),
            (false, "[::1]:9180", 200),
            (false, "evil.example:9180", 400),
            (true, "reloader.example", 200),
        ] {
            let answer = send(is_open, "GET", "/ui", &[(HOST, host)]).await;
            assert_eq!(answer.status(), expected, "{host}");
            assert!(header(&answer, CONTENT_SECURITY_POLICY).starts_with("default-src 'none'"));
        }
    }

    #[test]
    fn the_page_needs_nothing_from_elsewhere() {
        for (path, _, content) in FILES {
            for text in
                ["https:", "http:", "//cdn", "url(", "@import", "<style", "style=\"", "innerHTML"]
            {
                // The namespace of SVG is a name, and is not loaded.
                let content = content.replace("http://www.w3.org/2000/svg", "");
                assert!(!content.contains(text), "{path} has {text}");
            }
        }
    }
}
