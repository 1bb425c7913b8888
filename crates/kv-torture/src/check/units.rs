//! Units that transactions move between keys: none is made, none is lost, and a read of all keys at
//! one version sees each once.

use super::findings::Findings;
use crate::history::{Answer, Call, History};

pub(super) fn check(history: &History, findings: &mut Findings) {
    for op in &history.ops {
        let (Call::Total { at_once: true }, Some(Answer::Sum { sum, keys })) = (&op.call, &op.answer) else {
            continue;
        };
        if *sum != history.promises.units || *keys != history.promises.unit_keys {
            findings.add(
                "units lost or made",
                op.end_or_never(),
                format!(
                    "{sum} units on {keys} keys in place of {} on {}",
                    history.promises.units, history.promises.unit_keys
                ),
            );
        }
    }
}
