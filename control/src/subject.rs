//! Subjects of certificates as X.509 has them: a list, in which a type may come more than once. Kubernetes reads every
//! organisation as a group; the encoder of our certificates keeps one value per type. So a subject is read and written
//! here, and put into a certificate before it is signed.

use rcgen::{Certificate, Issuer, KeyPair, SigningKey as _};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, CertificateSigningRequestDer};
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::prelude::FromDer as _;
use yasna::models::ObjectIdentifier;
use yasna::{ASN1Error, ASN1ErrorKind, DERWriter};

use crate::pki::PkiError;

/// A type of attribute, by its last number under 2.5.4 (RFC 5280, appendix A.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Attribute {
    CommonName = 3,
    Country = 6,
    Organization = 10,
    OrganizationalUnit = 11,
}

/// A subject, DER.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Subject(Vec<u8>);

impl Subject {
    /// A subject of these attributes, in this order. Kubernetes' own certificates have the common name last.
    pub(crate) fn new<'a>(attributes: impl IntoIterator<Item = (Attribute, &'a str)>) -> Self {
        let write = |writer: DERWriter<'_>, (kind, text): (Attribute, &str)| {
            writer.write_sequence(|writer| {
                writer.next().write_oid(&ObjectIdentifier::from_slice(&[2, 5, 4, kind as u64]));
                match kind {
                    // Two letters, which have to be printable.
                    Attribute::Country => writer.next().write_printable_string(text),
                    _ => writer.next().write_utf8_string(text),
                }
            });
        };
        Self(yasna::construct_der(|writer| {
            writer.write_sequence_of(|writer| {
                for attribute in attributes {
                    writer.next().write_set_of(|writer| write(writer.next(), attribute));
                }
            });
        }))
    }

    /// What a request (PKCS #10, PEM) asks for, as it stands there. Its signature is not looked at.
    pub(crate) fn asked(request_pem: &str) -> Result<Self, PkiError> {
        let der = CertificateSigningRequestDer::from_pem_slice(request_pem.as_bytes()).map_err(unreadable)?;
        let (_, request) = X509CertificationRequest::from_der(&der).map_err(unreadable)?;
        Ok(Self(request.certification_request_info.subject.as_raw().to_vec()))
    }

    /// The values of a type, in order; those that are no text are left out.
    pub(crate) fn all(&self, kind: Attribute) -> Vec<String> {
        let Ok((_, name)) = x509_parser::x509::X509Name::from_der(&self.0) else { return Vec::new() };
        let number = [2, 5, 4, kind as u64];
        let of_kind = |oid: &x509_parser::oid_registry::Oid<'_>| oid.iter().is_some_and(|arcs| arcs.eq(number));
        let found = name.iter_attributes().filter(|attribute| of_kind(attribute.attr_type()));
        found.filter_map(|attribute| attribute.as_str().ok()).map(str::to_owned).collect()
    }

    /// The subject of a certificate (PEM).
    pub(crate) fn of(certificate_pem: &str) -> Result<Self, PkiError> {
        let der = CertificateDer::from_pem_slice(certificate_pem.as_bytes()).map_err(unreadable)?;
        let (_, read) = x509_parser::parse_x509_certificate(&der).map_err(unreadable)?;
        Ok(Self(read.subject().as_raw().to_vec()))
    }

    /// A certificate that an authority (its own certificate, PEM) has made, with this subject instead of its own; PEM.
    pub(crate) fn certify_by(
        &self,
        made: &Certificate,
        authority_pem: &str,
        issuer: &Issuer<'_, KeyPair>,
    ) -> Result<String, PkiError> {
        self.certify(made, &Self::of(authority_pem)?, issuer.key())
    }

    /// A certificate with this subject instead of its own, by an issuer of exactly this name; PEM.
    pub(crate) fn certify(&self, made: &Certificate, by: &Subject, key: &KeyPair) -> Result<String, PkiError> {
        let [body, algorithm, _] = elements(made.der())?;
        let mut fields = yasna::parse_der(&body, |reader| reader.collect_sequence_of(|reader| reader.read_der()))?;
        // Version 3, serial number, algorithm, issuer, validity, subject (RFC 5280 §4.1).
        let [_, _, _, issuer, _, subject, ..] = &mut fields[..] else {
            return Err(ASN1Error::new(ASN1ErrorKind::Invalid).into());
        };
        (*issuer, *subject) = (by.0.clone(), self.0.clone());
        let body = yasna::construct_der(|writer| {
            writer.write_sequence_of(|writer| fields.iter().for_each(|field| writer.next().write_der(field)));
        });
        let signature = key.sign(&body)?;
        let whole = yasna::construct_der(|writer| {
            writer.write_sequence(|writer| {
                writer.next().write_der(&body);
                writer.next().write_der(&algorithm);
                writer.next().write_bitvec_bytes(&signature, signature.len() * 8);
            });
        });
        Ok(crate::pki::certificate_pem(&whole))
    }
}

