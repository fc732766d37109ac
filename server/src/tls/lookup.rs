//! The names of an address: the hosts file, then the name servers of resolv.conf. Programs get no such look-up from the
//! standard library.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use hickory_proto::op::{Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::{Name, RData, RecordType};
use tokio::net::UdpSocket;

/// Time that one name server has.
const ANSWER_LIMIT: Duration = Duration::from_secs(1);
/// Each name server is asked so often.
const ATTEMPTS: usize = 2;
/// Largest answer over UDP that is read.
const ANSWER_BYTES: usize = 4096;

/// Names of an address, without a dot at the end.
pub async fn names_of(address: IpAddr) -> io::Result<Vec<String>> {
    let hosts = tokio::fs::read_to_string("/etc/hosts").await.unwrap_or_default();
    let names = names_in_hosts(&hosts, address);
    if !names.is_empty() {
        return Ok(names);
    }
    let resolv = tokio::fs::read_to_string("/etc/resolv.conf").await.unwrap_or_default();
    ask(&name_servers(&resolv), address).await
}

fn names_in_hosts(hosts: &str, address: IpAddr) -> Vec<String> {
    let mut names = Vec::new();
    for line in hosts.lines() {
        let line = line.split('#').next().unwrap_or_default();
        let mut words = line.split_whitespace();
        let ip = words.next().and_then(|ip| ip.parse::<IpAddr>().ok());
        if ip.is_some_and(|ip| ip.to_canonical() == address) {
            names.extend(words.map(str::to_owned));
        }
    }
    names
}

fn name_servers(resolv: &str) -> Vec<SocketAddr> {
    let servers = resolv.lines().filter_map(|line| {
        let mut words = line.split_whitespace();
        let ip = words.next().filter(|word| *word == "nameserver").and_then(|_| words.next())?;
        Some(SocketAddr::new(ip.parse().ok()?, 53))
    });
    let servers: Vec<_> = servers.take(3).collect();
    match servers.is_empty() {
        true => vec![SocketAddr::from((Ipv4Addr::LOCALHOST, 53))],
        false => servers,
    }
}

async fn ask(servers: &[SocketAddr], address: IpAddr) -> io::Result<Vec<String>> {
    let mut last = io::Error::new(io::ErrorKind::NotFound, "no name server");
    for server in servers.iter().cycle().take(ATTEMPTS * servers.len()) {
        match tokio::time::timeout(ANSWER_LIMIT, ask_one(*server, address)).await {
            Ok(Ok(names)) => return Ok(names),
            Ok(Err(error)) if error.kind() == io::ErrorKind::NotFound => return Err(error),
            Ok(Err(error)) => last = error,
            Err(_) => {
                last = io::Error::new(io::ErrorKind::TimedOut, format!("lookup {address} on {server}: no answer"))
            }
        }
    }
    Err(last)
}

async fn ask_one(server: SocketAddr, address: IpAddr) -> io::Result<Vec<String>> {
    let local: IpAddr = match server {
        SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let socket = UdpSocket::bind((local, 0)).await?;
    // Connected: answers of others are not received.
    socket.connect(server).await?;
    let query = query(rand::random(), address);
    socket.send(&query.to_vec().map_err(io::Error::other)?).await?;
    let mut buffer = [0; ANSWER_BYTES];
    loop {
        let read = socket.recv(&mut buffer).await?;
        let Ok(answer) = Message::from_vec(&buffer[..read]) else {
            continue;
        };
        if answer.metadata.id == query.metadata.id && answer.queries == query.queries {
            return names_in(&answer, address);
        }
    }
}

fn query(id: u16, address: IpAddr) -> Message {
    let mut message = Message::new(id, MessageType::Query, OpCode::Query);
    message.metadata.recursion_desired = true;
    message.add_query(Query::query(Name::from(address), RecordType::PTR));
    message
}

fn names_in(answer: &Message, address: IpAddr) -> io::Result<Vec<String>> {
    let names = answer.answers.iter().filter_map(|record| match &record.data {
        RData::PTR(name) => Some(name.to_string().trim_end_matches('.').to_owned()),
        _ => None,
    });
    let names: Vec<_> = names.collect();
    match answer.metadata.response_code {
        ResponseCode::NoError if !names.is_empty() => Ok(names),
        ResponseCode::NoError | ResponseCode::NXDomain => {
            Err(io::Error::new(io::ErrorKind::NotFound, format!("lookup {address}: no such host")))
        }
        code => Err(io::Error::other(format!("lookup {address}: {code}"))),
    }
}

#[cfg(test)]
mod tests {
    use hickory_proto::rr::Record;
    use hickory_proto::rr::rdata::PTR;

    use super::*;

    #[test]
    fn files_are_read_as_the_system_reads_them() {
        let hosts =
            "127.0.0.1 localhost\n# 10.0.0.7 no\n10.0.0.7\tm0.db.svc m0 # m9\n::ffff:10.0.0.7 mapped\nnonsense\n";
        assert_eq!(names_in_hosts(hosts, [10, 0, 0, 7].into()), ["m0.db.svc", "m0", "mapped"]);
        assert!(names_in_hosts(hosts, [10, 0, 0, 8].into()).is_empty());
        let resolv = "search db.svc\nnameserver 10.96.0.10\nnameserver fd00::a\nnameserver x\n";
        let servers: Vec<_> = name_servers(resolv).iter().map(SocketAddr::to_string).collect();
        assert_eq!(servers, ["10.96.0.10:53", "[fd00::a]:53"]);
        assert_eq!(name_servers("")[0].to_string(), "127.0.0.1:53");
    }

    /// A name server that knows one address; what it is asked first, it answers under another id first.
    async fn name_server() -> SocketAddr {
        let socket = UdpSocket::bind("127.0.0.1:0").await.expect("bound");
        let address = socket.local_addr().expect("an address");
        tokio::spawn(async move {
            let mut buffer = [0; 512];
            loop {
                let (read, from) = socket.recv_from(&mut buffer).await.expect("received");
                let question = Message::from_vec(&buffer[..read]).expect("a question");
                let name = question.queries[0].name().clone();
                let mut answer = Message::response(question.metadata.id, OpCode::Query);
                answer.add_query(question.queries[0].clone());
                match name.to_ascii() == "7.0.0.10.in-addr.arpa." {
                    true => {
                        let target = Name::from_ascii("m0.db.svc.").expect("a name");
                        answer.add_answers([Record::from_rdata(name, 5, RData::PTR(PTR(target)))]);
                    }
                    false => answer.metadata.response_code = ResponseCode::NXDomain,
                }
                let mut forged = answer.clone();
                forged.metadata.id ^= 1;
                forged.answers.clear();
                for message in [forged, answer] {
                    socket.send_to(&message.to_vec().expect("encoded"), from).await.expect("sent");
                }
            }
        });
        address
    }

    #[tokio::test]
    async fn name_servers_are_asked_for_the_names_of_an_address() {
        let servers = [name_server().await];
        assert_eq!(ask(&servers, [10, 0, 0, 7].into()).await.expect("known"), ["m0.db.svc"]);
        let error = ask(&servers, [10, 0, 0, 8].into()).await.expect_err("unknown");
        assert_eq!(error.to_string(), "lookup 10.0.0.8: no such host");
    }
}
