//! PURE: tables as kubectl prints them.

use kube::ResourceExt;

use crate::crd::{EtcdCluster, TlsStatus};

/// Columns of equal width, three spaces apart. What is not known is `-`.
pub fn table(head: &[&str], rows: &[Vec<String>]) -> String {
    let shown = |cell: &str| if cell.is_empty() { "-".to_string() } else { cell.to_string() };
    let mut lines: Vec<Vec<String>> = vec![head.iter().map(|cell| (*cell).to_string()).collect()];
    lines.extend(rows.iter().map(|row| row.iter().map(|cell| shown(cell)).collect()));
    let width = |column: usize| lines.iter().map(|line| line[column].chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..head.len()).map(width).collect();
    let lines = lines.iter().map(|line| {
        let cells = line.iter().zip(widths.iter().copied()).map(|(cell, width)| format!("{cell:width$}   "));
        cells.collect::<String>().trim_end().to_string() + "\n"
    });
    lines.collect()
}

/// So many seconds, in the largest unit that tells something.
pub fn time(seconds: i64) -> String {
    match seconds {
        ..120 => format!("{}s", seconds.max(0)),
        120..7200 => format!("{}m", seconds / 60),
        7200..172_800 => format!("{}h", seconds / 3600),
        _ => format!("{}d", seconds / 86400),
    }
}

/// A line for each cluster.
pub fn clusters(clusters: &[EtcdCluster], now: i64) -> String {
    let rows = clusters.iter().map(|cluster| {
        let status = cluster.status.clone().unwrap_or_default();
        let age = cluster.creation_timestamp().map(|created| time(now - created.0.as_second()));
        vec![
            cluster.name_any(),
            cluster.spec.size.to_string(),
            status.ready_members.to_string(),
            format!("{:?}", status.phase),
            status.server_version.unwrap_or_default(),
            status.leader.unwrap_or_default(),
            age.unwrap_or_default(),
        ]
    });
    table(&["NAME", "SIZE", "READY", "PHASE", "VERSION", "LEADER", "AGE"], &rows.collect::<Vec<_>>())
}

/// How a cluster stands, and its members.
pub fn cluster(cluster: &EtcdCluster, now: i64) -> String {
    let status = cluster.status.clone().unwrap_or_default();
    let next = status.next_action.unwrap_or_default();
    let lines = [
        ("Phase", format!("{:?}", status.phase)),
        ("Reason", status.reason),
        ("Next", next.action.unwrap_or_default()),
        ("Waiting for", next.waiting_for.unwrap_or_default()),
        ("Alarms", status.alarms.join(", ")),
    ];
    let mut text = format!("Cluster:      {}\n", cluster.name_any());
    for (name, value) in lines.iter().filter(|(_, value)| !value.is_empty()) {
        let name = format!("{name}:");
        text += &format!("{name:13} {value}\n");
    }
    let rows = status.members.iter().map(|member| {
        let health = match &member.down_since {
            _ if member.healthy => "healthy".to_string(),
            Some(since) => format!("down for {}", time(now - since.0.as_second())),
            None => "down".into(),
        };
        vec![
            member.name.clone(),
            member.id.clone(),
            format!("{:?}", member.role),
            health,
            member.version.clone().unwrap_or_default(),
            member.db_size.map(|bytes| bytes.to_string()).unwrap_or_default(),
            member.raft_index.map(|index| index.to_string()).unwrap_or_default(),
        ]
    });
    let rows: Vec<Vec<String>> = rows.collect();
    if !rows.is_empty() {
        text += "\n";
        text += &table(&["MEMBER", "ID", "ROLE", "HEALTH", "API", "BYTES", "INDEX"], &rows);
    }
    text
}

/// Certificates, and when they expire.
pub fn certificates(tls: &TlsStatus, now: i64) -> String {
    let mut text = format!("Authority:    {} ({:?})\n", tls.authority.as_deref().unwrap_or("-"), tls.stage);
    if let Some(awaited) = &tls.waiting_for {
        text += &format!("Waiting for:  {awaited}\n");
    }
    let rows = tls.certificates.iter().map(|certificate| {
        let left = certificate.not_after.0.as_second() - now;
        let left = if left > 0 { time(left) } else { "expired".into() };
        vec![certificate.secret.clone(), certificate.not_after.0.to_string(), left]
    });
    text + "\n" + &table(&["SECRET", "EXPIRES", "LEFT"], &rows.collect::<Vec<_>>())
}
