//! The list of members, and changes of it that a single member refuses.

use keelson_server::proto::etcdserverpb::*;

use super::Dice;
use crate::step::{MEMBER, PEER_URL, Step};

/// One request.
pub fn steps(dice: &mut Dice) -> Vec<Step> {
    let urls = |urls: &[&str]| urls.iter().map(|url| (*url).to_owned()).collect::<Vec<_>>();
    let bad =
        dice.pick(&[&[][..], &["nonsense"], &["http://host"], &["ftp://host:1"], &["http://host:1/path"], &[PEER_URL]]);
    vec![match dice.below(8) {
        0..3 => Step::new("etcdserverpb.Cluster/MemberList", &MemberListRequest { linearizable: dice.one_in(2) }),
        3 => {
            let request = MemberAddRequest { peer_ur_ls: urls(bad), is_learner: dice.one_in(2) };
            Step::new("etcdserverpb.Cluster/MemberAdd", &request)
        }
        4 => Step::new("etcdserverpb.Cluster/MemberRemove", &MemberRemoveRequest { id: dice.pick(&[0, 7]) }),
        5 => Step::new("etcdserverpb.Cluster/MemberPromote", &MemberPromoteRequest { id: dice.pick(&[0, 7, MEMBER]) }),
        6 => {
            let request = MemberUpdateRequest { id: MEMBER, peer_ur_ls: urls(&[PEER_URL]) };
            Step::new("etcdserverpb.Cluster/MemberUpdate", &request)
        }
        _ => {
            // Malformed ones are left out: etcd takes them, and falls over them when it dials.
            let request = MemberUpdateRequest { id: dice.pick(&[0, 7]), peer_ur_ls: urls(&["http://host:1"]) };
            Step::new("etcdserverpb.Cluster/MemberUpdate", &request)
        }
    }]
}
