//! What the pod's task has done inside its running containers: probes and lifecycle hooks.

use pod::{Hook, Input, ProbeKind};

use super::{Driver, Outcome};
use crate::{exec, hooks, probes};

impl Driver {
    pub(super) fn probe(&mut self, container: String, attempt: i32, kind: ProbeKind) {
        let Some(spec) = self.container(&container) else { return };
        let (agent, address, room) = (self.agent.clone(), self.address, self.rooms.get(&container));
        self.outcomes.spawn(async move {
            let answer = match probes::command(&spec, kind) {
                Some((command, limit)) => match room {
                    Some(room) => exec::run(&agent, &room, &command, Some(limit)).await,
                    None => Err("the container does not run".to_owned()),
                },
                None => probes::ask(&agent.config.fabric, &spec, address, kind).await,
            };
            Outcome::Reported(Input::ProbeAnswered { container, attempt, kind, answer })
        });
    }

    pub(super) fn run_hook(&mut self, container: String, attempt: i32, hook: Hook) {
        let Some(spec) = self.container(&container) else { return };
        let (agent, address, room) = (self.agent.clone(), self.address, self.rooms.get(&container));
        let pod = self.pod.name.clone();
        self.outcomes.spawn(async move {
            let answer = match (hook.handler(&spec), room, address) {
                (Some(handler), Some(room), Some(address)) => {
                    hooks::run(&agent, &room, (&spec, handler), address).await
                }
                _ => Err("the container does not run".to_owned()),
            };
            if let Err(why) = &answer {
                // The events keep it to themselves, as the kubelet's do.
                tracing::debug!(pod, container, ?hook, why, "a lifecycle hook failed");
            }
            Outcome::Reported(Input::HookEnded { container, attempt, hook, answer })
        });
    }
}
