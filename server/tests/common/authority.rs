//! Certificates for tests.
#![allow(dead_code)]

use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationList, CertificateRevocationListParams, CertifiedIssuer,
    DnType, ExtendedKeyUsagePurpose, IsCa, KeyIdMethod, KeyPair, KeyUsagePurpose, RevokedCertParams, SerialNumber,
    date_time_ymd,
};

/// What a certificate says.
#[derive(Debug, Clone)]
pub struct Leaf {
    pub common_name: &'static str,
    /// Host names and addresses.
    pub names: Vec<String>,
    pub serial: u64,
    /// First and last year.
    pub years: (i32, i32),
    pub usages: Vec<ExtendedKeyUsagePurpose>,
}

impl Leaf {
    /// One for servers and clients, valid for long.
    pub fn new(common_name: &'static str, names: &[&str]) -> Self {
        Leaf {
            common_name,
            names: names.iter().map(|name| name.to_string()).collect(),
            serial: 7,
            years: (2020, 4000),
            usages: vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth],
        }
    }

    fn params(&self) -> CertificateParams {
        let mut params = CertificateParams::new(self.names.clone()).expect("names");
        params.distinguished_name = Default::default();
        if !self.common_name.is_empty() {
            params.distinguished_name.push(DnType::CommonName, self.common_name);
        }
        params.serial_number = Some(SerialNumber::from(self.serial));
        params.not_before = date_time_ymd(self.years.0, 1, 1);
        params.not_after = date_time_ymd(self.years.1, 1, 1);
        params.extended_key_usages = self.usages.clone();
        params
    }
}

/// A certificate and its key, in PEM.
#[derive(Debug, Clone)]
pub struct Pair {
    pub cert: String,
    pub key: String,
}

/// One that signed itself, as an authority does.
pub fn self_signed(leaf: &Leaf) -> Pair {
    let key = KeyPair::generate().expect("a key");
    let mut params = leaf.params();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    Pair { cert: params.self_signed(&key).expect("signed").pem(), key: key.serialize_pem() }
}

/// Who signs.
pub struct Authority(CertifiedIssuer<'static, KeyPair>);

impl Authority {
    pub fn new(name: &str) -> Self {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        Authority(CertifiedIssuer::self_signed(params, KeyPair::generate().expect("a key")).expect("signed"))
    }

    pub fn pem(&self) -> String {
        self.0.pem()
    }

    pub fn issue(&self, leaf: &Leaf) -> Pair {
        let key = KeyPair::generate().expect("a key");
        Pair { cert: leaf.params().signed_by(&key, &self.0).expect("signed").pem(), key: key.serialize_pem() }
    }

    /// A revocation list that has long expired.
    pub fn revoke(&self, serials: &[u64]) -> CertificateRevocationList {
        let revoked = serials.iter().map(|serial| RevokedCertParams {
            serial_number: SerialNumber::from(*serial),
            revocation_time: date_time_ymd(2020, 1, 1),
            reason_code: None,
            invalidity_date: None,
        });
        let list = CertificateRevocationListParams {
            this_update: date_time_ymd(2020, 1, 1),
            next_update: date_time_ymd(2020, 2, 1),
            crl_number: SerialNumber::from(1u64),
            issuing_distribution_point: None,
            revoked_certs: revoked.collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        list.signed_by(&self.0).expect("signed")
    }
}
