//! What can be typed, and what it means.

use super::*;
use crate::api::{CaptureRequest, LanAttach, Part, Role, WaitFor};
use clap::{CommandFactory, error::ErrorKind};
use std::path::Path;

fn parse(line: &str) -> Result<Cli, clap::Error> {
    Cli::try_parse_from(std::iter::once("lanline").chain(line.split_whitespace()))
}

/// Every verb for people that does something, with its path.
fn leaves(c: &clap::Command, path: &str, out: &mut Vec<(String, clap::Command)>) {
    for sub in c
        .get_subcommands()
        .filter(|s| s.get_name() != "help" && !s.is_hide_set())
    {
        let path = format!("{path} {}", sub.get_name()).trim().to_owned();
        match sub.has_subcommands() {
            true => leaves(sub, &path, out),
            false => out.push((path, sub.clone())),
        }
    }
}

#[test]
fn the_definition_is_sound_and_lists_these_verbs() {
    let mut command = Cli::command();
    command.clone().debug_assert();
    command.build();
    let mut all = Vec::new();
    leaves(&command, "", &mut all);
    let verbs: Vec<String> = all.into_iter().map(|(p, _)| p).collect();
    let wanted = "up,down,status,peers,ping,doctor,config show,lan create,lan attach,lan detach,lan invite,lan show,lan drops,\
                  lan traffic,lan trace,lan capture,lan mtu,lan policy,lan evict,\
                  join,hosts,query,futures,images,advise placement,load record,load play,offer,policy check,policy explain,policy simulate,policy edit,grant,grants,revoke,usage,image add,image ls,image show,image verify,image rm,image pull,image mount,image umount,image mounts,image publish,image export,image gc,image archive,run,ls,info,set,stop,start,restart,pause,resume,hibernate,restore,snapshot,clone,move,wait,exec,cp,ssh,display,rm,logs,console";
    assert_eq!(verbs.join(","), wanted);
}

#[test]
fn the_help_of_every_verb_shows_two_examples_of_itself() {
    let mut all = Vec::new();
    leaves(&Cli::command(), "", &mut all);
    for (path, c) in all {
        let help = c.get_after_help().map(ToString::to_string).unwrap_or_default();
        let (head, examples) = help.split_once('\n').unwrap_or_default();
        assert_eq!(head, "Examples:", "{path}");
        assert_eq!(examples.lines().count(), 2, "{path}");
        for line in examples.lines() {
            assert!(line.contains(&format!("lanline {path}")), "{path}: {line}");
        }
    }
}

#[test]
fn looking_closer() {
    let lan = |line: &str| match parse(line).unwrap().command {
        Command::Lan(c) => c,
        other => panic!("{other:?}"),
    };
    let trace = |line: &str| match lan(line) {
        LanCommand::Trace(a) => (a.request().lan, a.request().target),
        other => panic!("{other:?}"),
    };
    assert_eq!(trace("lan trace 10.0.0.1"), (None, "10.0.0.1".into()));
    assert_eq!(trace("lan trace home web"), (Some("home".into()), "web".into()));
    assert!(parse("lan trace").is_err() && parse("lan trace a b c").is_err());
    assert!(parse("lan show --watch").is_err(), "watch which?");
    let LanCommand::Capture(a) = lan("lan capture home --port lan0 --drops --for 30s --count 5 --snaplen 96 -w x")
    else {
        panic!("no capture")
    };
    let want = CaptureRequest {
        port: Some("lan0".into()),
        drops: true,
        count: Some(5),
        snaplen: Some(96),
        for_ms: Some(30_000),
        ..CaptureRequest::default()
    };
    assert_eq!((a.request(), a.file()), (want, Some(Path::new("x"))));
    for bad in [
        "--port a --member b",
        "--all --port a",
        "--snaplen 13",
        "--count 0",
        "--for soon",
    ] {
        assert!(parse(&format!("lan capture home {bad}")).is_err(), "{bad}");
    }
}

/// The part of an example that lanline itself gets.
fn command_of(example: &str) -> Vec<String> {
    let from = example.find("lanline").unwrap();
    let inner = example[from..]
        .split(" | ")
        .next()
        .unwrap()
        .split(" && ")
        .next()
        .unwrap();
    let inner = inner.strip_suffix(')').unwrap_or(inner);
    let mut words = Vec::new();
    // A text in double quotes may hold single ones.
    let quote = if inner.contains('"') { '"' } else { '\'' };
    for (i, piece) in inner.split(quote).enumerate() {
        match i % 2 {
            0 => words.extend(piece.split_whitespace().map(str::to_owned)),
            _ => words.push(piece.to_owned()),
        }
    }
    words
        .into_iter()
        .filter(|w| !w.starts_with("$(") && w != "-r" && !w.starts_with(".["))
        .collect()
}

