//! The OpenAPI 3.1 description, made from the list of routes.

use schemars::SchemaGenerator;
use schemars::generate::SchemaSettings;
use serde_json::{Map, Value, json};

use super::routes::{Api, Route};
use crate::failure::Failure;

impl<S> Api<S>
where
    S: Clone + Send + Sync + 'static,
{
    /// The whole description.
    pub(super) fn describe(&self) -> Value {
        let settings = SchemaSettings::draft2020_12().with(|s| {
            s.definitions_path = "/components/schemas".into();
        });
        let mut generator = settings.into_generator();
        let mut paths = Map::new();
        for route in self.routes() {
            let operation = operation(route, &mut generator);
            let methods = paths.entry(route.path).or_insert_with(|| json!({}));
            if let Some(methods) = methods.as_object_mut() {
                methods.insert(route.method.as_str().to_ascii_lowercase(), operation);
            }
        }
        let failure = generator.subschema_for::<Failure>();
        let schemas = generator.take_definitions(true);
        json!({
            "openapi": "3.1.0",
            "info": { "title": self.title(), "version": env!("CARGO_PKG_VERSION") },
            "paths": paths,
            "components": {
                "schemas": schemas,
                "responses": { "Failure": {
                    "description": "what failed, why, and the next step",
                    "content": { "application/json": { "schema": failure } },
                } },
            },
        })
    }
}

fn operation<S>(route: &Route<S>, generator: &mut SchemaGenerator) -> Value {
    let parameters: Vec<Value> = route
        .path
        .split('/')
        .filter_map(|s| s.strip_prefix('{')?.strip_suffix('}'))
        .map(|name| json!({ "name": name, "in": "path", "required": true, "schema": { "type": "string" } }))
        .collect();
    let answer = match route.response {
        Some(schema) => json!({ "application/json": { "schema": schema(generator) } }),
        None => json!({ "text/plain": { "schema": { "type": "string" } } }),
    };
    let mut operation = json!({
        "summary": route.summary,
        "parameters": parameters,
        "responses": {
            "200": { "description": "done", "content": answer },
            "default": { "$ref": "#/components/responses/Failure" },
        },
    });
    if let (Some(schema), Some(fields)) = (route.request, operation.as_object_mut()) {
        let body = json!({ "content": { "application/json": { "schema": schema(generator) } } });
        fields.insert("requestBody".to_owned(), body);
    }
    operation
}
