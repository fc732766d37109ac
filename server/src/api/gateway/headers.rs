//! HTTP headers become metadata by grpc-gateway's rules.

use http::header::{AUTHORIZATION, HOST};
use http::{HeaderMap, HeaderName, HeaderValue, Request};
use tonic::Status;
use tonic::metadata::MetadataMap;

/// Headers with this prefix are metadata by the rest of their name.
const METADATA_PREFIX: &str = "grpc-metadata-";

/// Headers that HTTP itself has are metadata behind this prefix, by which services see that a call came through here.
const GATEWAY_PREFIX: &str = "grpcgateway-";

/// Headers that HTTP itself has, as grpc-gateway counts them.
const PERMANENT: &[&str] = &[
    "accept",
    "accept-charset",
    "accept-language",
    "accept-ranges",
    "authorization",
    "cache-control",
    "content-type",
    "cookie",
    "date",
    "expect",
    "from",
    "host",
    "if-match",
    "if-modified-since",
    "if-none-match",
    "if-schedule-tag-match",
    "if-unmodified-since",
    "max-forwards",
    "origin",
    "pragma",
    "referer",
    "user-agent",
    "via",
    "warning",
];

/// Metadata that is gRPC's own business.
const RESERVED: &[&str] = &["te", "content-type", "content-length", "grpc-encoding", "grpc-timeout", "connection"];

/// What a call takes over from its HTTP request.
pub fn metadata<B>(request: &Request<B>) -> Result<MetadataMap, Status> {
    let mut metadata = HeaderMap::new();
    for (name, value) in request.headers() {
        if name == AUTHORIZATION {
            metadata.append(name, value.clone());
        }
        let Some(told) = told(name.as_str()) else { continue };
        if let Ok(told) = HeaderName::try_from(told) {
            metadata.append(told, value.clone());
        }
    }
    if let Some(time) = request.headers().get("grpc-timeout") {
        metadata.insert("grpc-timeout", checked_timeout(time)?);
    }
    let host = request.headers().get("x-forwarded-host").or_else(|| request.headers().get(HOST));
    if let Some(host) = host {
        metadata.insert("x-forwarded-host", host.clone());
    }
    Ok(MetadataMap::from_headers(metadata))
}

/// The name of a header as metadata, if it is handed on.
fn told(name: &str) -> Option<String> {
    if PERMANENT.contains(&name) {
        return Some(format!("{GATEWAY_PREFIX}{name}"));
    }
    let told = name.strip_prefix(METADATA_PREFIX)?;
    (!RESERVED.contains(&told)).then(|| told.to_owned())
}

fn checked_timeout(time: &HeaderValue) -> Result<HeaderValue, Status> {
    let text = time.to_str().unwrap_or_default();
    let digits = text.trim_end_matches(|letter: char| letter.is_ascii_alphabetic());
    let unit = &text[digits.len()..];
    let valid = ["H", "M", "S", "m", "u", "n"].contains(&unit) && digits.parse::<u32>().is_ok();
    match valid {
        true => Ok(time.clone()),
        false => Err(Status::invalid_argument(format!("invalid grpc-timeout: {text}"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_become_metadata() {
        for (name, metadata) in [
            ("authorization", Some("grpcgateway-authorization")),
            ("accept", Some("grpcgateway-accept")),
            ("grpc-metadata-hasleader", Some("hasleader")),
            ("grpc-metadata-content-type", None),
            ("x-anything", None),
        ] {
            assert_eq!(told(name).as_deref(), metadata, "{name}");
        }
        let request = Request::builder()
            .header("Authorization", "token")
            .header("Host", "etcd.example")
            .header("Grpc-Timeout", "7S")
            .body(())
            .expect("a request");
        let metadata = metadata(&request).expect("valid").into_headers();
        let text = |name: &str| metadata.get(name).and_then(|value| value.to_str().ok());
        assert_eq!(text("authorization"), Some("token"));
        assert_eq!(text("grpcgateway-authorization"), Some("token"));
        assert_eq!(text("x-forwarded-host"), Some("etcd.example"));
        assert_eq!(text("grpc-timeout"), Some("7S"));
        let bad = Request::builder().header("Grpc-Timeout", "soon").body(()).expect("a request");
        assert_eq!(super::metadata(&bad).expect_err("invalid").message(), "invalid grpc-timeout: soon");
    }
}
