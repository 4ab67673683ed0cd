//! The OpenAPI 3.1 document, made of the table of routes.

use serde_json::{Map, Value, json};

use super::routes::{About, Action, ROUTES, Route};

/// The document.
pub fn document() -> Value {
    let paths: Map<String, Value> = ROUTES.iter().map(|route| (route.path.into(), path(route))).collect();
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "polar-raw",
            "version": env!("CARGO_PKG_VERSION"),
            "summary": "Scores of a POLAR reward model",
            "description":
                "A score says how close the writer of a candidate is to the writer of a reference answer. Higher is \
                 closer. Scores have no unit and no bounds; only those of one prompt and reference can be compared.",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "servers": [{"url": "/"}],
        "paths": paths,
        "components": {
            "schemas": schemas(),
            "responses": responses(),
            "headers": headers(),
            "securitySchemes": {
                "key": {
                    "type": "http",
                    "scheme": "bearer",
                    "description": "Asked for if the server was started with a key.",
                },
            },
        },
    })
}

fn schema(name: &str) -> Value {
    json!({"$ref": format!("#/components/schemas/{name}")})
}

/// What lets a page of another origin read an answer.
fn headers() -> Value {
    json!({
        "AllowOrigin": {
            "description": "The page's origin, or *, if the server was started with --cors for it",
            "schema": {"type": "string"},
        },
    })
}

/// An answer, which may say that a page of another origin may read it.
fn readable(mut answer: Value) -> Value {
    answer["headers"]["Access-Control-Allow-Origin"] = json!({"$ref": "#/components/headers/AllowOrigin"});
    answer
}

/// What a browser asks before a page of another origin does.
fn preflight(id: &str) -> Value {
    let header = |description: &str| json!({"description": description, "schema": {"type": "string"}});
    let asked = |name: &str, schema: Value| json!({"name": name, "in": "header", "required": true, "schema": schema});
    let mut allowed = readable(json!({"description": "The page may ask"}));
    allowed["headers"]["Access-Control-Allow-Methods"] = header("GET, POST");
    allowed["headers"]["Access-Control-Allow-Headers"] = header("authorization, content-type");
    allowed["headers"]["Access-Control-Max-Age"] = header("Seconds for which that may be remembered");
    let mut answers = Map::new();
    answers.insert("204".into(), allowed);
    for status in ["400", "401", "405", "431"] {
        answers.insert(status.into(), json!({"$ref": format!("#/components/responses/{status}")}));
    }
    json!({
        "operationId": format!("{id}_preflight"),
        "summary": "Whether a page of another origin may ask",
        "security": [],
        "parameters": [
            asked("Origin", json!({"type": "string"})),
            asked("Access-Control-Request-Method", json!({"type": "string", "enum": ["GET", "POST"]})),
        ],
        "responses": answers,
    })
}

fn content(kind: &str, schema: Value) -> Value {
    json!({kind: {"schema": schema}})
}

fn path(route: &Route) -> Value {
    let id = route.path.trim_start_matches('/').replace(['/', '.'], "_");
    let secured = json!([{}, {"key": []}]);
    match route.action {
        Action::Score { request, reply, .. } => {
            let mut answers = Map::new();
            let ok = json!({"description": "The scores", "content": content("application/json", schema(reply))});
            answers.insert("200".into(), readable(ok));
            for status in ["400", "401", "404", "408", "413", "415", "429", "431", "500", "503"] {
                answers.insert(status.into(), json!({"$ref": format!("#/components/responses/{status}")}));
            }
            json!({"post": {
                "operationId": id,
                "summary": route.summary,
                "security": secured,
                "requestBody": {"required": true, "content": content("application/json", schema(request))},
                "responses": answers,
            }, "options": preflight(&id)})
        }
        Action::Get(about) => {
            let (kind, body) = match about {
                About::Health | About::Ready | About::Generate => ("application/json", schema("Status")),
                About::Models => ("application/json", schema("Models")),
                About::ModelInfo => ("application/json", schema("ModelInfo")),
                About::Metrics => ("application/openmetrics-text", json!({"type": "string"})),
                About::OpenApi => ("application/json", json!({"type": "object"})),
            };
            let mut answers = Map::new();
            let ok = json!({"description": route.summary, "content": content(kind, body)});
            answers.insert("200".into(), readable(ok));
            for status in ["400", "431"] {
                answers.insert(status.into(), json!({"$ref": format!("#/components/responses/{status}")}));
            }
            if matches!(about, About::Ready | About::Models | About::ModelInfo | About::Generate) {
                answers.insert("503".into(), json!({"$ref": "#/components/responses/503"}));
            }
            if about == About::Generate {
                answers.insert("429".into(), json!({"$ref": "#/components/responses/429"}));
            }
            let open = matches!(about, About::Health | About::Ready);
            if !open {
                answers.insert("401".into(), json!({"$ref": "#/components/responses/401"}));
            }
            json!({"get": {
                "operationId": id,
                "summary": route.summary,
                "security": if open { json!([]) } else { secured },
                "responses": answers,
            }, "options": preflight(&id)})
        }
    }
}