fn unreadable(error: impl std::fmt::Display) -> PkiError {
    PkiError::Unreadable(error.to_string())
}

/// The three parts of a certificate: what is signed, how, and the signature.
fn elements(certificate: &[u8]) -> Result<[Vec<u8>; 3], ASN1Error> {
    yasna::parse_der(certificate, |reader| {
        reader.read_sequence(|reader| {
            Ok([reader.next().read_der()?, reader.next().read_der()?, reader.next().read_der()?])
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use rcgen::{BasicConstraints, CertificateParams, IsCa};
    use rustls::client::WebPkiServerVerifier;
    use rustls::client::danger::ServerCertVerifier as _;
    use rustls::pki_types::{ServerName, UnixTime};
    use std::sync::Arc;

    #[test]
    fn every_value_of_a_type_is_kept_and_the_signature_holds() {
        let attributes = [
            (Attribute::Country, "NO"),
            (Attribute::Organization, "team"),
            (Attribute::Organization, "øvrige"),
            (Attribute::OrganizationalUnit, "whales"),
            (Attribute::CommonName, "anna"),
        ];
        let subject = Subject::new(attributes);
        assert_eq!(subject.all(Attribute::Organization), ["team", "øvrige"]);
        assert_eq!(subject.all(Attribute::CommonName), ["anna"]);

        // An authority whose own name has two of a type: what it signs has to name it exactly.
        let (authority_key, key) = (KeyPair::generate().unwrap(), KeyPair::generate().unwrap());
        let authority = Subject::new([(Attribute::Organization, "one"), (Attribute::Organization, "two")]);
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let own = params.self_signed(&authority_key).unwrap();
        let own = authority.certify(&own, &authority, &authority_key).unwrap();
        assert_eq!(Subject::of(&own).unwrap(), authority);
        let issuer = Issuer::from_ca_cert_pem(&own, authority_key).unwrap();
        let params = CertificateParams::new(["a.test".to_owned()]).unwrap();
        let pem = subject.certify_by(&params.signed_by(&key, &issuer).unwrap(), &own, &issuer).unwrap();

        let (_, pem) = x509_parser::pem::parse_x509_pem(pem.as_bytes()).unwrap();
        let certificate = pem.parse_x509().unwrap();
        assert_eq!(certificate.subject_alternative_name().unwrap().unwrap().value.general_names.len(), 1);
        assert_eq!(certificate.issuer().as_raw(), authority.0);
        assert_eq!(certificate.subject().as_raw(), subject.0);
        // The signature is checked as a client checks it.
        let mut roots = rustls::RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(own.as_bytes()).unwrap()).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let verifier = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider).build().unwrap();
        let shown = CertificateDer::from(pem.contents.clone());
        let name = ServerName::try_from("a.test").unwrap();
        verifier.verify_server_cert(&shown, &[], &name, &[], UnixTime::now()).unwrap();
    }
}
