//! Each method with each form in which keys come.

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use proptest::prelude::*;
use rcgen::{PKCS_ECDSA_P256_SHA256, PKCS_ECDSA_P384_SHA384, PKCS_ED25519};

use super::*;
use crate::fuzz::{Damage, cases};

const RSA: &str = include_str!("testdata/rsa.pem");
const RSA_PUBLIC: &str = include_str!("testdata/rsa.pub.pem");
/// As `openssl ecparam -genkey` writes it: parameters, and the key in the envelope of SEC 1.
const EC: &str = include_str!("testdata/ec.pem");

fn open(method: &str, private: Option<&str>, public: Option<&str>, ttl: Duration) -> Result<Jwt, KeyError> {
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str, text: Option<&str>| {
        text.map(|text| {
            let path = folder.path().join(name);
            std::fs::write(&path, text).unwrap();
            path
        })
    };
    Jwt::open(&JwtOptions {
        sign_method: method.to_owned(),
        private_key: file("private", private),
        public_key: file("public", public),
        ttl,
    })
}

const MINUTE: Duration = Duration::from_secs(60);

fn pem(label: &str, der: &[u8]) -> String {
    format!("-----BEGIN {label}-----\n{}\n-----END {label}-----\n", STANDARD.encode(der))
}

#[test]
fn every_method_signs_and_verifies() {
    let p256 = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap();
    let p384 = KeyPair::generate_for(&PKCS_ECDSA_P384_SHA384).unwrap();
    let ed25519 = KeyPair::generate_for(&PKCS_ED25519).unwrap();
    let texts = [&p256, &p384, &ed25519].map(|pair| (pair.serialize_pem(), pair.public_key_pem()));
    let [p256, p384, ed25519] = &texts;
    let rsa_pkcs8 = {
        let PrivateKeyDer::Pkcs1(key) = PrivateKeyDer::from_pem_slice(RSA.as_bytes()).unwrap() else { panic!() };
        pem("PRIVATE KEY", &pkcs8(KeyFamily::Rsa, key.secret_pkcs1_der()))
    };
    let pairs = [
        (&["RS256", "RS384", "RS512", "PS256", "PS384", "PS512"][..], RSA, RSA_PUBLIC),
        (&["RS256"], &rsa_pkcs8, RSA_PUBLIC),
        (&["ES256"], &p256.0, &p256.1),
        (&["ES384"], &p384.0, &p384.1),
        (&["EdDSA"], &ed25519.0, &ed25519.1),
    ];
    let expected = Some(Caller { username: "u".to_owned(), auth_revision: 7 });
    for (methods, private, public) in pairs {
        for method in methods {
            let both = open(method, Some(private), Some(public), MINUTE).unwrap();
            let token = both.sign("u", 7).unwrap();
            assert_eq!(both.verify(&token), expected, "{method}");
            let signer = open(method, Some(private), None, MINUTE).unwrap();
            assert_eq!(signer.verify(&token), expected, "{method}, public key derived");
            let verifier = open(method, None, Some(public), MINUTE).unwrap();
            assert_eq!(verifier.verify(&signer.sign("u", 7).unwrap()), expected, "{method}, public key alone");
            assert_eq!(verifier.sign("u", 7), Err(TokenError::VerifyOnly));
        }
    }
    for method in ["HS256", "HS384", "HS512"] {
        let jwt = open(method, Some("a secret"), None, MINUTE).unwrap();
        assert_eq!(jwt.verify(&jwt.sign("u", 7).unwrap()), expected, "{method}");
    }
    let sec1 = open("ES256", Some(EC), None, MINUTE).unwrap();
    assert_eq!(sec1.verify(&sec1.sign("u", 7).unwrap()), expected);
}

#[test]
fn a_token_that_is_not_right_is_nobodys() {
    let jwt = open("HS256", Some("a secret"), None, MINUTE).unwrap();
    let token = jwt.sign("u", 7).unwrap();
    let other = open("HS256", Some("another"), None, MINUTE).unwrap();
    let longer = open("HS512", Some("a secret"), None, MINUTE).unwrap();
    assert_eq!((other.verify(&token), longer.verify(&token)), (None, None));
    let [header, claims, signature] = token.split('.').collect::<Vec<_>>()[..] else { panic!("{token}") };
    let claims = URL_SAFE_NO_PAD.decode(claims).unwrap();
    let claims = URL_SAFE_NO_PAD.encode(String::from_utf8(claims).unwrap().replace("\"u\"", "\"root\""));
    assert_eq!(jwt.verify(&format!("{header}.{claims}.{signature}")), None);
    let unsigned = URL_SAFE_NO_PAD.encode("{\"alg\":\"none\"}");
    for token in [&format!("{unsigned}.{claims}."), "", "a.b.c", "token.12"] {
        assert_eq!(jwt.verify(token), None, "{token}");
    }
}

