//! Feature gates: the names, defaults and stages of etcd 3.7.1, and what becomes of each here.

use std::collections::BTreeMap;
use std::fmt;

use super::parse::boolean;

/// How settled a feature is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// May go away.
    Alpha,
    /// Will stay.
    Beta,
}

/// A feature that etcd lets one switch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Feature {
    /// Leaders compare the members' hashes after compactions.
    CompactHashCheck,
    /// Leases are renewed without waiting for what is not applied yet.
    FastLeaseKeepAlive,
    /// A member compares its data with the others' before it serves.
    InitialCorruptCheck,
    /// Leaders tell the others how much time leases have left.
    LeaseCheckpoint,
    /// What leaders tell of leases survives a restart.
    LeaseCheckpointPersist,
    /// Revocations of leases go before other requests under overload.
    PriorityRequest,
    /// Connections to peers come from the address that this member advertises.
    SetMemberLocalAddr,
    /// A member that defragments sends its clients elsewhere.
    StopGRPCServiceOnDefrag,
    /// How bbolt's transactions buffer what they read.
    TxnModeWriteWithSharedBuffer,
}

use Feature::*;
use Stage::*;

/// Everything about a feature: default, stage, and why switching it changes nothing here, if it does not.
struct Gate {
    feature: Feature,
    default: bool,
    stage: Stage,
    inert: Option<&'static str>,
}

const fn gate(feature: Feature, default: bool, stage: Stage, inert: &'static str) -> Gate {
    Gate { feature, default, stage, inert: Some(inert) }
}

/// Sorted by name.
static GATES: &[Gate] = &[
    Gate { feature: CompactHashCheck, default: false, stage: Alpha, inert: None },
    gate(FastLeaseKeepAlive, true, Beta, "renewals never wait"),
    Gate { feature: InitialCorruptCheck, default: false, stage: Alpha, inert: None },
    Gate { feature: LeaseCheckpoint, default: false, stage: Alpha, inert: None },
    gate(LeaseCheckpointPersist, false, Alpha, "checkpoints are always kept"),
    gate(PriorityRequest, false, Alpha, "revocations are never refused for overload"),
    gate(SetMemberLocalAddr, false, Alpha, "the system chooses the address that connections to peers come from"),
    gate(StopGRPCServiceOnDefrag, false, Alpha, "defragmenting does not stop clients"),
    gate(TxnModeWriteWithSharedBuffer, true, Beta, "it is about bbolt"),
];

/// Switches all gates of a stage that are not switched by name.
const ALL: [(&str, Stage); 2] = [("AllAlpha", Alpha), ("AllBeta", Beta)];

impl fmt::Display for Feature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

impl Feature {
    /// Why switching it changes nothing here, if it does not.
    pub fn inert(self) -> Option<&'static str> {
        GATES.iter().find(|gate| gate.feature == self).and_then(|gate| gate.inert)
    }
}

/// Which features are on.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Features {
    switched: BTreeMap<Feature, bool>,
}

impl Features {
    /// Reads `Name=true,Other=false`; a later word of the same name counts. The error is etcd's text.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut features = Features::default();
        let mut stages = Vec::new();
        for word in text.split(',').filter(|word| !word.is_empty()) {
            let (name, value) = match word.split_once('=') {
                Some((name, value)) => (name.trim(), value.trim()),
                None => return Err(format!("missing bool value for {}", word.trim())),
            };
            let on = boolean(value).ok_or_else(|| {
                format!("invalid value of {name}={value}, err: strconv.ParseBool: parsing {value:?}: invalid syntax")
            })?;
            let gate = GATES.iter().find(|gate| gate.feature.to_string() == name);
            match (gate, ALL.iter().find(|(all, _)| *all == name)) {
                (Some(gate), _) => drop(features.switched.insert(gate.feature, on)),
                (None, Some((_, stage))) => stages.push((*stage, on)),
                (None, None) => return Err(format!("unrecognized feature gate: {name}")),
            }
        }
        for (stage, on) in stages.into_iter().rev() {
            for gate in GATES.iter().filter(|gate| gate.stage == stage) {
                features.switched.entry(gate.feature).or_insert(on);
            }
        }
        Ok(features)
    }

    /// Whether a feature is on.
    pub fn enabled(&self, feature: Feature) -> bool {
        let default = || GATES.iter().any(|gate| gate.feature == feature && gate.default);
        self.switched.get(&feature).copied().unwrap_or_else(default)
    }

    /// Features that were switched away from their default.
    pub fn changed(&self) -> impl Iterator<Item = Feature> {
        let changed = GATES.iter().filter(|gate| self.enabled(gate.feature) != gate.default);
        changed.map(|gate| gate.feature)
    }
}

/// One line for each name that `--feature-gates` takes: how it is written, stage, default, and effect.
pub fn lines() -> Vec<String> {
    let stage = |stage| match stage {
        Alpha => "ALPHA",
        Beta => "BETA",
    };
    let all = ALL.iter().map(|(name, of)| {
        let stage = stage(*of);
        (name.to_string(), format!("({stage} - default=false): every {stage} feature"))
    });
    let gates = GATES.iter().map(|gate| {
        let effect = gate.inert.map_or_else(String::new, |reason| format!(": no effect, {reason}"));
        (gate.feature.to_string(), format!("({} - default={}){effect}", stage(gate.stage), gate.default))
    });
    all.chain(gates).map(|(name, rest)| format!("{name}=true|false {rest}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gates_are_read_as_etcd_reads_them() {
        let on = |text: &str, feature| Features::parse(text).map(|features| features.enabled(feature));
        for (text, feature, expected) in [
            ("", FastLeaseKeepAlive, Ok(true)),
            ("", InitialCorruptCheck, Ok(false)),
            ("InitialCorruptCheck=true", InitialCorruptCheck, Ok(true)),
            (" InitialCorruptCheck = T ,", InitialCorruptCheck, Ok(true)),
            ("InitialCorruptCheck=true,InitialCorruptCheck=false", InitialCorruptCheck, Ok(false)),
            ("AllAlpha=true", InitialCorruptCheck, Ok(true)),
            ("AllBeta=false", FastLeaseKeepAlive, Ok(false)),
            ("InitialCorruptCheck=false,AllAlpha=true", InitialCorruptCheck, Ok(false)),
            ("AllAlpha=true,AllAlpha=false", InitialCorruptCheck, Ok(false)),
            ("Nonsense=true", PriorityRequest, Err("unrecognized feature gate: Nonsense")),
            ("PriorityRequest", PriorityRequest, Err("missing bool value for PriorityRequest")),
            (
                "PriorityRequest=on",
                PriorityRequest,
                Err("invalid value of PriorityRequest=on, err: strconv.ParseBool: parsing \"on\": invalid syntax"),
            ),
        ] {
            assert_eq!(on(text, feature), expected.map_err(str::to_owned), "{text}");
        }
    }

    #[test]
    fn gates_are_sorted_and_all_are_listed() {
        assert!(GATES.is_sorted_by_key(|gate| gate.feature.to_string()));
        assert_eq!(lines().len(), 9 + 2);
    }
}
