//! A policy's text to a [`Policy`], with errors that point at line and key and say what to write.
//!
//! The text is TOML, read with the place of every key and value, so that each error has one. Unknown keys are errors: a
//! limit that is misspelt must not be a limit that is missing.

use super::{
    Action, Amount, BitRate, Class, Conditions, Days, EnforcerChoice, Expr, Host, Hours, OnExpire, Policy, PolicyError,
    Rule, Share, preset,
    value::{celsius, duration},
};
use std::{ops::Range, time::Duration};
use toml::{
    Spanned,
    de::{DeTable, DeValue},
};
use wire::NodeId;

/// Longest policy, bytes.
pub(super) const MAX_TEXT: usize = 64 << 10;
/// Most rules, those of a preset among them.
pub(super) const MAX_RULES: usize = 64;
/// Longest list and longest word in one.
const MAX_LIST: usize = 256;

/// Reads a policy; a preset that it names comes first.
pub fn read(text: &str) -> Result<Policy, PolicyError> {
    let mut policy = Policy::default();
    if text.len() > MAX_TEXT {
        let end = Src { text, line0: 1 };
        return Err(end.error(
            0..0,
            None,
            format!("a policy has at most {MAX_TEXT} bytes"),
            "split or shorten it",
        ));
    }
    let src = Src { text, line0: 1 };
    let root = src.parse()?;
    if let Some(name) = preset_of(&src, &root)? {
        let base = preset::text(&name).unwrap_or_default();
        let base_src = Src { text: base, line0: 0 };
        base_src.fill(&base_src.parse()?, &mut policy)?;
        policy.preset = Some(name);
    }
    src.fill(&root, &mut policy)?;
    Ok(policy)
}

struct Src<'a> {
    text: &'a str,
    /// 1: lines are told; 0: it is a preset's, whose lines nobody sees.
    line0: u32,
}

type Table<'a> = DeTable<'a>;
type Value<'a> = Spanned<DeValue<'a>>;

fn preset_of(src: &Src<'_>, root: &Table<'_>) -> Result<Option<String>, PolicyError> {
    let Some(host) = root.get("host").and_then(|h| h.get_ref().as_table()) else {
        return Ok(None);
    };
    let Some(value) = host.get("preset") else {
        return Ok(None);
    };
    let names: Vec<&str> = preset::PRESETS.iter().map(|(n, ..)| *n).collect();
    match value.get_ref().as_str() {
        Some(n) if names.contains(&n) => Ok(Some(n.to_owned())),
        _ => Err(src.bad("preset", value, &format!("write one of: {}", names.join(", ")))),
    }
}

const HOST_KEYS: [&str; 25] = [
    "preset",
    "cpu",
    "weight",
    "smooth",
    "enforcer",
    "max_vms",
    "vms_per_user",
    "memory",
    "memory_min_free",
    "disk",
    "disk_min_free",
    "net_up",
    "net_down",
    "net_month",
    "images_up",
    "own_nodes",
    "allow",
    "images",
    "console",
    "price",
    "lease_max",
    "on_expire",
    "sensors",
    "period",
    "slice",
];
const RULE_KEYS: [&str; 25] = [
    "name",
    "days",
    "hours",
    "class",
    "when",
    "if_user_active",
    "if_battery",
    "if_metered",
    "if_temp_over",
    "if_load_over",
    "after",
    "resume_after",
    "cpu",
    "weight",
    "smooth",
    "memory",
    "net_up",
    "net_down",
    "images_up",
    "action",
    "period",
    "slice",
    "reserve",
    "max",
    "disk",
];