#[test]
fn claims_decide() {
    let jwt = open("HS256", Some("a secret"), None, MINUTE).unwrap();
    let key = EncodingKey::from_secret(b"a secret");
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    for (claims, valid) in [
        (json!({"username": "u", "revision": 7}), true),
        (json!({"username": "u", "revision": 7, "exp": now + 9}), true),
        (json!({"username": "u", "revision": 7, "exp": now - 2}), false),
        (json!({"username": "u", "revision": 7, "nbf": now + 9}), false),
        (json!({"username": "u", "revision": "7"}), false),
        (json!({"username": 1, "revision": 7}), false),
        (json!({"username": "u"}), false),
    ] {
        let token = jsonwebtoken::encode(&Header::new(Algorithm::HS256), &claims, &key).unwrap();
        assert_eq!(jwt.verify(&token).is_some(), valid, "{claims}");
    }
}

#[test]
fn keys_that_do_not_fit_are_found_at_the_start() {
    let p256 = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap();
    let other = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap();
    let (private, public) = (p256.serialize_pem(), other.public_key_pem());
    for (method, private, public, hint) in [
        ("ES256", Some(private.as_str()), Some(public.as_str()), "do not belong together"),
        ("ES384", Some(&private), None, "holds no key for ES384"),
        ("RS256", Some(&private), None, "holds no key for RS256"),
        ("RS256", None, None, "needs priv-key or pub-key"),
        ("RS256", None, Some("nonsense"), "holds no key"),
        ("HS256", None, None, "needs priv-key"),
        ("HS256", Some(""), None, "needs priv-key"),
        ("", Some(&private), None, "sign-method"),
        ("none", Some(&private), None, "sign-method"),
        ("ES512", Some(&private), None, "sign-method"),
    ] {
        let error = open(method, private, public, MINUTE).err().map(|error| error.to_string()).unwrap_or_default();
        assert!(error.contains(hint), "{method}: {error:?}");
    }
}

proptest! {
    #![proptest_config(cases(400))]

    /// Its header and claims are any JSON, or none; its signature is right, or damaged as the whole token is.
    #[test]
    fn a_damaged_token_is_nobodys(damage in prop::collection::vec(Damage::any(), 1..3)) {
        let jwt = open("HS256", Some("a secret"), None, MINUTE).unwrap();
        let token = jwt.sign("u", 7).unwrap();
        let mut bytes = token.clone().into_bytes();
        damage.into_iter().for_each(|damage| damage.strike(&mut bytes));
        let damaged = String::from_utf8_lossy(&bytes);
        prop_assert!(jwt.verify(&damaged).is_none() || damaged == token);
    }

    #[test]
    fn claims_of_any_kind_are_read_or_refused(name in claim(), revision in claim(), end in claim()) {
        let jwt = open("HS256", Some("a secret"), None, MINUTE).unwrap();
        let claims = json!({ "username": name, "revision": revision, "exp": end });
        let token = jsonwebtoken::encode(&Header::new(jwt.algorithm), &claims, jwt.signing.as_ref().unwrap()).unwrap();
        if let Some(caller) = jwt.verify(&token) {
            prop_assert_eq!(Some(caller.username.as_str()), name.as_str());
            prop_assert!(revision.is_number());
        }
    }
}

/// The values that break things, and others.
fn claim() -> impl Strategy<Value = Value> {
    prop_oneof![
        any::<i64>().prop_map(Value::from),
        any::<u64>().prop_map(Value::from),
        prop::num::f64::ANY.prop_map(Value::from),
        ".{0,8}".prop_map(Value::from),
        Just(json!("u")),
        Just(Value::Null),
        Just(json!([{ "u": [1e300, -1, true] }])),
    ]
}
