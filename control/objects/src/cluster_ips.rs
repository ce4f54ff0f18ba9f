//! The cluster IPs of a Service in one or both address families: which families it gets, and which addresses. Pure.
//!
//! The rules are those of KEP-563 for a cluster with both families and IPv4 first: without a wish a Service has one IPv4
//! address, `PreferDualStack` and `RequireDualStack` mean both families here, and the order of `ipFamilies` and
//! `clusterIPs` is the user's.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use api::Cause;
use serde_json::{Value, json};

use crate::allocate::Others;

/// The Service networks: `10.43.0.0/16` and `fd43::/112`. Offsets are the last 16 bits of both.
const V4_NETWORK: u32 = u32::from_be_bytes([10, 43, 0, 0]);
const V6_NETWORK: u128 = 0xfd43 << 112;
/// The first 256 offsets are for those who ask for one; they are given away last (KEP-3070).
const ASKED_FOR: u32 = 256;
/// One behind the last offset that is given away: neither end of a network is.
const END: u32 = 0xffff;
/// The offsets of the API server's and of the DNS Service.
const RESERVED: [u32; 2] = [1, 10];

const SINGLE: &str = "SingleStack";
const PREFER: &str = "PreferDualStack";
const REQUIRE: &str = "RequireDualStack";
const FIELDS: [&str; 3] = ["spec.ipFamilyPolicy", "spec.ipFamilies", "spec.clusterIPs"];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Family {
    V4,
    V6,
}

impl Family {
    fn of(ip: IpAddr) -> Self {
        if ip.is_ipv4() { Self::V4 } else { Self::V6 }
    }

    fn named(name: &str) -> Option<Self> {
        match name {
            "IPv4" => Some(Self::V4),
            "IPv6" => Some(Self::V6),
            _ => None,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::V4 => "IPv4",
            Self::V6 => "IPv6",
        }
    }

    fn other(self) -> Self {
        match self {
            Self::V4 => Self::V6,
            Self::V6 => Self::V4,
        }
    }

    fn network(self) -> &'static str {
        match self {
            Self::V4 => "10.43.0.0/16",
            Self::V6 => "fd43::/112",
        }
    }

    fn address(self, offset: u32) -> IpAddr {
        match self {
            Self::V4 => Ipv4Addr::from_bits(V4_NETWORK + offset).into(),
            Self::V6 => Ipv6Addr::from_bits(V6_NETWORK + u128::from(offset)).into(),
        }
    }

    /// An address' place in the network of its family.
    fn offset(ip: IpAddr) -> Option<u32> {
        let offset = match ip {
            IpAddr::V4(ip) => ip.to_bits().checked_sub(V4_NETWORK),
            IpAddr::V6(ip) => ip.to_bits().checked_sub(V6_NETWORK).and_then(|offset| u32::try_from(offset).ok()),
        };
        offset.filter(|offset| (1..END).contains(offset))
    }
}

fn texts(list: &Value) -> Vec<String> {
    list.as_array().into_iter().flatten().filter_map(|text| text.as_str().map(str::to_owned)).collect()
}

/// Fills in `ipFamilyPolicy`, `ipFamilies`, `clusterIP` and `clusterIPs`. What `others` have is taken; the first `skip`
/// addresses that are free are left to others still.
pub(crate) fn assign(others: Others<'_>, spec: &mut Value, skip: usize) -> Result<(), Vec<Cause>> {
    let mut asked = texts(&spec["clusterIPs"]);
    let first = spec["clusterIP"].as_str().filter(|ip| !ip.is_empty()).map(str::to_owned);
    if asked.is_empty() {
        asked.extend(first);
    } else if first.is_some_and(|first| first != asked[0]) {
        let why = "must match the value in the first element of clusterIPs";
        return Err(vec![Cause::invalid("spec.clusterIP", &spec["clusterIP"], why)]);
    }
    let headless = asked.first().is_some_and(|ip| ip == "None");
    let families = families(spec, if headless { &[] } else { &asked }, headless)?;
    spec["ipFamilies"] = families.iter().map(|family| family.name()).collect();
    if headless {
        spec["clusterIP"] = json!("None");
        spec["clusterIPs"] = json!(["None"]);
        return Ok(());
    }
    let mut addresses = Vec::new();
    for (index, family) in families.iter().enumerate() {
        addresses.push(choose(*family, asked.get(index).map(String::as_str), others, skip)?.to_string());
    }
    spec["clusterIP"] = json!(addresses[0]);
    spec["clusterIPs"] = json!(addresses);
    Ok(())
}

