//! openraft's adapters: the log on disk, the network between members, and the state machine's shell.

pub mod log;
pub mod network;
pub mod state_machine;
pub mod types;

/// openraft, with our types.
pub type Raft = openraft::Raft<types::TypeConfig, state_machine::StateMachine>;

#[cfg(test)]
mod tests;
