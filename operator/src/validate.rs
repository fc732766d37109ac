//! Checks a stored resource by the rules of the definition once more: it may be older than a rule, and CEL rules cannot name the
//! very entry that is wrong.

use crate::crd::{EtcdCluster, MAX_NAME_LENGTH, MAX_SIZE, MIN_VALIDITY, OWNED_FLAGS, StorageSpec, bytes, seconds};

/// Everything that is wrong with a resource, each with the field's name; empty when nothing is.
pub fn validate(cluster: &EtcdCluster) -> Vec<String> {
    let mut problems = Vec::new();
    let name = cluster.metadata.name.as_deref().unwrap_or_default();
    let spec = &cluster.spec;
    if name.len() > MAX_NAME_LENGTH || !is_dns_label(name) {
        problems.push(format!(
            "metadata.name: {name:?} must have at most {MAX_NAME_LENGTH} lower-case letters, digits and dashes, a letter first"
        ));
    }
    if spec.size < 0 || spec.size > MAX_SIZE {
        problems.push(format!("spec.size: {} is not between 0 and {MAX_SIZE}", spec.size));
    }
    if spec.image.is_some() && spec.version.is_some() {
        problems.push("spec.version: spec.image already names a version".into());
    }
    if bytes(&spec.storage.size).is_none_or(|bytes| bytes == 0.0) {
        let size = &spec.storage.size;
        problems.push(format!("spec.storage.size: {size:?} is not a size such as 8Gi"));
    }
    problems.extend(memory(cluster));
    for (field, time) in [("after", &spec.repair.after), ("window", &spec.repair.window)] {
        if seconds(time).is_none() {
            problems.push(format!("spec.repair.{field}: {time:?} is not a time such as 10m"));
        }
    }
    if seconds(&spec.rollout.progress_deadline).is_none() {
        let time = &spec.rollout.progress_deadline;
        problems.push(format!("spec.rollout.progressDeadline: {time:?} is not a time such as 10m"));
    }
    problems.extend(tls(cluster));
    for flag in spec.options.keys() {
        if let Some(owned) = OWNED_FLAGS.iter().find(|owned| owned.flag == flag) {
            let source = owned.source;
            problems.push(format!("spec.options.{flag}: the operator sets it, it follows from {source}"));
        } else if !is_flag(flag) {
            problems.push(format!("spec.options.{flag}: a flag is written without dashes in front"));
        }
    }
    problems
}

fn memory(cluster: &EtcdCluster) -> Vec<String> {
    let spec = &cluster.spec;
    let StorageSpec { size, storage_class_name, access_modes, .. } = &spec.storage;
    let mut problems = Vec::new();
    if !spec.in_memory() {
        return problems;
    }
    if spec.size == 0 {
        problems.push("spec.size: nothing would be left of data in memory".into());
    }
    if storage_class_name.is_some() {
        problems
            .push("spec.storage.storageClassName: there are no volume claims with spec.storage.medium Memory".into());
    }
    if *access_modes != StorageSpec::default().access_modes {
        problems.push("spec.storage.accessModes: there are no volume claims with spec.storage.medium Memory".into());
    }
    let limits = spec.resources.as_ref().and_then(|resources| resources.limits.as_ref());
    let limit = limits.and_then(|limits| limits.get("memory")).map(|limit| limit.0.as_str());
    if let Some(limit) = limit.filter(|limit| bytes(limit) <= bytes(size)) {
        problems.push(format!(
            "spec.resources.limits.memory: {limit} has no room for the data ({size}) beside the process"
        ));
    }
    problems
}

fn tls(cluster: &EtcdCluster) -> Vec<String> {
    let mut problems = Vec::new();
    let Some(tls) = &cluster.spec.tls else {
        return problems;
    };
    if tls.issuer_ref.is_some() && tls.secrets.is_some() {
        problems.push("spec.tls.secrets: spec.tls.issuerRef names another source of certificates".into());
    }
    let times =
        [("validity", &tls.validity), ("authority.validity", &tls.authority.validity), ("overlap", &tls.overlap)];
    for (field, time) in times {
        if seconds(time).is_none() {
            problems.push(format!("spec.tls.{field}: {time:?} is not a time such as 24h"));
        }
    }
    if tls.validity_seconds() < MIN_VALIDITY {
        problems.push(format!("spec.tls.validity: {:?} is less than {MIN_VALIDITY}s", tls.validity));
    }
    if tls.issuer_ref.is_some() && !tls.validity.ends_with('h') {
        problems.push("spec.tls.validity: it is in hours with spec.tls.issuerRef".into());
    }
    if tls.validity_seconds() >= tls.authority_seconds() {
        problems.push("spec.tls.validity: it must be shorter than spec.tls.authority.validity".into());
    }
    problems
}

fn is_dns_label(name: &str) -> bool {
    let inner = |byte: &u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || *byte == b'-';
    name.starts_with(|first: char| first.is_ascii_lowercase())
        && !name.ends_with('-')
        && name.as_bytes().iter().all(inner)
}

fn is_flag(flag: &str) -> bool {
    let inner = |byte: &u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || *byte == b'-';
    flag.starts_with(|first: char| first.is_ascii_lowercase()) && flag.as_bytes().iter().all(inner)
}

#[cfg(test)]
mod tests;
