//! Volumes as directories below the data directory: claims, emptyDirs, and the files of Secrets, ConfigMaps and the downward API.
//!
//! Files that come from the API are replaced all at once, by the switch of one symbolic link `..data`, as in Kubernetes: a process
//! in the container never sees half of an update.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use k8s_openapi::api::core::v1::{
    ConfigMap, ConfigMapProjection, Container, DownwardAPIVolumeFile, KeyToPath, PersistentVolumeClaim, Pod, Secret,
    SecretProjection, Volume, VolumeMount, VolumeProjection,
};
use kube::ResourceExt;
use kube::runtime::reflector::{ObjectRef, Store};

use super::env::{Data, Lookup, pod_field, quantity};

const DEFAULT_MODE: u32 = 0o644;

/// What volumes are made from.
#[derive(Clone, Debug)]
pub struct Sources {
    /// All Secrets.
    pub secrets: Store<Secret>,
    /// All ConfigMaps.
    pub config_maps: Store<ConfigMap>,
    /// All claims.
    pub claims: Store<PersistentVolumeClaim>,
    /// The token of the machine; that of a pod has namespace and service account behind it.
    pub token: String,
    /// The directory that holds a directory for each bound claim.
    pub claims_directory: PathBuf,
}

/// Secrets and ConfigMaps of one namespace.
#[derive(Debug)]
pub struct InNamespace<'a>(pub &'a Sources, pub &'a str);

impl Lookup for InNamespace<'_> {
    fn config_map(&self, name: &str) -> Option<Data> {
        let map = self.0.config_maps.get(&ObjectRef::new(name).within(self.1))?;
        let text = map.data.iter().flatten().map(|(key, value)| (key.clone(), value.clone().into_bytes()));
        Some(text.chain(map.binary_data.iter().flatten().map(|(key, value)| (key.clone(), value.0.clone()))).collect())
    }
    fn secret(&self, name: &str) -> Option<Data> {
        let secret = self.0.secrets.get(&ObjectRef::new(name).within(self.1))?;
        Some(secret.data.iter().flatten().map(|(key, value)| (key.clone(), value.0.clone())).collect())
    }
}

/// A host path that appears in a container.
#[derive(Clone, Debug, PartialEq)]
pub struct Mount {
    /// On the host.
    pub source: PathBuf,
    /// In the container.
    pub path: String,
    /// Bound read-only.
    pub read_only: bool,
}

/// The name of a claim's directory below the claims directory.
pub fn claim_directory(volume: &str, namespace: &str, claim: &str) -> String {
    format!("{volume}_{namespace}_{claim}")
}

/// A file of an API volume: content and permission bits.
type Files = BTreeMap<String, (Vec<u8>, u32)>;

/// Makes or updates all volumes of a pod and gives their directories by name.
pub fn prepare(pod: &Pod, directory: &Path, sources: &Sources) -> Result<BTreeMap<String, PathBuf>, String> {
    let mut paths = BTreeMap::new();
    let spec = pod.spec.as_ref();
    for volume in spec.into_iter().flat_map(|spec| spec.volumes.iter().flatten()) {
        let path = volume_path(pod, volume, directory, sources)
            .map_err(|error| format!("volume {:?}: {error}", volume.name))?;
        paths.insert(volume.name.clone(), path);
    }
    Ok(paths)
}

fn volume_path(pod: &Pod, volume: &Volume, directory: &Path, sources: &Sources) -> Result<PathBuf, String> {
    let namespace = pod.namespace().unwrap_or_default();
    let path = directory.join(&volume.name);
    if let Some(claim) = &volume.persistent_volume_claim {
        return bound_claim(&namespace, &claim.claim_name, sources);
    }
    if let Some(host_path) = &volume.host_path {
        let path = PathBuf::from(&host_path.path);
        if host_path.type_.as_deref() == Some("DirectoryOrCreate") {
            fs::create_dir_all(&path).map_err(|error| error.to_string())?;
        }
        return Ok(path);
    }
    if let Some(empty_dir) = &volume.empty_dir {
        fs::create_dir_all(&path).map_err(|error| error.to_string())?;
        if empty_dir.medium.as_deref() == Some("Memory") && !is_mounted(&path) {
            mount_memory(&path, empty_dir.size_limit.as_ref().map(|limit| quantity(&limit.0)))?;
        }
        return Ok(path);
    }
    let files = api_files(pod, volume, sources)?;
    let files = files.ok_or("this kind of volume is not supported by keelson-local")?;
    write_files(&path, &files).map_err(|error| error.to_string())?;
    Ok(path)
}

