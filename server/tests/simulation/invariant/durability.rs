//! A write that was acknowledged is there in the end, on every member.

use super::Invariant;
use crate::event::Event;

/// Looks at what members have in the end.
pub struct Durability;

impl Invariant for Durability {
    fn name(&self) -> &'static str {
        "durability"
    }

    fn see(&mut self, event: &Event<'_>) -> Result<(), String> {
        match event {
            Event::Finds { member, write, value } if *value != Some(write.value.as_str()) => {
                Err(format!("{write:?} was acknowledged; {member} has {value:?} there"))
            }
            _ => Ok(()),
        }
    }
}
