//! The OpenAPI 3.1 document, made of [`ROUTES`] and the types' own schemas. <https://spec.openapis.org/oas/v3.1.0>

use super::{
    Line,
    routes::{ROUTES, Route, Shape},
};
use schemars::{JsonSchema, SchemaGenerator, generate::SchemaSettings};
use serde_json::{Map, Value, json};

/// A failure: what happened and why, what to do, and a kind that is an exit code of the command line.
#[derive(JsonSchema)]
#[schemars(rename = "Fault")]
#[expect(dead_code, reason = "the schema of wire::Fault, which knows nothing of schemas")]
pub struct FaultSchema {
    /// Kind of failure.
    kind: FaultKindSchema,
    /// What happened and why.
    what: String,
    /// What to do next.
    next: Option<String>,
}

#[derive(JsonSchema)]
#[schemars(rename = "FaultKind", rename_all = "snake_case")]
#[expect(dead_code, reason = "the schema of wire::FaultKind, which knows nothing of schemas")]
enum FaultKindSchema {
    Failed,
    Usage,
    Refused,
    NoMatch,
    TimedOut,
    Unreachable,
    Missing,
}

/// Body of every answer that is not a success.
#[derive(JsonSchema)]
#[expect(dead_code, reason = "only its schema is used")]
struct FaultAnswer {
    /// What went wrong.
    fault: FaultSchema,
}

/// The document.
pub fn document() -> Value {
    let settings = SchemaSettings::draft2020_12().with(|s| {
        s.definitions_path = "/components/schemas".into();
        s.meta_schema = None;
    });
    let mut g = settings.into_generator();
    let mut paths = Map::new();
    for r in ROUTES {
        let item = paths.entry(r.path).or_insert_with(|| json!({}));
        if let Value::Object(item) = item {
            item.insert(r.method.as_str().to_ascii_lowercase(), operation(r, &mut g));
        }
    }
    let schemas = g.take_definitions(true);
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "lanline node",
            "version": env!("CARGO_PKG_VERSION"),
            "description": "Control API of one node, as HTTP on the unix socket control.sock of its state folder. \
                            Whoever may open the socket may do everything.",
        },
        "servers": [{ "url": "http://localhost", "description": "curl --unix-socket DIR/control.sock" }],
        "paths": paths,
        "components": { "schemas": schemas },
    })
}

fn operation(r: &Route, g: &mut SchemaGenerator) -> Value {
    let path = r
        .parameters()
        .map(|p| json!({ "name": p, "in": "path", "required": true, "schema": { "type": "string" } }));
    let query = r.query.iter().map(|(name, meaning)| {
        json!({ "name": name, "in": "query", "required": false, "description": meaning, "schema": { "type": "string" } })
    });
    let parameters: Vec<Value> = path.chain(query).collect();
    let mut responses = Map::new();
    let (status, success) = success(r, g);
    responses.insert(status.to_owned(), success);
    let fault = g.subschema_for::<FaultAnswer>();
    responses.insert(
        "default".to_owned(),
        json!({ "description": "It did not work.", "content": { "application/json": { "schema": fault } } }),
    );
    let mut out = json!({
        "operationId": format!("{:?}", r.op),
        "summary": r.summary,
        "parameters": parameters,
        "responses": responses,
    });
    if let (Some(body), Value::Object(o)) = (r.body, &mut out) {
        let schema = body(g);
        let content = json!({ "required": true, "content": { "application/json": { "schema": schema } } });
        o.insert("requestBody".to_owned(), content);
    }
    out
}

fn success(r: &Route, g: &mut SchemaGenerator) -> (&'static str, Value) {
    let answer = r.answer.map(|f| f(g));
    match r.shape {
        Shape::Json => (
            "200",
            json!({ "description": "Done.", "content": { "application/json": { "schema": answer } } }),
        ),
        Shape::Text => {
            let content = json!({ "application/openmetrics-text": { "schema": { "type": "string" } } });
            ("200", json!({ "description": "Text.", "content": content }))
        }
        Shape::Capture => {
            let content = json!({ "application/x-pcapng": { "schema": { "type": "string", "format": "binary" } } });
            (
                "200",
                json!({ "description": "Begun: a pcapng file that grows until the capture ends.", "content": content }),
            )
        }
        Shape::Stream => {
            let line = g.subschema_for::<Line>();
            let content = json!({ "application/x-ndjson": { "schema": line, "x-result": answer } });
            let what = "Begun: one JSON object a line; the last has the event done, with the result in x-result's schema, or fault.";
            ("200", json!({ "description": what, "content": content }))
        }
        Shape::Upgrade => {
            let what =
                "Switched: send `Connection: upgrade` and `Upgrade: lanline-console`; raw bytes follow, both ways.";
            ("101", json!({ "description": what }))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    fn refs(v: &Value, out: &mut BTreeSet<String>) {
        match v {
            Value::Object(o) => {
                if let Some(Value::String(r)) = o.get("$ref") {
                    out.insert(r.clone());
                }
                o.values().for_each(|v| refs(v, out));
            }
            Value::Array(a) => a.iter().for_each(|v| refs(v, out)),
            _ => {}
        }
    }

    #[test]
    fn every_route_is_in_it_and_nothing_else() {
        let doc = document();
        let told: BTreeSet<(String, String, String)> = doc["paths"]
            .as_object()
            .unwrap()
            .iter()
            .flat_map(|(p, item)| {
                item.as_object()
                    .unwrap()
                    .iter()
                    .map(move |(m, o)| (p.clone(), m.to_uppercase(), o))
            })
            .map(|(p, m, o)| (p, m, o["operationId"].as_str().unwrap().to_owned()))
            .collect();
        let there: BTreeSet<(String, String, String)> = ROUTES
            .iter()
            .map(|r| (r.path.into(), r.method.as_str().into(), format!("{:?}", r.op)))
            .collect();
        assert_eq!(told, there);
    }

    #[test]
    fn every_reference_resolves() {
        let doc = document();
        let mut all = BTreeSet::new();
        refs(&doc, &mut all);
        assert!(all.contains("#/components/schemas/RunResult"), "{all:?}");
        assert!(all.contains("#/components/schemas/Fault"));
        for r in all {
            let at = r.strip_prefix('#').unwrap();
            assert!(doc.pointer(at).is_some(), "{r} leads nowhere");
        }
    }

    #[test]
    fn the_schema_of_faults_is_that_of_faults() {
        let doc = document();
        let kinds = &doc["components"]["schemas"]["FaultKind"]["enum"];
        use wire::FaultKind as K;
        let all = [
            K::Failed,
            K::Usage,
            K::Refused,
            K::NoMatch,
            K::TimedOut,
            K::Unreachable,
            K::Missing,
        ];
        assert_eq!(kinds, &serde_json::to_value(all).unwrap());
        let keys: Vec<&String> = doc["components"]["schemas"]["Fault"]["properties"]
            .as_object()
            .unwrap()
            .keys()
            .collect();
        let fault = serde_json::to_value(wire::Fault::new(K::Failed, "x")).unwrap();
        assert_eq!(keys, fault.as_object().unwrap().keys().collect::<Vec<_>>());
    }
}