/// A file system in memory, of so many bytes if that is limited; it stays until the pod is removed.
fn mount_memory(path: &Path, bytes: Option<f64>) -> Result<(), String> {
    let size = bytes.map(|bytes| format!(",size={bytes:.0}")).unwrap_or_default();
    let mut mount = Command::new("mount");
    let mounted = mount.args(["-t", "tmpfs", "-o", &format!("mode=0777{size}"), "tmpfs"]).arg(path).output();
    match mounted.map_err(|error| format!("mount: {error}"))? {
        output if output.status.success() => Ok(()),
        output => Err(String::from_utf8_lossy(&output.stderr).trim().to_owned()),
    }
}

fn is_mounted(path: &Path) -> bool {
    let device = |path: &Path| fs::metadata(path).map(|found| found.dev()).ok();
    path.parent().is_some_and(|parent| device(parent) != device(path))
}

/// Gives up the memory of a pod's volumes, which are in this directory.
pub fn unmount_memory(directory: &Path) {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    for path in entries.map(|entry| entry.path()).filter(|path| path.is_dir() && is_mounted(path)) {
        if let Err(error) = Command::new("umount").arg("--lazy").arg(&path).output() {
            tracing::warn!(%error, path = %path.display(), "memory is not given up");
        }
    }
}

fn bound_claim(namespace: &str, name: &str, sources: &Sources) -> Result<PathBuf, String> {
    let claim = sources.claims.get(&ObjectRef::new(name).within(namespace));
    let claim = claim.ok_or_else(|| format!("persistentvolumeclaim {name:?} not found"))?;
    let bound = claim.status.as_ref().is_some_and(|s| s.phase.as_deref() == Some("Bound"));
    let volume = claim.spec.as_ref().and_then(|spec| spec.volume_name.as_deref());
    let volume = volume.filter(|_| bound && claim.metadata.deletion_timestamp.is_none());
    let volume = volume.ok_or_else(|| format!("persistentvolumeclaim {name:?} is not bound"))?;
    let path = sources.claims_directory.join(claim_directory(volume, namespace, name));
    fs::create_dir_all(&path).map_err(|error| error.to_string())?;
    Ok(path)
}

/// The files of a volume that comes from the API; none if it is of another kind.
fn api_files(pod: &Pod, volume: &Volume, sources: &Sources) -> Result<Option<Files>, String> {
    let (projection, mode) = if let Some(secret) = &volume.secret {
        let projection = VolumeProjection {
            secret: Some(SecretProjection {
                name: secret.secret_name.clone().unwrap_or_default(),
                items: secret.items.clone(),
                optional: secret.optional,
            }),
            ..VolumeProjection::default()
        };
        (vec![projection], secret.default_mode)
    } else if let Some(map) = &volume.config_map {
        let projection = VolumeProjection {
            config_map: Some(ConfigMapProjection {
                name: map.name.clone(),
                items: map.items.clone(),
                optional: map.optional,
            }),
            ..VolumeProjection::default()
        };
        (vec![projection], map.default_mode)
    } else if let Some(downward) = &volume.downward_api {
        let mut files = Files::new();
        downward_files(pod, downward.items.as_deref(), downward.default_mode, &mut files)?;
        return Ok(Some(files));
    } else if let Some(projected) = &volume.projected {
        (projected.sources.clone().unwrap_or_default(), projected.default_mode)
    } else {
        return Ok(None);
    };
    let mut files = Files::new();
    for source in &projection {
        project(pod, source, mode, sources, &mut files)?;
    }
    Ok(Some(files))
}

fn project(
    pod: &Pod,
    source: &VolumeProjection,
    mode: Option<i32>,
    sources: &Sources,
    files: &mut Files,
) -> Result<(), String> {
    let namespace = pod.namespace().unwrap_or_default();
    let lookup = InNamespace(sources, &namespace);
    if let Some(secret) = &source.secret {
        let what = format!("secret {:?}", secret.name);
        select(lookup.secret(&secret.name), &secret.items, secret.optional, mode, &what, files)?;
    }
    if let Some(map) = &source.config_map {
        let what = format!("configmap {:?}", map.name);
        select(lookup.config_map(&map.name), &map.items, map.optional, mode, &what, files)?;
    }
    if let Some(downward) = &source.downward_api {
        downward_files(pod, downward.items.as_deref(), mode, files)?;
    }
    if let Some(token) = &source.service_account_token {
        let account = pod.spec.as_ref().and_then(|spec| spec.service_account_name.as_deref()).unwrap_or("default");
        let text = format!("{}.{namespace}.{account}", sources.token);
        files.insert(token.path.clone(), (text.into_bytes(), mode_bits(mode, None)));
    }
    Ok(())
}

