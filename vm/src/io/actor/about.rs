//! Copies of a guest, and going back to one.

use super::*;

impl Actor {
    pub(super) fn about(&mut self, about: About, answer: VerbAnswer) {
        if !self.disk_is_still() {
            return self.park(Parked::About(about, answer));
        }
        let verb = match &about {
            About::Copy(saved::CopyTo::Snapshot(_)) => Verb::Copy { memory: true },
            About::Copy(saved::CopyTo::Guest(_)) => Verb::Copy { memory: false },
            About::RollBack(_) => Verb::RollBack,
        };
        let checked = self.check_about(&about);
        let begun = checked.and_then(|()| {
            let begun = self.machine.handle_verb(Instant::now(), verb);
            begun.map_err(VerbError::from)
        });
        if let Err(e) = begun {
            let _ = answer.send(Err(e));
            return;
        }
        self.about = Some(about);
        match verb {
            Verb::RollBack => self.waiters.roll_back.push(answer),
            _ => self.waiters.copy.push(answer),
        }
    }
}
