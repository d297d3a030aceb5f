//! Every route, by bytes and by the client.

use super::{Running, scripted};
use node::{
    api::{
        routes::{Method, Op, ROUTES, Shape},
        *,
    },
    io::client::EMPTY,
};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use wire::{Fault, FaultKind};

pub fn run_request(image: &str) -> RunRequest {
    RunRequest {
        image: image.into(),
        name: None,
        lan: Some("home".into()),
        host: None,
        cpus: 1,
        memory_bytes: 1 << 29,
        disk_bytes: None,
        net_policy: Default::default(),
        user_data: None,
        batch: None,
        warm: false,
        persistent: false,
        wait: WaitFor::Ip,
        timeout_ms: 1_000,
    }
}

/// A body that the operation takes.
fn sample(op: Op) -> Value {
    match op {
        Op::Ping => json!({ "peer": "attic", "count": 2 }),
        Op::LanCreate => json!({ "name": "home" }),
        Op::LanAttach => json!({ "tap": "lan0" }),
        Op::LanInvite => json!({ "role": "host" }),
        Op::LanEvict => json!({ "peer": "attic" }),
        Op::Join => json!({ "ticket": "lan1abc" }),
        Op::LanTrace => json!({ "target": "192.168.1.1" }),
        Op::Query => json!({ "sql": "SELECT name FROM hosts" }),
        Op::Grant => json!({ "key": "attic" }),
        Op::ImagePublish => json!({ "name": "web" }),
        Op::ImageExport => json!({ "file": "/x.img" }),
        Op::ImageArchive => json!({ "folder": "/mnt/cold" }),
        Op::ImageMount | Op::ImageUmount => json!({ "dir": "/mnt/tiny" }),
        Op::ImageAdd => json!({ "file": "/x.img", "name": "tiny" }),
        Op::GuestLife => json!({ "act": "pause" }),
        Op::GuestClone => json!({ "name": "web-2" }),
        Op::GuestWait => json!({ "until": "ip" }),
        Op::GuestExec => json!({ "argv": ["true"] }),
        Op::GuestRead => json!({ "path": "/etc/hosts" }),
        Op::GuestWrite => json!({ "path": "/x", "data_base64": "eA==" }),
        Op::Run => serde_json::to_value(run_request("tiny")).unwrap(),
        _ => json!({}),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_route_answers_in_its_shape() {
    let node = Running::start();
    // The one that ends the node comes last.
    for r in ROUTES
        .iter()
        .filter(|r| r.op != Op::Down)
        .chain(ROUTES.iter().filter(|r| r.op == Op::Down))
    {
        let args: Vec<&str> = r.parameters().map(|_| "thing").collect();
        let body = if r.body.is_some() {
            sample(r.op).to_string()
        } else {
            String::new()
        };
        let headers = match r.shape {
            Shape::Upgrade => "Connection: upgrade\r\nUpgrade: lanline-console\r\n",
            _ => "Connection: close\r\n",
        };
        let (status, head, answer) = node.raw(r.method, &r.fill(&args), headers, body.as_bytes()).await;
        let (wanted, kind) = match r.shape {
            Shape::Json => (200, "application/json"),
            Shape::Stream => (200, "application/x-ndjson"),
            Shape::Text => (200, "application/openmetrics-text; version=1.0.0"),
            Shape::Capture => (200, "content-type: application/x-pcapng"),
            Shape::Upgrade => (101, "upgrade: lanline-console"),
        };
        assert_eq!(status, wanted, "{:?}: {head} {answer}", r.op);
        assert!(head.contains(kind), "{:?}: {head}", r.op);
        if r.shape == Shape::Stream {
            assert!(answer.contains("{\"event\":\"done\""), "{:?}: {answer}", r.op);
        }
    }
    node.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_document_is_served_and_the_client_reads_types() {
    let node = Running::start();
    let doc: Value = node.client().call(Op::OpenApi, &[], EMPTY).await.unwrap();
    assert_eq!(doc["openapi"], "3.1.0");
    assert_eq!(doc, openapi::document());
    let status: Status = node.client().call(Op::Status, &[], EMPTY).await.unwrap();
    assert_eq!((status.id.as_str(), status.pid), (scripted::ME, std::process::id()));
    // A name with everything that has a meaning in a URL reaches the service as it was typed.
    let odd = "a/b?c#d e%41:1@é";
    let view: GuestView = node.client().call(Op::GuestInfo, &[odd], EMPTY).await.unwrap();
    assert_eq!(view.guest.name, odd);
    let part = ImagePull {
        part: Some(Part { k: 1, n: 2 }),
    };
    let pulled: PullResult = node
        .client()
        .stream(Op::ImagePull, &["tiny:1@attic"], Some(&part), |_| {})
        .await
        .unwrap();
    assert_eq!(
        (pulled.names[0].as_str(), pulled.pieces, pulled.complete),
        ("tiny:1@attic", 400, false)
    );
    node.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_gives_its_lines_in_order_then_its_end() {
    let node = Running::start();
    let mut lines = Vec::new();
    let result: RunResult = node
        .client()
        .stream(Op::Run, &[], Some(&run_request("tiny")), |l| lines.push(l))
        .await
        .unwrap();
    assert_eq!(result.ip.as_deref(), Some("192.168.1.57"));
    assert_eq!(lines.len(), 6);
    assert!(matches!(&lines[1], Line::Step(s) if s.step == "host" && s.at_ms == 12));
    assert!(matches!(&lines[4], Line::Progress(p) if Some(p.done) == p.total && p.peers == Some(2)));
    let end: Result<RunResult, Fault> = node
        .client()
        .stream(Op::Run, &[], Some(&run_request("fault-refused")), |_| {})
        .await;
    assert_eq!(
        end.unwrap_err(),
        Fault::new(FaultKind::Refused, "scripted failure of run")
    );
    node.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn each_kind_of_failure_has_its_status_and_reaches_the_client_whole() {
    let node = Running::start();
    let kinds = [
        (FaultKind::Failed, 500),
        (FaultKind::Usage, 400),
        (FaultKind::Refused, 403),
        (FaultKind::NoMatch, 404),
        (FaultKind::TimedOut, 504),
        (FaultKind::Unreachable, 502),
        (FaultKind::Missing, 501),
    ];
    for (kind, wanted) in kinds {
        let name = format!("fault-{}", serde_json::to_value(kind).unwrap().as_str().unwrap());
        let path = format!("/v1/guests/{name}");
        let (status, _, body) = node.raw(Method::Get, &path, "Connection: close\r\n", b"").await;
        assert_eq!(status, wanted, "{body}");
        let said: Fault =
            serde_json::from_value(serde_json::from_str::<Value>(&body).unwrap()["fault"].clone()).unwrap();
        let got = node
            .client()
            .call::<(), GuestView>(Op::GuestInfo, &[&name], EMPTY)
            .await
            .unwrap_err();
        assert_eq!((got.kind, got.next.as_deref()), (kind, Some("do something else")));
        assert_eq!(said, got);
    }
    node.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_that_make_no_sense_are_told_why() {
    let node = Running::start();
    for (method, path, body, status, needle) in [
        (Method::Get, "/v1/nothing", "", 404, "no operation has this path"),
        (Method::Delete, "/v1/status", "", 405, "with this method"),
        (Method::Post, "/v1/lans", "{", 400, "EOF"),
        (Method::Post, "/v1/lans", "{\"name\":\"x\",\"nmae\":1}", 400, "nmae"),
        (Method::Post, "/v1/run", "{}", 400, "image"),
        (Method::Get, "/v1/status?x=1", "", 400, "'x'"),
        (Method::Get, "/v1/guests/web/logs?max_bytes=0", "", 400, "max_bytes"),
        (
            Method::Get,
            "/v1/guests/web/logs?max_bytes=9999999999",
            "",
            400,
            "max_bytes",
        ),
        (
            Method::Post,
            "/v1/images/x/pull?on_disconnect=maybe",
            "",
            400,
            "on_disconnect",
        ),
        (Method::Get, "/v1/guests/web/console", "", 426, "lanline-console"),
    ] {
        let (got, _, answer) = node.raw(method, path, "Connection: close\r\n", body.as_bytes()).await;
        assert_eq!(got, status, "{path}: {answer}");
        let v: Value = serde_json::from_str(&answer).unwrap();
        assert_eq!(v["fault"]["kind"], "usage", "{path}");
        assert!(
            v["fault"]["what"].as_str().unwrap().contains(needle),
            "{path}: {answer}"
        );
    }
    node.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_console_is_bytes_both_ways() {
    let node = Running::start();
    let mut console = node.client().console("web").await.unwrap();
    let mut hello = [0; 7];
    console.read_exact(&mut hello).await.unwrap();
    assert_eq!(&hello, b"login: ");
    let noise: Vec<u8> = (0..=255).collect();
    console.write_all(&noise).await.unwrap();
    let mut back = vec![0; noise.len()];
    console.read_exact(&mut back).await.unwrap();
    assert_eq!(back, noise);
    let refused = node.client().console("fault-no_match").await.unwrap_err();
    assert_eq!(refused.kind, FaultKind::NoMatch);
    node.stop.cancel();
    let mut rest = Vec::new();
    console.read_to_end(&mut rest).await.unwrap();
    assert!(rest.is_empty(), "the end of the node is the end of the console");
    node.end().await;
}
