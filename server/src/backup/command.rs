//! The commands `backup create`, `fetch`, `verify`, `archive`, `restore` and `delete`.

use std::path::{Path, PathBuf};

use tokio::signal::unix::{SignalKind, signal};

use super::archive::follow::archive;
use super::archive::metrics::{ArchiveMetrics, serve};
use super::archive::point::Until;
use super::archive::shelf;
use super::beside::Named;
use super::create::create;
use super::fetch::fetch;
use super::place::Place;
use super::recover::{Origin, recover};
use super::source::{Member, Source};
use super::verify::{Expected, verify};
use super::{BackupError, beside, io_error};
use crate::config::{LogConfig, duration};
use crate::snapshot::command::{Failure, Given, RESTORE, bad_arguments, restore_settings};
use crate::telemetry::logs;

/// What these commands are, for `--help`.
pub const USAGE: &str = "\
Usage:

  keelson-server backup create LOCATION [flags]
    Take a snapshot of a member, compress it, and bring it to LOCATION.
      --endpoint             the member's URL (http://localhost:2379)
      --cacert               authorities that are trusted, in PEM
      --cert, --key          what to show the member, in PEM
      --user                 whom to log in as, where authentication is on; KEELSON_PASSWORD is the password
      --report               write what is printed to this file, too

  keelson-server backup fetch LOCATION FILE
    Fetch a backup as the file that `etcdctl snapshot save` would have made.

  keelson-server backup verify LOCATION --scratch-dir DIR [flags]
    Fetch a backup, restore it into DIR, and compare.
      --revision             the backup must go as far as this
      --hash                 the member's HashKV at that revision
      --compact-revision     that the hash depends on
      --report               write what is printed to this file, too

  keelson-server backup archive FOLDER [flags]
    Follow a member and archive each change beside the backups in FOLDER, until SIGTERM. Goes on where the archive ends.
      --endpoint             URLs of members, of which one is followed (http://localhost:2379)
      --cacert, --cert, --key, --user
                             as for create
      --interval             how often what has changed is written (30s): so much may be lost
      --listen-metrics       serve /metrics, /livez and /readyz at this ADDRESS:PORT

  keelson-server backup restore LOCATION --data-dir DIR [flags]
    Make the first member of a new cluster, with the flags of `snapshot restore`. Does nothing if DIR holds a member. LOCATION may
    also be a folder, which ends with a slash: its newest backup is taken.
      --until                bring the backup forward by the archive beside it: to a revision, to a time such as
                             2026-11-29T03:00:00Z, or to the latest revision that is archived (latest). Of a folder, the newest
                             backup at or before this point is taken
    LOCATION may also be the URL of a running member, ours or etcd's, whose data are copied:
      --cacert, --cert, --key, --user
                             as for create

  keelson-server backup delete LOCATION
    Delete a backup, and what of the archive no other backup can be brought forward by.

LOCATION is s3://BUCKET/KEY, gs://BUCKET/KEY, az://CONTAINER/NAME or file:///PATH, and FOLDER likewise. A file that is fetched,
verified or restored may also be a snapshot that is not compressed. Stores are told of by environment variables under their usual names: AWS_ACCESS_KEY_ID,
AWS_SECRET_ACCESS_KEY, AWS_REGION, AWS_ENDPOINT, AWS_ALLOW_HTTP; GOOGLE_SERVICE_ACCOUNT_KEY; AZURE_STORAGE_ACCOUNT_NAME,
AZURE_STORAGE_ACCOUNT_KEY; SSL_CERT_FILE.
";

/// What a member is shown, and trusted by.
const MEMBER: &[(&str, bool)] = &[("cacert", true), ("cert", true), ("key", true), ("user", true)];
const CREATE: &[(&str, bool)] = &[("endpoint", true), ("report", true)];
const VERIFY: &[(&str, bool)] =
    &[("scratch-dir", true), ("revision", true), ("hash", true), ("compact-revision", true), ("report", true)];
const ARCHIVE: &[(&str, bool)] = &[("endpoint", true), ("interval", true), ("listen-metrics", true)];
const UNTIL: &[(&str, bool)] = &[("until", true)];
const DELETE: &[(&str, bool)] = &[("report", true)];

impl From<BackupError> for Failure {
    fn from(error: BackupError) -> Self {
        Failure { message: error.to_string(), exit_code: 1 }
    }
}

/// Runs the command if the arguments (without the program's name) are one; answers what to print.
pub fn run(arguments: &[String]) -> Option<Result<String, Failure>> {
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let wants_help = words.iter().any(|word| matches!(*word, "-h" | "--help"));
    Some(match words.as_slice() {
        ["backup"] => Ok(USAGE.to_owned()),
        ["backup", ..] if wants_help => Ok(USAGE.to_owned()),
        ["backup", "create", rest @ ..] => {
            Given::read(rest, &[CREATE, MEMBER].concat()).and_then(|given| create_command(&given))
        }
        ["backup", "fetch", rest @ ..] => Given::read(rest, &[]).and_then(|given| fetch_command(&given)),
        ["backup", "verify", rest @ ..] => Given::read(rest, VERIFY).and_then(|given| verify_command(&given)),
        ["backup", "restore", rest @ ..] => {
            Given::read(rest, &[RESTORE, MEMBER, UNTIL].concat()).and_then(|given| restore_command(&given))
        }
        ["backup", "archive", rest @ ..] => {
            Given::read(rest, &[ARCHIVE, MEMBER].concat()).and_then(|given| archive_command(&given))
        }
        ["backup", "delete", rest @ ..] => Given::read(rest, DELETE).and_then(|given| delete_command(&given)),
        ["backup", other, ..] => Err(bad_arguments(format!("unknown command {other:?} for \"keelson-server backup\""))),
        _ => return None,
    })
}

fn create_command(given: &Given) -> Result<String, Failure> {
    let place = place(given.file("backup create")?)?;
    let member = member(given, given.text("endpoint", "http://localhost:2379"))?;
    let created = block_on(async { create(&Source::connect(&member).await?, &place, terminated()).await })?;
    report(given, &created)
}

/// The member at this URL.
fn member(given: &Given, endpoint: &str) -> Result<Member, Failure> {
    let path = |flag| Some(given.text(flag, "")).filter(|path| !path.is_empty()).map(PathBuf::from);
    let identity = match (path("cert"), path("key")) {
        (Some(cert), Some(key)) => Some((cert, key)),
        (None, None) => None,
        _ => return Err(bad_arguments("--cert and --key go together")),
    };
    let login = match given.text("user", "") {
        "" => None,
        user => Some((user.to_owned(), std::env::var("KEELSON_PASSWORD").unwrap_or_default())),
    };
    Ok(Member { endpoint: endpoint.to_owned(), ca: path("cacert"), identity, login })
}

fn fetch_command(given: &Given) -> Result<String, Failure> {
    let [location, file] = given.files.as_slice() else {
        return Err(bad_arguments("backup fetch requires exactly two arguments"));
    };
    block_on(fetch(&place(location)?, file))?;
    Ok(String::new())
}

fn verify_command(given: &Given) -> Result<String, Failure> {
    let place = place(given.file("backup verify")?)?;
    let scratch = given.text("scratch-dir", "");
    if scratch.is_empty() {
        return Err(bad_arguments("--scratch-dir is needed"));
    }
    let hash = given.flags.contains_key("hash").then(|| given.number("hash")).transpose()?;
    let hash = hash.map(u32::try_from).transpose().map_err(|_| bad_arguments("--hash is no number of 32 bits"))?;
    let expected =
        Expected { revision: given.number("revision")?, hash, compact_revision: given.number("compact-revision")? };
    // Whatever was there before is left, and may be another verification's.
    let folder = tempfile::tempdir_in(scratch).map_err(io_error(Path::new(scratch)))?;
    let snapshot = folder.path().join("snapshot.db");
    block_on(fetch(&place, &snapshot))?;
    report(given, &verify(&snapshot, folder.path(), &expected)?)
}

fn restore_command(given: &Given) -> Result<String, Failure> {
    let location = given.file("backup restore")?;
    let until = given.flags.get("until").map(|text| Until::read(text)).transpose();
    let until = until.map_err(|error| bad_arguments(error.to_string()))?;
    let origin = match location.to_str() {
        Some(url) if url.starts_with("http://") || url.starts_with("https://") => match until {
            None => Origin::Member(member(given, url)?),
            Some(_) => return Err(bad_arguments("--until needs a backup, not a member")),
        },
        Some(folder) if folder.ends_with('/') => Origin::Stored(Named::Folder(place(location)?), until),
        _ => Origin::Stored(Named::File(place(location)?), until),
    };
    let settings = restore_settings(given)?;
    if settings.wal_dir.is_some() {
        return Err(bad_arguments("--wal-dir is not possible here"));
    }
    let folder = settings.data_dir.display();
    match recover(&origin, &settings)? {
        Some(outcome) => eprintln!(
            "restored into {folder}: member {:x} of cluster {:x}, revision {}",
            outcome.restored.member_id, outcome.restored.cluster_id, outcome.revision
        ),
        None => eprintln!("{folder} holds a member already"),
    }
    Ok(String::new())
}

fn delete_command(given: &Given) -> Result<String, Failure> {
    let place = place(given.file("backup delete")?)?;
    block_on(async {
        let known = beside::read(&place).await?;
        // Last, so that what is begun and not done is done the next time.
        place.delete().await?;
        if let Some(known) = known {
            shelf::prune(&known).await?;
            beside::delete(&place).await?;
        }
        Ok(())
    })?;
    Ok(String::new())
}

fn archive_command(given: &Given) -> Result<String, Failure> {
    let folder = place(given.file("backup archive")?)?;
    let endpoints = given.text("endpoint", "http://localhost:2379").split(',').map(str::trim);
    let members = endpoints.map(|endpoint| member(given, endpoint)).collect::<Result<Vec<_>, _>>()?;
    let interval = duration::parse(given.text("interval", "30s")).filter(|interval| !interval.is_zero());
    let interval = interval.ok_or_else(|| bad_arguments("--interval is no time such as 30s"))?;
    let logger = logs::subscriber(&LogConfig::default()).map_err(io_error(Path::new("stderr")))?;
    tracing::subscriber::set_global_default(logger).map_err(|error| bad_arguments(error.to_string()))?;
    let metrics = ArchiveMetrics::new(interval);
    block_on(async {
        match given.text("listen-metrics", "") {
            "" => {}
            address => serve(address, metrics.clone()).await?,
        }
        archive(&members, &folder, interval, &metrics, terminated()).await
    })?;
    Ok(String::new())
}

fn place(location: &Path) -> Result<Place, BackupError> {
    let text = |os: std::ffi::OsString| os.to_string_lossy().into_owned();
    Place::open(&location.to_string_lossy(), std::env::vars_os().map(|(name, value)| (text(name), text(value))))
}

fn report(given: &Given, told: &impl serde::Serialize) -> Result<String, Failure> {
    let text = serde_json::to_string(told).map_err(|error| bad_arguments(error.to_string()))? + "\n";
    match given.text("report", "") {
        "" => {}
        path => std::fs::write(path, &text).map_err(io_error(Path::new(path)))?,
    }
    Ok(text)
}

/// Runs what has to wait for others.
pub(super) fn block_on<T>(work: impl Future<Output = Result<T, BackupError>>) -> Result<T, BackupError> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    runtime.map_err(io_error(Path::new("runtime")))?.block_on(work)
}

async fn terminated() {
    let (Ok(mut term), Ok(mut interrupt)) = (signal(SignalKind::terminate()), signal(SignalKind::interrupt())) else {
        return std::future::pending().await;
    };
    tokio::select! {
        _ = term.recv() => {}
        _ = interrupt.recv() => {}
    }
}
