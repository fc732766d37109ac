//! Who may ask over HTTP: the host names that requests may use, and the origins whose pages may read answers.

use std::collections::BTreeSet;

use axum::body::Body;
use http::header::{
    ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS, ACCESS_CONTROL_ALLOW_ORIGIN, HOST, ORIGIN,
};
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode};

use super::http::plain_error;
use crate::config::Config;

/// The setting that stands for all.
const ANY: &str = "*";

/// The rules of one member. An empty list, like `*`, allows all.
#[derive(Debug, Clone)]
pub struct Access {
    hosts: BTreeSet<String>,
    origins: BTreeSet<String>,
}

fn allows(list: &BTreeSet<String>, name: &str) -> bool {
    list.is_empty() || list.contains(ANY) || list.contains(name)
}

impl Access {
    /// The rules of `--host-whitelist` and `--cors`.
    pub fn new(config: &Config) -> Self {
        Access { hosts: config.host_whitelist.clone(), origins: config.cors.clone() }
    }

    /// The answer to a request that goes no further: it uses a host name that is not ours, as a page does that has had its
    /// name rebound to this address (CVE-2018-5702), or a browser asks what it may do. Under TLS (`secure`) a page
    /// cannot do so: the name would not fit the certificate.
    pub fn answer<B>(&self, request: &Request<B>, secure: bool) -> Option<Response<Body>> {
        let host = host(request);
        if !secure && !allows(&self.hosts, host) {
            tracing::warn!(host, "an HTTP request by a host name that is not allowed");
            let text = format!(
                "The host name of this request is not allowed here. Use TLS, or allow it with --host-whitelist {host:?}.\n\
                 Without this rule, a web page could reach this server by DNS rebinding (CVE-2018-5702)."
            );
            return Some(plain_error(StatusCode::MISDIRECTED_REQUEST, &text));
        }
        (request.method() == Method::OPTIONS).then(|| {
            let mut response = Response::new(Body::empty());
            self.allow(request.headers(), response.headers_mut());
            response
        })
    }

    /// Adds the headers that let the page that has asked read the answer.
    pub fn allow(&self, request: &HeaderMap, response: &mut HeaderMap) {
        let origin = match request.get(ORIGIN) {
            _ if allows(&self.origins, ANY) => HeaderValue::from_static(ANY),
            Some(origin) if origin.to_str().is_ok_and(|origin| allows(&self.origins, origin)) => origin.clone(),
            _ => return,
        };
        response.append(ACCESS_CONTROL_ALLOW_METHODS, HeaderValue::from_static("POST, GET, OPTIONS, PUT, DELETE"));
        response.append(ACCESS_CONTROL_ALLOW_ORIGIN, origin);
        response.append(ACCESS_CONTROL_ALLOW_HEADERS, HeaderValue::from_static("accept, content-type, authorization"));
    }
}

/// The host that a request names, without its port.
fn host<B>(request: &Request<B>) -> &str {
    let named = request.headers().get(HOST).and_then(|host| host.to_str().ok());
    let host = named.or_else(|| request.uri().authority().map(|authority| authority.as_str())).unwrap_or_default();
    match host.rsplit_once(':') {
        Some((name, _)) if name.starts_with('[') => name.trim_matches(['[', ']']),
        Some((name, _)) if !name.contains(':') => name,
        _ => host,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn access(hosts: &[&str], origins: &[&str]) -> Access {
        let set = |list: &[&str]| list.iter().map(|name| name.to_string()).collect();
        Access { hosts: set(hosts), origins: set(origins) }
    }

    #[test]
    fn hosts() {
        for (hosts, host, status) in [
            (&["*"][..], "anything", None),
            (&[], "anything", None),
            (&["etcd.example"], "etcd.example:2379", None),
            (&["etcd.example"], "etcd.example", None),
            (&["etcd.example"], "evil.example:2379", Some(421)),
            (&["::1"], "[::1]:2379", None),
            (&["etcd.example"], "", Some(421)),
        ] {
            let request = Request::get("/health").header(HOST, host).body(()).expect("a request");
            let answer = access(hosts, &[]).answer(&request, false);
            assert!(access(hosts, &[]).answer(&request, true).is_none());
            assert_eq!(answer.map(|answer| answer.status().as_u16()), status, "{host}");
        }
    }

    #[test]
    fn origins() {
        for (origins, origin, allowed) in [
            (&["*"][..], None, Some("*")),
            (&[], Some("http://a.example"), Some("*")),
            (&["http://a.example:80"], Some("http://a.example:80"), Some("http://a.example:80")),
            (&["http://a.example:80"], Some("http://b.example:80"), None),
            (&["http://a.example:80"], None, None),
        ] {
            let mut request = Request::options("/v3/kv/range");
            if let Some(origin) = origin {
                request = request.header(ORIGIN, origin);
            }
            let answer = access(&[], origins).answer(&request.body(()).expect("a request"), false).expect("an answer");
            assert_eq!(answer.status(), 200);
            let told = answer.headers().get(ACCESS_CONTROL_ALLOW_ORIGIN);
            assert_eq!(told.and_then(|origin| origin.to_str().ok()), allowed, "{origins:?} {origin:?}");
        }
    }
}