/// The families in order; writes the policy where there is none.
fn families(spec: &mut Value, asked: &[String], headless: bool) -> Result<Vec<Family>, Vec<Cause>> {
    let wished = texts(&spec["ipFamilies"]);
    let mut families: Vec<Family> = Vec::new();
    for (index, name) in wished.iter().enumerate() {
        let refuse = |why: &str| vec![Cause::invalid(format!("spec.ipFamilies[{index}]"), &json!(name), why)];
        let unknown = || {
            let field = format!("spec.ipFamilies[{index}]");
            vec![Cause::not_supported(field, &json!(name), &["IPv4", "IPv6"])]
        };
        let family = Family::named(name).ok_or_else(unknown)?;
        if families.contains(&family) {
            return Err(refuse("Duplicate value"));
        }
        families.push(family);
    }
    for (index, text) in asked.iter().enumerate() {
        let refuse = |why: &str| vec![Cause::invalid(format!("spec.clusterIPs[{index}]"), &json!(text), why)];
        let ip: IpAddr =
            text.parse().map_err(|_| refuse("must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)"))?;
        match families.get(index) {
            Some(family) if *family != Family::of(ip) => {
                let name = family.name();
                return Err(refuse(&format!("expected an {name} value as indicated by `ipFamilies[{index}]`")));
            }
            Some(_) => {}
            None if families.contains(&Family::of(ip)) => {
                return Err(refuse("may not hold more than one address of a family"));
            }
            None => families.push(Family::of(ip)),
        }
    }
    let selectorless = spec["selector"].as_object().is_none_or(serde_json::Map::is_empty);
    if spec["ipFamilyPolicy"].is_null() || spec["ipFamilyPolicy"] == "" {
        let both = families.len() > 1 || (headless && selectorless && families.is_empty());
        spec["ipFamilyPolicy"] = json!(if both { REQUIRE } else { SINGLE });
    }
    let first = families.first().copied().unwrap_or(Family::V4);
    match spec["ipFamilyPolicy"].as_str() {
        Some(SINGLE) if families.len() > 1 => {
            let many = if wished.len() > 1 { FIELDS[1] } else { FIELDS[2] };
            let why = format!(
                "must be '{REQUIRE}' or '{PREFER}' when multiple '{}' are specified",
                many.trim_start_matches("spec.")
            );
            Err(vec![Cause::invalid(FIELDS[0], &spec["ipFamilyPolicy"], &why)])
        }
        Some(SINGLE) => Ok(vec![first]),
        Some(PREFER | REQUIRE) => Ok(vec![first, first.other()]),
        _ => Err(vec![Cause::not_supported(FIELDS[0], &spec["ipFamilyPolicy"], &[PREFER, REQUIRE, SINGLE])]),
    }
}

/// What an update that turns both families into one leaves: the first of each list, unless the user names others.
pub(crate) fn shorten(before: &Value, spec: &mut Value) {
    if spec["ipFamilyPolicy"] != SINGLE || before["ipFamilyPolicy"] == SINGLE {
        return;
    }
    for field in ["ipFamilies", "clusterIPs"] {
        if spec[field] == before[field]
            && let Some(list) = spec[field].as_array_mut()
        {
            list.truncate(1);
        }
    }
}

fn choose(family: Family, asked: Option<&str>, others: Others<'_>, skip: usize) -> Result<IpAddr, Vec<Cause>> {
    let Some(asked) = asked else {
        let addresses = |offsets: std::ops::Range<u32>| {
            let mut taken = others.addresses_from(family.address(offsets.start)).peekable();
            let all = offsets.filter(|offset| !RESERVED.contains(offset)).map(move |offset| family.address(offset));
            all.filter(move |address| {
                while taken.next_if(|other| other < address).is_some() {}
                taken.peek() != Some(address)
            })
        };
        let free = addresses(ASKED_FOR..END).chain(addresses(1..ASKED_FOR));
        return free.take(skip + 1).last().ok_or_else(|| {
            vec![Cause::invalid(FIELDS[2], &json!([]), "failed to allocate a serviceIP: range is full")]
        });
    };
    let refuse = |why: &str| vec![Cause::invalid(FIELDS[2], &json!([asked]), why)];
    let address: IpAddr = asked.parse().map_err(|_| refuse("must be a valid IP address, (e.g. 10.9.8.7)"))?;
    if Family::offset(address).is_none() {
        let network = family.network();
        let why = format!("failed to allocate IP {address}: the provided IP is not in the valid range {network}");
        return Err(refuse(&why));
    }
    if others.has_address(address) {
        return Err(refuse(&format!("failed to allocate IP {address}: provided IP is already allocated")));
    }
    Ok(address)
}

#[cfg(test)]
mod tests {
    use super::*;
    use api::{ChangeKind, Key, Object, View};
    use std::sync::Arc;