#[test]
fn every_example_is_understood() {
    let mut all = Vec::new();
    leaves(&Cli::command(), "", &mut all);
    for (path, c) in all {
        let help = c.get_after_help().map(ToString::to_string).unwrap_or_default();
        for example in help.lines().skip(1).filter(|l| !l.contains("$(lanline grants")) {
            let words = command_of(example);
            assert!(Cli::try_parse_from(&words).is_ok(), "{path}: {words:?}");
        }
    }
}

#[test]
fn run_becomes_its_request() {
    let Ok(Cli {
        command: Command::Run(args),
        json: true,
        state: Some(state),
        ..
    }) = parse(
        "--state /s run debian:12 --name web --lan home --on attic --cpus 2 --memory 1G --disk 8G --timeout 90s --json",
    )
    else {
        panic!("not parsed");
    };
    assert_eq!(state, Path::new("/s"));
    let r = args.request();
    assert_eq!(
        (r.image.as_str(), r.name.as_deref(), r.lan.as_deref()),
        ("debian:12", Some("web"), Some("home"))
    );
    assert_eq!((r.host.as_deref(), r.cpus, r.memory_bytes), (Some("attic"), 2, 1 << 30));
    assert_eq!(
        (r.disk_bytes, r.timeout_ms, r.wait),
        (Some(8 << 30), 90_000, WaitFor::Ip)
    );
    let Ok(Cli {
        command: Command::Run(args),
        ..
    }) = parse("run tiny --wait running")
    else {
        panic!("not parsed")
    };
    let r = args.request();
    assert_eq!((r.cpus, r.memory_bytes, r.timeout_ms), (1, 512 << 20, 180_000));
    assert_eq!((r.wait, r.host), (WaitFor::Running, None));
}

#[test]
fn the_rest_becomes_its_requests() {
    let Ok(Cli {
        command: Command::Lan(LanCommand::Invite(a)),
        ..
    }) = parse("lan invite home --for host --expires 1h --uses 3")
    else {
        panic!("not parsed");
    };
    let r = a.request();
    assert_eq!((r.role, r.expires_ms, r.uses), (Role::Host, Some(3_600_000), Some(3)));
    let Ok(Cli {
        command: Command::Lan(LanCommand::Attach(a)),
        ..
    }) = parse("lan attach home --bridge br0")
    else {
        panic!("not parsed");
    };
    assert_eq!(
        a.request(),
        LanAttach {
            bridge: Some("br0".into()),
            ..LanAttach::default()
        }
    );
    let Ok(Cli {
        command: Command::Image(ImageCommand::Pull(a)),
        ..
    }) = parse("image pull tiny --part 2/2")
    else {
        panic!("not parsed");
    };
    assert_eq!(a.request().part, Some(Part { k: 2, n: 2 }));
    let Ok(Cli {
        command: Command::Image(ImageCommand::Add(a)),
        ..
    }) = parse("image add d.img --name tiny:3 --kernel /k")
    else {
        panic!("not parsed");
    };
    let r = a.request(Path::new("/here")).unwrap();
    assert_eq!(
        (r.file.as_str(), r.name.as_str(), r.tag.as_deref()),
        ("/here/d.img", "tiny", Some("3"))
    );
    assert_eq!(r.kernel.as_deref(), Some("/k"));
    let Ok(Cli {
        command: Command::Up(a),
        ..
    }) = parse("up --listen 127.0.0.1:0 --bootstrap /a --bootstrap /b --no-mdns")
    else {
        panic!("not parsed");
    };
    let f = a.flags();
    assert_eq!(
        (f.listen.as_deref(), f.bootstrap.len(), f.no_mdns),
        (Some("127.0.0.1:0"), 2, true)
    );
}

#[test]
fn slips_are_usage_errors() {
    for (line, kind) in [
        ("", ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand),
        ("teleport", ErrorKind::InvalidSubcommand),
        ("run", ErrorKind::MissingRequiredArgument),
        ("run x --memory lots", ErrorKind::ValueValidation),
        ("run x --cpus 0", ErrorKind::ValueValidation),
        ("run x --wait soon", ErrorKind::InvalidValue),
        ("run x --batch", ErrorKind::MissingRequiredArgument),
        ("exec x", ErrorKind::MissingRequiredArgument),
        ("snapshot x --rm", ErrorKind::MissingRequiredArgument),
        ("lan attach home", ErrorKind::MissingRequiredArgument),
        ("lan attach home --tap a --bridge b", ErrorKind::ArgumentConflict),
        ("lan invite home --expires soon", ErrorKind::ValueValidation),
        ("lan invite home --for owner", ErrorKind::InvalidValue),
        ("image add f", ErrorKind::MissingRequiredArgument),
        ("image add f --name x --initrd i", ErrorKind::MissingRequiredArgument),
        ("image pull x --part 3/2", ErrorKind::ValueValidation),
        ("offer --off --cpus 2", ErrorKind::ArgumentConflict),
        ("ping x --count 101", ErrorKind::ValueValidation),
        ("logs x --bytes 2M", ErrorKind::ValueValidation),
    ] {
        assert_eq!(parse(line).map(|_| ()).unwrap_err().kind(), kind, "{line}");
    }
}