/// Adds the keys that `items` picks (or all) of a Secret or ConfigMap.
fn select(
    data: Option<Data>,
    items: &Option<Vec<KeyToPath>>,
    optional: Option<bool>,
    mode: Option<i32>,
    what: &str,
    files: &mut Files,
) -> Result<(), String> {
    let optional = optional == Some(true);
    let Some(data) = data else {
        return if optional { Ok(()) } else { Err(format!("{what} not found")) };
    };
    match items.as_deref().filter(|items| !items.is_empty()) {
        None => {
            files.extend(data.into_iter().map(|(key, value)| (key, (value, mode_bits(mode, None)))));
        }
        Some(items) => {
            for item in items {
                match data.get(&item.key) {
                    Some(value) => {
                        let entry = (value.clone(), mode_bits(mode, item.mode));
                        files.insert(item.path.clone(), entry);
                    }
                    None if optional => {}
                    None => return Err(format!("{what} has no key {:?}", item.key)),
                }
            }
        }
    }
    Ok(())
}

fn downward_files(
    pod: &Pod,
    items: Option<&[DownwardAPIVolumeFile]>,
    mode: Option<i32>,
    files: &mut Files,
) -> Result<(), String> {
    for item in items.into_iter().flatten() {
        let path = item.field_ref.as_ref().map(|field| field.field_path.as_str());
        let value = path.and_then(|path| pod_field(pod, path));
        let value = value.ok_or_else(|| format!("field of {:?} is not supported", item.path))?;
        files.insert(item.path.clone(), (value.into_bytes(), mode_bits(mode, item.mode)));
    }
    Ok(())
}

fn mode_bits(default: Option<i32>, own: Option<i32>) -> u32 {
    own.or(default).and_then(|mode| u32::try_from(mode).ok()).unwrap_or(DEFAULT_MODE)
}

/// Makes `directory` show exactly `files`; readers see either the old set or the new one.
fn write_files(directory: &Path, files: &Files) -> io::Result<()> {
    fs::create_dir_all(directory)?;
    let link = directory.join("..data");
    let old = fs::read_link(&link).ok();
    if old.is_some() && read_files(&link, "")? == *files {
        return Ok(());
    }
    let taken = |name: &String| directory.join(name).exists();
    let name = (0u32..).map(|number| format!("..version_{number}")).find(|name| !taken(name));
    let name = name.unwrap_or_default();
    for (path, (content, mode)) in files {
        let file = directory.join(&name).join(path.trim_start_matches('/'));
        if path.split('/').any(|part| part == "..") {
            return Err(io::Error::other(format!("path {path:?} leaves the volume")));
        }
        if let Some(parent) = file.parent() {
            fs::create_dir_all(parent)?;
        }
        fs::write(&file, content)?;
        fs::set_permissions(&file, fs::Permissions::from_mode(*mode))?;
    }
    fs::create_dir_all(directory.join(&name))?;
    let temporary = directory.join("..data_tmp");
    drop(fs::remove_file(&temporary));
    symlink(&name, &temporary)?;
    fs::rename(&temporary, &link)?;
    link_top_level(directory, files)?;
    match old {
        Some(old) => fs::remove_dir_all(directory.join(old)),
        None => Ok(()),
    }
}

/// One link for each first path component, into `..data`; links to what is gone are removed.
fn link_top_level(directory: &Path, files: &Files) -> io::Result<()> {
    let wanted = |name: &str| files.keys().any(|path| path.split('/').next() == Some(name));
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        if !name.starts_with("..") && !wanted(&name) {
            fs::remove_file(entry.path())?;
        }
    }
    for name in files.keys().filter_map(|path| path.split('/').next()) {
        let link = directory.join(name);
        if link.symlink_metadata().is_err() {
            symlink(Path::new("..data").join(name), link)?;
        }
    }
    Ok(())
}