    fn given(spec: &Value) -> Result<Value, String> {
        let mut view = View::default();
        for (number, ips) in [json!(["10.43.1.0", "fd43::100"]), json!(["fd43::7"])].into_iter().enumerate() {
            let key = Key::new("services", "default", format!("other-{number}"));
            let object = Object::new(key, number as u64 + 1, json!({"spec": {"clusterIPs": ips}}));
            view.apply(ChangeKind::Added, &Arc::new(object));
        }
        let mut spec = spec.clone();
        assign(Others { view: &view, own: None }, &mut spec, 0).map_err(|causes| causes[0].message.clone())?;
        assert_eq!(spec["clusterIP"], spec["clusterIPs"][0]);
        Ok(json!([spec["ipFamilyPolicy"], spec["ipFamilies"], spec["clusterIPs"]]))
    }

    #[test]
    fn families_and_addresses_follow_the_wish() {
        let cases = [
            (json!({}), json!([SINGLE, ["IPv4"], ["10.43.1.1"]])),
            (json!({"ipFamilies": ["IPv6"]}), json!([SINGLE, ["IPv6"], ["fd43::101"]])),
            (json!({"ipFamilyPolicy": PREFER}), json!([PREFER, ["IPv4", "IPv6"], ["10.43.1.1", "fd43::101"]])),
            (
                json!({"ipFamilyPolicy": REQUIRE, "ipFamilies": ["IPv6"]}),
                json!([REQUIRE, ["IPv6", "IPv4"], ["fd43::101", "10.43.1.1"]]),
            ),
            (json!({"ipFamilies": ["IPv6", "IPv4"]}), json!([REQUIRE, ["IPv6", "IPv4"], ["fd43::101", "10.43.1.1"]])),
            (json!({"clusterIP": "fd43::9"}), json!([SINGLE, ["IPv6"], ["fd43::9"]])),
            (
                json!({"clusterIPs": ["10.43.0.9", "fd43::9"]}),
                json!([REQUIRE, ["IPv4", "IPv6"], ["10.43.0.9", "fd43::9"]]),
            ),
            (
                json!({"ipFamilyPolicy": PREFER, "clusterIP": "10.43.0.9"}),
                json!([PREFER, ["IPv4", "IPv6"], ["10.43.0.9", "fd43::101"]]),
            ),
            (json!({"clusterIP": "None", "selector": {"a": "b"}}), json!([SINGLE, ["IPv4"], ["None"]])),
            (json!({"clusterIP": "None"}), json!([REQUIRE, ["IPv4", "IPv6"], ["None"]])),
            (
                json!({"clusterIP": "None", "ipFamilyPolicy": PREFER, "selector": {"a": "b"}}),
                json!([PREFER, ["IPv4", "IPv6"], ["None"]]),
            ),
        ];
        for (spec, expected) in cases {
            assert_eq!(given(&spec).as_ref(), Ok(&expected), "{spec}");
        }
    }

    #[test]
    fn contradictions_are_refused_in_words() {
        let cases = [
            (json!({"ipFamilyPolicy": SINGLE, "ipFamilies": ["IPv4", "IPv6"]}), "when multiple 'ipFamilies'"),
            (json!({"ipFamilyPolicy": SINGLE, "clusterIPs": ["10.43.0.9", "fd43::9"]}), "when multiple 'clusterIPs'"),
            (json!({"ipFamilies": ["IPv4", "IPv4"]}), "Duplicate value"),
            (json!({"ipFamilies": ["IPX"]}), "Unsupported value"),
            (json!({"ipFamilyPolicy": "Both"}), "Unsupported value"),
            (json!({"ipFamilies": ["IPv4"], "clusterIP": "fd43::9"}), "expected an IPv4 value"),
            (json!({"clusterIPs": ["10.43.0.9", "10.43.0.8"]}), "more than one address of a family"),
            (json!({"clusterIP": "10.43.0.8", "clusterIPs": ["10.43.0.9"]}), "must match the value in the first"),
            (json!({"clusterIP": "fd43::7"}), "already allocated"),
            (json!({"clusterIP": "fd43::1:7"}), "not in the valid range fd43::/112"),
            (json!({"clusterIP": "fd42::7"}), "not in the valid range fd43::/112"),
            (json!({"clusterIP": "10.44.0.1"}), "not in the valid range 10.43.0.0/16"),
            (json!({"clusterIP": "what"}), "must be a valid IP address"),
        ];
        for (spec, expected) in cases {
            let said = given(&spec).unwrap_err();
            assert!(said.contains(expected), "{spec}: {said}");
        }
    }

    #[test]
    fn going_back_to_one_family_keeps_the_first() {
        let before =
            json!({"ipFamilyPolicy": PREFER, "ipFamilies": ["IPv6", "IPv4"], "clusterIPs": ["fd43::9", "10.43.0.9"]});
        let mut spec =
            json!({"ipFamilyPolicy": SINGLE, "ipFamilies": ["IPv6", "IPv4"], "clusterIPs": ["fd43::9", "10.43.0.9"]});
        shorten(&before, &mut spec);
        assert_eq!((&spec["ipFamilies"], &spec["clusterIPs"]), (&json!(["IPv6"]), &json!(["fd43::9"])));
    }
}