fn responses() -> Value {
    let error = |description: &str| {
        readable(json!({"description": description, "content": content("application/json", schema("Error"))}))
    };
    let later = |description: &str| {
        let mut response = error(description);
        response["headers"]["Retry-After"] = json!({"description": "Seconds to wait", "schema": {"type": "integer"}});
        response
    };
    json!({
        "400": error("The request is wrong; the message names key and index"),
        "401": error("The key is missing or wrong"),
        "404": error("There is no such path or model"),
        "405": error("The path is not for this method; of pages of other origins, none may ask"),
        "408": error("The body did not arrive in time"),
        "413": error("The body is too large, or the sequences made of it are"),
        "415": error("The body is packed"),
        "429": later("Too many requests are waiting, in all or of one address, or too large ones"),
        "431": error("The head is too large"),
        "500": error("A score is not a finite number"),
        "503": later("The model is being loaded, the server stops, time is up, or the device failed"),
    })
}

fn schemas() -> Value {
    let id = json!({"type": "integer", "minimum": 0, "maximum": u32::MAX});
    let ids = json!({"type": "array", "items": id, "minItems": 1});
    let strings =
        json!({"type": "array", "items": {"type": "string"}, "minItems": 1, "maxItems": super::input::MAX_SEQUENCES});
    let sequences = json!({"type": "array", "items": ids, "minItems": 1, "maxItems": super::input::MAX_SEQUENCES});
    let scores = json!({"type": "array", "items": {"type": "number"}});
    let text = schema("Text");
    let texts = json!({"type": "array", "items": text, "minItems": 1, "maxItems": super::input::MAX_SEQUENCES});
    let listed = |item: Value| {
        json!({
            "type": "object",
            "required": ["id", "object", "created", "model", "data", "usage"],
            "properties": {
                "id": {"type": "string"},
                "object": {"const": "list"},
                "created": {"type": "integer"},
                "model": {"type": "string"},
                "data": {"type": "array", "items": item},
                "usage": schema("Usage"),
            },
        })
    };
    let encoded = "Strings as POLAR's client encodes them, `prompt reference <|reward|> prompt candidate \
                   [UNUSED_TOKEN_130]`: one separator, and the score token at the end.";
    let embedding = json!({
        "type": "object",
        "required": ["embedding"],
        "properties": {
            "embedding": {"type": "array", "items": {"type": "number"}, "minItems": 1, "maxItems": 1},
            "meta_info": {"type": "object"},
        },
    });
    let classes = listed(json!({
        "type": "object",
        "required": ["index", "probs", "num_classes"],
        "properties": {
            "index": {"type": "integer"},
            "label": {"type": "null"},
            "probs": {"type": "array", "items": {"type": "number"}, "minItems": 1, "maxItems": 1,
                      "description": "The score as it is: no probability"},
            "num_classes": {"const": 1},
        },
    }));
    let part = json!({
        "type": "object",
        "required": ["type", "text"],
        "properties": {"type": {"const": "text"}, "text": {"type": "string"}},
    });
    let content = json!({"oneOf": [{"type": "string"}, {"type": "array", "items": part}]});
    json!({
        "Text": {
            "description": "A string, or messages: their contents are joined by newlines, roles are dropped. The texts of \
                            a content's parts are put together.",
            "oneOf": [
                {"type": "string"},
                {"type": "array", "minItems": 1, "items": {
                    "type": "object",
                    "required": ["content"],
                    "properties": {"role": {"type": "string"}, "content": content},
                }},
            ],
        },
        "Input": {"description": encoded, "oneOf": [{"type": "string"}, strings, ids, sequences]},
        "Usage": {
            "type": "object",
            "required": ["prompt_tokens", "completion_tokens", "total_tokens"],
            "properties": {
                "prompt_tokens": {"type": "integer"},
                "completion_tokens": {"type": "integer"},
                "total_tokens": {"type": "integer"},
            },
        },
        "ScoreRequest": {
            "type": "object",
            "required": ["prompt", "reference", "candidates"],
            "additionalProperties": false,
            "properties": {
                "model": {"type": ["string", "null"], "description": "Must be the served model's name, if given"},
                "prompt": text,
                "reference": text,
                "candidates": texts,
                "wrapper": {"enum": ["sft", "pretrain", null], "description": "How prompt and answer are joined"},
                "max_length": {"type": ["integer", "null"], "minimum": 8},
                "max_response_length": {"type": ["integer", "null"], "minimum": 2},
                "cut_side": {"enum": ["right", "left"], "default": "right", "description": "Which end of a response that is too long goes"},
                "normalise": {"enum": ["raw", "z-score", "rank", "reference", "running", null],
                              "description": "As the server was started, unless given"},
            },
        },
        "ScoreReply": {
            "type": "object",
            "required": ["id", "object", "created", "model", "data", "usage"],
            "properties": {
                "id": {"type": "string"},
                "object": {"const": "list"},
                "created": {"type": "integer"},
                "model": {"type": "string"},
                "data": {"type": "array", "items": {
                    "type": "object",
                    "required": ["index", "score", "cut"],
                    "properties": {
                        "index": {"type": "integer"},
                        "score": {"type": "number"},
                        "normalised": {"type": "number"},
                        "cut": {
                            "type": "object",
                            "description": "Tokens that were cut off to keep the lengths",
                            "required": ["prompt", "reference", "candidate"],
                            "properties": {
                                "prompt": {"type": "integer"},
                                "reference": {"type": "integer"},
                                "candidate": {"type": "integer"},
                            },
                        },
                    },
                }},
                "usage": schema("Usage"),
            },
        },
        "ClassifyRequest": {
            "type": "object",
            "description": "One of text and input_ids in SGLang's form, or input in vLLM's.",
            "properties": {
                "model": {"type": "string"},
                "text": {"description": encoded, "oneOf": [{"type": "string"}, strings]},
                "input_ids": {"oneOf": [ids, sequences]},
                "input": schema("Input"),
            },
            "oneOf": [{"required": ["text"]}, {"required": ["input_ids"]}, {"required": ["input"]}],
        },
        "ClassifyReply": {"oneOf": [embedding, {"type": "array", "items": embedding}, classes]},
        "PoolingRequest": {
            "type": "object",
            "required": ["input"],
            "properties": {
                "model": {"type": "string"},
                "input": schema("Input"),
                "encoding_format": {"enum": ["float", null]},
            },
        },
        "PoolingReply": listed(json!({
            "type": "object",
            "required": ["index", "object", "data"],
            "properties": {
                "index": {"type": "integer"},
                "object": {"const": "pooling"},
                "data": {
                    "description": "LMDeploy's form is a number; vLLM's is a list of vectors, here only the last",
                    "oneOf": [{"type": "number"}, {"type": "array", "items": scores}],
                },
            },
        })),
        "QueryRequest": {
            "type": "object",
            "required": ["query", "prompts", "labels"],
            "properties": {
                "query": {"type": "array", "items": {"type": "string"}, "minItems": 1,
                          "description": "Prompt and response in one string"},
                "prompts": texts,
                "labels": texts,
            },
        },
        "QueryReply": {
            "type": "object",
            "required": ["rewards", "scores", "extra_logs"],
            "properties": {"rewards": scores, "scores": scores, "extra_logs": {"type": "object"}},
        },
        "RewardRequest": {
            "type": "object",
            "required": ["prompt", "response", "label"],
            "properties": {"prompt": text, "response": text, "label": text},
        },
        "RewardReply": {"type": "number"},
        "Status": {"type": "object", "required": ["status"], "properties": {"status": {"type": "string"}}},
        "ModelInfo": {
            "type": "object",
            "required": ["model_path", "is_generation", "weight_version"],
            "properties": {
                "model_path": {"type": "string"},
                "tokenizer_path": {"type": "string"},
                "is_generation": {"const": false},
                "preferred_sampling_params": {"type": "null"},
                "weight_version": {"type": "string"},
            },
        },
        "Models": {
            "type": "object",
            "required": ["object", "data"],
            "properties": {
                "object": {"const": "list"},
                "data": {"type": "array", "items": {
                    "type": "object",
                    "required": ["id", "object", "created", "owned_by"],
                    "properties": {
                        "id": {"type": "string"},
                        "object": {"const": "model"},
                        "created": {"type": "integer"},
                        "owned_by": {"type": "string"},
                        "max_model_len": {"type": "integer"},
                        "parameters": {"type": "integer"},
                        "device": {"type": "string"},
                        "weights_blake3": {"type": "string"},
                    },
                }},
            },
        },
        "Error": {
            "type": "object",
            "required": ["error"],
            "properties": {"error": {
                "type": "object",
                "required": ["message", "type", "code"],
                "properties": {
                    "message": {"type": "string"},
                    "type": {"enum": ["invalid_request_error", "unavailable_error", "server_error"]},
                    "code": {"type": "string"},
                },
            }},
        },
    })
}