impl<'a> Src<'a> {
    fn parse(&self) -> Result<Table<'a>, PolicyError> {
        DeTable::parse(self.text).map(Spanned::into_inner).map_err(|e| {
            let at = e.span().unwrap_or(0..0);
            let what = format!("this is not TOML: {}", e.message());
            self.error(at, None, what, "write key = value, strings in quotes")
        })
    }

    fn line(&self, at: usize) -> u32 {
        let before = self.text.get(..at).unwrap_or(self.text);
        self.line0 * (1 + u32::try_from(before.matches('\n').count()).unwrap_or(u32::MAX - 1))
    }

    fn error(&self, at: Range<usize>, key: Option<&str>, what: String, fix: &str) -> PolicyError {
        let before = self.text.get(..at.start).unwrap_or(self.text);
        let column = before.rsplit('\n').next().unwrap_or_default().chars().count() + 1;
        PolicyError {
            line: self.line(at.start),
            column: u32::try_from(column).unwrap_or(u32::MAX),
            key: key.map(str::to_owned),
            what: wire::fault::plain(&what),
            fix: fix.to_owned(),
        }
    }

    fn bad(&self, key: &str, value: &Value<'_>, fix: &str) -> PolicyError {
        let shown = self.text.get(value.span()).unwrap_or("this").to_owned();
        let shown: String = shown.chars().take(60).collect();
        self.error(
            value.span(),
            Some(key),
            format!("{shown} is not a value for {key}"),
            fix,
        )
    }

    fn unknown(&self, key: &Spanned<std::borrow::Cow<'_, str>>, known: &[&str], place: &str) -> PolicyError {
        let word = key.get_ref().as_ref();
        let fix = match nearest(word, known) {
            Some(k) => format!("did you mean {k}?"),
            None => format!("keys of {place} are: {}", known.join(", ")),
        };
        self.error(key.span(), Some(word), format!("{place} has no key '{word}'"), &fix)
    }

    fn fill(&self, root: &Table<'a>, policy: &mut Policy) -> Result<(), PolicyError> {
        for (key, value) in root {
            match (key.get_ref().as_ref(), value.get_ref()) {
                ("host", DeValue::Table(t)) => self.host(t, &mut policy.host)?,
                ("rule", DeValue::Array(rules)) => {
                    for rule in rules.iter() {
                        let DeValue::Table(t) = rule.get_ref() else {
                            return Err(self.bad("rule", rule, "begin each rule with a line [[rule]]"));
                        };
                        if policy.rules.len() >= MAX_RULES {
                            let what = format!("there are more than {MAX_RULES} rules");
                            return Err(self.error(rule.span(), None, what, "merge some"));
                        }
                        let rule = self.rule(t, rule.span(), policy)?;
                        // A rule of the preset's name takes its place.
                        policy.rules.retain(|r| r.name != rule.name);
                        policy.rules.push(rule);
                    }
                }
                ("host", _) => return Err(self.bad("host", value, "begin it with a line [host]")),
                ("rule", _) => return Err(self.bad("rule", value, "begin each rule with a line [[rule]]")),
                _ => return Err(self.unknown(key, &["[host]", "[[rule]]"], "a policy")),
            }
        }
        Ok(())
    }

    fn host(&self, t: &Table<'a>, h: &mut Host) -> Result<(), PolicyError> {
        for (key, v) in t {
            let k = key.get_ref().as_ref();
            match k {
                "preset" => {}
                "cpu" => h.cpu = self.share(k, v)?,
                "weight" => h.weight = self.weight(k, v)?,
                "smooth" => h.smooth = self.period(k, v)?,
                "enforcer" => h.enforcer = self.enforcer(k, v)?,
                "max_vms" => h.max_vms = self.count(k, v)?,
                "vms_per_user" => h.vms_per_user = Some(self.count(k, v)?),
                "memory" => h.memory = self.amount(k, v)?,
                "memory_min_free" => h.memory_min_free = self.amount(k, v)?,
                "disk" => h.disk = Some(self.amount(k, v)?),
                "disk_min_free" => h.disk_min_free = self.amount(k, v)?,
                "net_up" => h.net_up = Some(self.rate(k, v)?),
                "net_down" => h.net_down = Some(self.rate(k, v)?),
                "net_month" => h.net_month = Some(self.bytes(k, v)?),
                "images_up" => h.images_up = Some(self.rate(k, v)?),
                "own_nodes" => h.own_nodes = Some(self.nodes(k, v)?),
                "allow" => h.allow = Some(self.list(k, v)?),
                "images" => h.images = Some(self.list(k, v)?),
                "console" => h.console = self.truth(k, v)?,
                "price" => h.price = self.price(k, v)?,
                "lease_max" => h.lease_max = Some(self.duration(k, v)?),
                "on_expire" => h.on_expire = self.on_expire(k, v)?,
                "sensors" => h.sensors = Some(self.string(k, v)?.to_owned()),
                "period" | "slice" => {
                    let what = format!("{k} is about one class of guests and belongs into a rule");
                    return Err(self.error(key.span(), Some(k), what, "write [[rule]] with class = \"interactive\""));
                }
                _ => return Err(self.unknown(key, &HOST_KEYS[..23], "[host]")),
            }
        }
        Ok(())
    }

    fn rule(&self, t: &Table<'a>, at: Range<usize>, so_far: &Policy) -> Result<Rule, PolicyError> {
        let mut r = Rule {
            line: self.line(at.start),
            ..Rule::default()
        };
        for (key, v) in t {
            let k = key.get_ref().as_ref();
            match k {
                "name" => r.name = self.string(k, v)?.to_owned(),
                "days" => r.days = Some(self.days(k, v)?),
                "hours" => r.hours = Some(self.hours(k, v)?),
                "class" => r.class = Some(self.class(k, v)?),
                "when" => r.when = Some(self.when(k, v)?),
                "after" => r.after = Some(self.duration(k, v)?),
                "resume_after" => r.resume_after = Some(self.duration(k, v)?),
                "cpu" => r.cpu = Some(self.share(k, v)?),
                "weight" => r.weight = Some(self.weight(k, v)?),
                "smooth" => r.smooth = Some(self.period(k, v)?),
                "memory" => r.memory = Some(self.amount(k, v)?),
                "net_up" => r.net_up = Some(self.rate(k, v)?),
                "net_down" => r.net_down = Some(self.rate(k, v)?),
                "images_up" => r.images_up = Some(self.rate(k, v)?),
                "action" => r.action = Some(self.action(k, v)?),
                "period" => r.period = Some(self.period(k, v)?),
                "slice" => r.slice = Some(self.duration(k, v)?),
                "reserve" => r.reserve = self.truth(k, v)?,
                "max" => r.max = Some(self.count(k, v)?),
                _ if k.starts_with("if_") => self.condition(key, v, &mut r.conditions)?,
                _ => return Err(self.unknown(key, &RULE_KEYS[..24], "a rule")),
            }
        }
        self.sense(&r, at, so_far)?;
        Ok(r)
    }

    fn condition(
        &self,
        key: &Spanned<std::borrow::Cow<'_, str>>,
        v: &Value<'_>,
        c: &mut Conditions,
    ) -> Result<(), PolicyError> {
        let k = key.get_ref().as_ref();
        match k {
            "if_user_active" => c.user_active = Some(self.duration(k, v)?),
            "if_battery" => c.battery = Some(self.truth(k, v)?),
            "if_metered" => c.metered = Some(self.truth(k, v)?),
            "if_temp_over" => {
                let t = self.string(k, v).ok().and_then(celsius);
                c.temp_over = Some(t.ok_or_else(|| self.bad(k, v, "write degrees Celsius, for example \"85C\""))?);
            }
            "if_load_over" => c.load_over = Some(self.share(k, v)?),
            _ => return Err(self.unknown(key, &RULE_KEYS[..23], "a rule")),
        }
        Ok(())
    }

    /// What a rule must be to mean something.
    fn sense(&self, r: &Rule, at: Range<usize>, so_far: &Policy) -> Result<(), PolicyError> {
        let wrong = |key: Option<&str>, what: String, fix: &str| Err(self.error(at.clone(), key, what, fix));
        let name = &r.name;
        if name.is_empty() || name.len() > 40 || name.chars().any(char::is_control) {
            return wrong(
                Some("name"),
                "a rule needs a name of at most 40 letters".into(),
                "write name = \"night\"",
            );
        }
        if so_far
            .rules
            .iter()
            .any(|o| o.name == *name && (o.line > 0 || self.line0 == 0))
        {
            return wrong(
                Some("name"),
                format!("two rules are called '{name}'"),
                "give each its own name",
            );
        }
        if r.is_conditional() && (r.period.is_some() || r.slice.is_some() || r.max.is_some()) {
            let what = format!("rule '{name}' would change promised slices by a condition");
            return wrong(
                Some("slice"),
                what,
                "put class, period, slice and max into a rule without conditions",
            );
        }
        if !r.is_conditional() && (r.after.is_some() || r.resume_after.is_some()) {
            let what = format!("rule '{name}' has no condition that could flap");
            return wrong(
                Some("after"),
                what,
                "remove after and resume_after, or add a condition such as if_battery = true",
            );
        }
        self.slices(r, &at)?;
        let effect = r.class.is_some()
            || r.cpu.is_some()
            || r.weight.is_some()
            || r.smooth.is_some()
            || r.memory.is_some()
            || r.net_up.is_some()
            || r.net_down.is_some()
            || r.images_up.is_some()
            || r.action.is_some();
        if !effect {
            return wrong(
                None,
                format!("rule '{name}' changes nothing"),
                "add what it sets, for example cpu = \"10%\" or action = \"pause\"",
            );
        }
        Ok(())
    }

    /// What is said of a class of guests fits together.
    fn slices(&self, r: &Rule, at: &Range<usize>) -> Result<(), PolicyError> {
        let wrong = |key: Option<&str>, what: String, fix: &str| Err(self.error(at.clone(), key, what, fix));
        let name = &r.name;
        let about_class = r.period.is_some() || r.slice.is_some() || r.reserve || r.max.is_some();
        match (r.class, about_class) {
            (None, true) => {
                let what = format!("rule '{name}' does not say for which guests its slice is");
                return wrong(Some("class"), what, "add class = \"interactive\" or class = \"batch\"");
            }
            (Some(_), false) => {
                let what = format!("rule '{name}' names a class and gives it nothing");
                return wrong(Some("class"), what, "add period and slice, or max");
            }
            _ => {}
        }
        match (r.period, r.slice) {
            (Some(p), Some(s)) if s > p || s.is_zero() => {
                return wrong(
                    Some("slice"),
                    format!("rule '{name}': a slice is more than 0 and at most its period"),
                    "write for example period = \"20ms\", slice = \"5ms\"",
                );
            }
            (Some(_), None) | (None, Some(_)) => {
                return wrong(
                    Some("slice"),
                    format!("rule '{name}' has only one of period and slice"),
                    "write both, for example period = \"20ms\", slice = \"5ms\"",
                );
            }
            (None, None) if r.reserve => {
                return wrong(
                    Some("reserve"),
                    format!("rule '{name}' promises a slice that it does not name"),
                    "add period = \"20ms\" and slice = \"5ms\"",
                );
            }
            _ => {}
        }
        Ok(())
    }

    fn string<'v>(&self, k: &str, v: &'v Value<'_>) -> Result<&'v str, PolicyError> {
        let s = v
            .get_ref()
            .as_str()
            .filter(|s| s.len() <= MAX_LIST && !s.chars().any(char::is_control));
        s.ok_or_else(|| self.bad(k, v, "write it in quotes, in one line"))
    }

    fn by<T>(&self, k: &str, v: &Value<'_>, f: impl Fn(&str) -> Option<T>, fix: &str) -> Result<T, PolicyError> {
        v.get_ref().as_str().and_then(f).ok_or_else(|| self.bad(k, v, fix))
    }

    fn share(&self, k: &str, v: &Value<'_>) -> Result<Share, PolicyError> {
        self.by(
            k,
            v,
            Share::read,
            "write a part of the machine, \"25%\", or processors, \"1.5 cores\"",
        )
    }

    fn amount(&self, k: &str, v: &Value<'_>) -> Result<Amount, PolicyError> {
        self.by(k, v, Amount::read, "write \"50%\" or a size such as \"4GiB\"")
    }

    fn bytes(&self, k: &str, v: &Value<'_>) -> Result<u64, PolicyError> {
        self.by(k, v, super::value::bytes, "write a size such as \"200GB\"")
    }

    fn rate(&self, k: &str, v: &Value<'_>) -> Result<BitRate, PolicyError> {
        self.by(
            k,
            v,
            BitRate::read,
            "write bits a second, for example \"10Mbit\", or \"0\"",
        )
    }

    fn duration(&self, k: &str, v: &Value<'_>) -> Result<Duration, PolicyError> {
        self.by(k, v, duration, "write a time such as \"30s\", \"5m\", \"8h\" or \"7d\"")
    }

    fn period(&self, k: &str, v: &Value<'_>) -> Result<Duration, PolicyError> {
        let fits = |d: &Duration| (Duration::from_millis(1)..=Duration::from_secs(1)).contains(d);
        self.by(
            k,
            v,
            |s| duration(s).filter(fits),
            "write a time between \"1ms\" and \"1s\"",
        )
    }

    fn days(&self, k: &str, v: &Value<'_>) -> Result<Days, PolicyError> {
        self.by(
            k,
            v,
            Days::read,
            "write days such as \"mon-fri\", \"sat,sun\" or \"weekend\"",
        )
    }

    fn hours(&self, k: &str, v: &Value<'_>) -> Result<Hours, PolicyError> {
        self.by(k, v, Hours::read, "write hours such as \"22:00-07:00\" (local time)")
    }

    fn class(&self, k: &str, v: &Value<'_>) -> Result<Class, PolicyError> {
        let f = |s: &str| [Class::Interactive, Class::Batch].into_iter().find(|c| c.as_str() == s);
        self.by(k, v, f, "write \"interactive\" or \"batch\"")
    }

    fn action(&self, k: &str, v: &Value<'_>) -> Result<Action, PolicyError> {
        let all = [Action::Refuse, Action::Pause, Action::Move, Action::Hibernate];
        let f = |s: &str| all.into_iter().find(|a| a.as_str() == s);
        self.by(k, v, f, "write \"refuse-new\", \"pause\", \"move\" or \"hibernate\"")
    }

    fn on_expire(&self, k: &str, v: &Value<'_>) -> Result<OnExpire, PolicyError> {
        let f = |s: &str| match s {
            "hibernate" => Some(OnExpire::Hibernate),
            "stop" => Some(OnExpire::Stop),
            _ => None,
        };
        self.by(k, v, f, "write \"hibernate\" or \"stop\"")
    }

    fn enforcer(&self, k: &str, v: &Value<'_>) -> Result<EnforcerChoice, PolicyError> {
        let f = |s: &str| match s {
            "auto" => Some(EnforcerChoice::Auto),
            "deadline" => Some(EnforcerChoice::Deadline),
            "cgroup" => Some(EnforcerChoice::Cgroup),
            "sigstop" => Some(EnforcerChoice::Sigstop),
            _ => None,
        };
        self.by(k, v, f, "write \"auto\", \"deadline\", \"cgroup\" or \"sigstop\"")
    }

    fn when(&self, k: &str, v: &Value<'_>) -> Result<Expr, PolicyError> {
        let text = self.string(k, v)?;
        Expr::read(text).map_err(|why| {
            let fix = "compare readings with numbers, for example \"solar_w > 500 || price < 0.15\"";
            self.error(v.span(), Some(k), format!("this expression cannot be read: {why}"), fix)
        })
    }

    fn truth(&self, k: &str, v: &Value<'_>) -> Result<bool, PolicyError> {
        v.get_ref()
            .as_bool()
            .ok_or_else(|| self.bad(k, v, "write true or false, without quotes"))
    }

    fn number(&self, k: &str, v: &Value<'_>, range: Range<u32>, fix: &str) -> Result<u32, PolicyError> {
        let n = v
            .get_ref()
            .as_integer()
            .and_then(|i| u32::from_str_radix(i.as_str(), i.radix()).ok());
        n.filter(|n| range.contains(n)).ok_or_else(|| self.bad(k, v, fix))
    }

    fn weight(&self, k: &str, v: &Value<'_>) -> Result<u32, PolicyError> {
        self.number(
            k,
            v,
            1..10_001,
            "write a number from 1 to 10000; your own programs have 100",
        )
    }

    fn count(&self, k: &str, v: &Value<'_>) -> Result<u16, PolicyError> {
        let n = self.number(k, v, 0..1_001, "write a number from 0 to 1000")?;
        Ok(u16::try_from(n).unwrap_or(u16::MAX))
    }

    fn price(&self, k: &str, v: &Value<'_>) -> Result<u32, PolicyError> {
        self.number(k, v, 0..1_000_000_001, "write thousandths for an hour of one processor")
    }

    fn nodes(&self, k: &str, v: &Value<'_>) -> Result<Vec<NodeId>, PolicyError> {
        let fix = "write node ids, which 'lanline peers' shows: [\"jifcvq…\"]";
        let ids = self.list(k, v)?;
        ids.iter().map(|i| i.parse().map_err(|_| self.bad(k, v, fix))).collect()
    }

    fn list(&self, k: &str, v: &Value<'_>) -> Result<Vec<String>, PolicyError> {
        let fix = "write a list of words in quotes: [\"one\", \"two\"]";
        let items = v
            .get_ref()
            .as_array()
            .filter(|a| a.len() <= MAX_LIST)
            .ok_or_else(|| self.bad(k, v, fix))?;
        items.iter().map(|i| self.string(k, i).map(str::to_owned)).collect()
    }
}

/// The known word that is at most two letters away.
fn nearest<'k>(word: &str, known: &[&'k str]) -> Option<&'k str> {
    let found = known.iter().map(|k| (distance(word, k), *k)).min()?;
    (found.0 <= 2).then_some(found.1)
}

fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, ca) in a.chars().take(40).enumerate() {
        let mut corner = std::mem::replace(&mut row[0], i + 1);
        for (j, cb) in b.iter().enumerate() {
            let next = (corner + usize::from(ca != *cb)).min(row[j] + 1).min(row[j + 1] + 1);
            corner = std::mem::replace(&mut row[j + 1], next);
        }
    }
    row.last().copied().unwrap_or(usize::MAX)
}
