//! When a certificate begins and ends: the validity of an X.509 certificate, read from its PEM text.
//!
//! The rest of it is for those who use it. Files of the node's user are read with this, so every length is checked.

use crate::calendar;

/// Beginning and end, seconds since the epoch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Validity {
    /// `notBefore`.
    pub begins: u64,
    /// `notAfter`.
    pub ends: u64,
}

/// The validity of the first certificate in a PEM text; `None` if there is none that can be read.
///
/// Source: RFC 5280, 4.1 "Basic Certificate Fields"; RFC 7468.
#[must_use]
pub fn validity(pem: &str) -> Option<Validity> {
    let (_, rest) = pem.split_once("-----BEGIN CERTIFICATE-----")?;
    let (body, _) = rest.split_once("-----END CERTIFICATE-----")?;
    let der = base64(body)?;
    let certificate = Der(&der).take(SEQUENCE)?.0;
    let mut fields = Der(certificate).take(SEQUENCE).map(|(tbs, _)| Der(tbs))?;
    if let Some((_, rest)) = fields.take(VERSION) {
        fields = Der(rest);
    }
    for tag in [INTEGER, SEQUENCE, SEQUENCE] {
        fields = Der(fields.take(tag)?.1);
    }
    let (begins, rest) = time(Der(fields.take(SEQUENCE)?.0))?;
    let (ends, _) = time(Der(rest))?;
    Some(Validity { begins, ends })
}

/// The first certificate in a kubeconfig, as PEM: the client's.
#[must_use]
pub fn of_kubeconfig(text: &str) -> Option<String> {
    let value = |line: &str| {
        let line = line.trim().trim_start_matches("- ").trim_start_matches('"');
        let value =
            line.strip_prefix("client-certificate-data")?.trim_start_matches('"').strip_prefix(':')?;
        base64(value.trim().trim_end_matches(',').trim_matches('"'))
    };
    String::from_utf8(text.lines().find_map(value)?).ok()
}

const SEQUENCE: u8 = 0x30;
const INTEGER: u8 = 0x02;
/// `[0] EXPLICIT`.
const VERSION: u8 = 0xa0;
const UTC_TIME: u8 = 0x17;
const GENERALIZED_TIME: u8 = 0x18;

/// A row of elements in distinguished encoding.
#[derive(Clone, Copy)]
struct Der<'a>(&'a [u8]);

impl<'a> Der<'a> {
    /// The content of the first element, which must have this tag, and what follows it.
    fn take(self, tag: u8) -> Option<(&'a [u8], &'a [u8])> {
        let (first, rest) = self.0.split_first()?;
        let (length, rest) = rest.split_first()?;
        let (length, rest) = match *length {
            short @ 0..=0x7f => (usize::from(short), rest),
            long @ 0x81..=0x84 => {
                let (digits, rest) = rest.split_at_checked(usize::from(long & 0x7f))?;
                (digits.iter().fold(0_usize, |sum, digit| sum << 8 | usize::from(*digit)), rest)
            }
            _ => return None,
        };
        (*first == tag).then(|| rest.split_at_checked(length)).flatten()
    }
}

/// `YYMMDDHHMMSSZ`, with years from 1950 to 2049, or `YYYYMMDDHHMMSSZ`, and what follows.
fn time(der: Der<'_>) -> Option<(u64, &[u8])> {
    let (text, rest, short) = match der.take(UTC_TIME) {
        Some((text, rest)) => (text, rest, true),
        None => der.take(GENERALIZED_TIME).map(|(text, rest)| (text, rest, false))?,
    };
    let digits = std::str::from_utf8(text).ok()?.strip_suffix('Z')?;
    let (year, rest_of) = digits.split_at_checked(if short { 2 } else { 4 })?;
    let year: u64 = year.parse().ok()?;
    let year = match (short, year) {
        (true, 0..50) => 2000 + year,
        (true, _) => 1900 + year,
        (false, _) => year,
    };
    let number = |at: usize| rest_of.get(at..at + 2)?.parse::<u64>().ok();
    let (month, day) = (number(0)?, number(2)?);
    if rest_of.len() != 10 || year < 1970 || !(1..=12).contains(&month) || !(1..=31).contains(&day) {
        return None;
    }
    let clock = number(4)? * 3600 + number(6)? * 60 + number(8)?;
    Some((calendar::days(year, month, day) * 86_400 + clock, rest))
}

/// Source: RFC 4648, 4.
fn base64(text: &str) -> Option<Vec<u8>> {
    let (mut bytes, mut bits, mut count) = (Vec::new(), 0_u32, 0_u32);
    for byte in text.bytes().filter(|byte| !byte.is_ascii_whitespace()) {
        let six = match byte {
            b'A'..=b'Z' => byte - b'A',
            b'a'..=b'z' => byte - b'a' + 26,
            b'0'..=b'9' => byte - b'0' + 52,
            b'+' => 62,
            b'/' => 63,
            b'=' => continue,
            _ => return None,
        };
        (bits, count) = (bits << 6 | u32::from(six), count + 6);
        if count >= 8 {
            count -= 8;
            bytes.push(u8::try_from(bits >> count & 0xff).ok()?);
        }
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Made by: openssl ca -selfsign -startdate 20260102030405Z -enddate 20270203040506Z, of an ed25519 key
    const PEM: &str = "\
-----BEGIN CERTIFICATE-----\n\
MIG+MHICAQEwBQYDK2VwMAwxCjAIBgNVBAMMAXgwHhcNMjYwMTAyMDMwNDA1WhcN\n\
MjcwMjAzMDQwNTA2WjAMMQowCAYDVQQDDAF4MCowBQYDK2VwAyEA3O14YBiDPN7a\n\
zXir8LwFCxvRoPtI81EqTz0TwpNITCMwBQYDK2VwA0EA/iYPd3y98mvuJl0CNK5p\n\
QuU6Qw1vKu8pUk5gyWWjuhfZa0HuMsgigPAYfHr9xRlocHscp9N81rvc6qZLqtZU\n\
Ag==\n\
-----END CERTIFICATE-----";

    #[test]
    fn the_validity_of_a_certificate_is_read() {
        let Validity { begins, ends } = validity(&format!("text before\n{PEM}\nafter")).unwrap();
        assert_eq!(
            (calendar::rfc3339(begins), calendar::rfc3339(ends)),
            ("2026-01-02T03:04:05Z".into(), "2027-02-03T04:05:06Z".into())
        );
    }

    #[test]
    fn every_cut_and_every_changed_byte_is_read_without_harm() {
        for end in 0..PEM.len() {
            let _ = validity(&PEM[..end]);
            let mut bytes = PEM.as_bytes().to_vec();
            for byte in [0, b'A', b'/', 0x7f] {
                bytes[end] = byte;
                let _ = validity(&String::from_utf8_lossy(&bytes));
            }
        }
        assert_eq!(validity("-----BEGIN CERTIFICATE-----\nMIL///8=\n-----END CERTIFICATE-----"), None);
    }

    #[test]
    fn the_clients_certificate_of_a_kubeconfig_is_found_in_yaml_and_in_json() {
        let blob = "LS0tLS1CRUdJTg==";
        for text in [
            format!("users:\n- name: a\n  user:\n    client-certificate-data: {blob}\n"),
            format!("{{\"user\": {{\n  \"client-certificate-data\": \"{blob}\",\n}}}}"),
        ] {
            assert_eq!(of_kubeconfig(&text).unwrap(), "-----BEGIN");
        }
        assert_eq!(of_kubeconfig("client-certificate-data: ?\n"), None);
    }
}