fn read_files(directory: &Path, prefix: &str) -> io::Result<Files> {
    let mut files = Files::new();
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        let name = format!("{prefix}{}", entry.file_name().to_string_lossy());
        if entry.file_type()?.is_dir() {
            files.extend(read_files(&entry.path(), &format!("{name}/"))?);
        } else {
            let mode = entry.metadata()?.permissions().mode() & 0o7777;
            files.insert(name, (fs::read(entry.path())?, mode));
        }
    }
    Ok(files)
}

/// The mounts of one container in the order in which they are made.
pub fn mounts(
    container: &Container,
    volumes: &BTreeMap<String, PathBuf>,
    variables: &BTreeMap<String, String>,
) -> Result<Vec<Mount>, String> {
    let mut mounts = Vec::new();
    for mount in container.volume_mounts.iter().flatten() {
        let volume = volumes.get(&mount.name);
        let volume = volume.ok_or_else(|| format!("volume {:?} is not in the pod", mount.name))?;
        let source = sub_path(volume, mount, variables)?;
        let read_only = mount.read_only == Some(true);
        mounts.push(Mount { source, path: mount.mount_path.clone(), read_only });
    }
    mounts.sort_by_key(|mount| mount.path.matches('/').count());
    Ok(mounts)
}

fn sub_path(volume: &Path, mount: &VolumeMount, variables: &BTreeMap<String, String>) -> Result<PathBuf, String> {
    let expanded = mount.sub_path_expr.as_deref().map(|text| super::env::expand(text, variables));
    let Some(path) = expanded.or_else(|| mount.sub_path.clone()).filter(|path| !path.is_empty()) else {
        return Ok(volume.to_owned());
    };
    if path.starts_with('/') || path.split('/').any(|part| part == "..") {
        return Err(format!("subPath {path:?} leaves the volume"));
    }
    let source = volume.join(path);
    if !source.exists() {
        fs::create_dir_all(&source).map_err(|error| error.to_string())?;
    }
    Ok(source)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn files(entries: &[(&str, &str)]) -> Files {
        entries.iter().map(|(k, v)| ((*k).to_owned(), (v.as_bytes().to_vec(), 0o600))).collect()
    }

    #[test]
    fn an_update_switches_all_files_at_once() {
        let temporary = tempfile::tempdir().unwrap();
        let directory = temporary.path().join("volume");
        let read = |name: &str| fs::read_to_string(directory.join(name)).ok();
        write_files(&directory, &files(&[("a", "1"), ("sub/b", "1"), ("gone", "1")])).unwrap();
        assert_eq!((read("a"), read("sub/b")), (Some("1".into()), Some("1".into())));
        let first = fs::read_link(directory.join("..data")).unwrap();
        write_files(&directory, &files(&[("a", "1"), ("sub/b", "1"), ("gone", "1")])).unwrap();
        assert_eq!(fs::read_link(directory.join("..data")).unwrap(), first, "no change, no switch");
        write_files(&directory, &files(&[("a", "2"), ("sub/b", "2")])).unwrap();
        assert_ne!(fs::read_link(directory.join("..data")).unwrap(), first);
        assert!(!directory.join(first).exists());
        assert_eq!((read("a"), read("sub/b"), read("gone")), (Some("2".into()), Some("2".into()), None));
        assert_eq!(fs::metadata(directory.join("a")).unwrap().permissions().mode() & 0o777, 0o600);
    }

    #[test]
    fn a_path_out_of_the_volume_is_refused() {
        let temporary = tempfile::tempdir().unwrap();
        assert!(write_files(temporary.path(), &files(&[("../x", "1")])).is_err());
        let mount = VolumeMount { sub_path: Some("a/../../b".into()), ..VolumeMount::default() };
        assert!(sub_path(temporary.path(), &mount, &BTreeMap::new()).is_err());
    }

    #[test]
    fn outer_mounts_come_before_inner_ones() {
        let container: Container = serde_json::from_value(serde_json::json!({"name": "c", "volumeMounts": [
            {"name": "v", "mountPath": "/data/inner/deep"}, {"name": "v", "mountPath": "/data"}]}))
        .unwrap();
        let volumes = BTreeMap::from([("v".to_owned(), PathBuf::from("/v"))]);
        let mounts = mounts(&container, &volumes, &BTreeMap::new()).unwrap();
        assert_eq!(mounts.iter().map(|m| m.path.as_str()).collect::<Vec<_>>(), ["/data", "/data/inner/deep"]);
    }
}
