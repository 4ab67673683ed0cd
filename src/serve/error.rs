//! What went wrong, as an HTTP answer: `{"error": {"message", "type", "code"}}`.

use axum::Json;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde_json::json;

use super::engine::Failure;
use crate::error::Error;

/// Seconds after which a refused request is worth sending again.
const RETRY_AFTER: &str = "1";

/// An answer that is no success.
#[derive(Clone, Debug)]
pub struct ApiError {
    status: StatusCode,
    code: &'static str,
    message: String,
}

impl ApiError {
    /// An answer with a status, a word for programs and a sentence for people.
    pub fn new(status: StatusCode, code: &'static str, message: impl Into<String>) -> Self {
        Self { status, code, message: message.into() }
    }

    /// A request that cannot be right, however often it is sent.
    pub fn invalid(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "invalid_request", message)
    }

    /// A text that the template or the tokenizer refuses; `place` is its key and index.
    pub fn text(place: impl std::fmt::Display, error: &Error) -> Self {
        Self::invalid(format!("{place}: {error}"))
    }

    /// The sentence for people.
    pub fn message(&self) -> &str {
        &self.message
    }

    fn kind(&self) -> &'static str {
        match self.status {
            StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE => "unavailable_error",
            status if status.is_client_error() => "invalid_request_error",
            _ => "server_error",
        }
    }
}

impl From<Failure> for ApiError {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::Engine(reason) => Self::new(
                StatusCode::SERVICE_UNAVAILABLE,
                "engine_failed",
                format!("the engine cannot compute: {reason}"),
            ),
            Failure::NonFinite(index) => Self::new(
                StatusCode::INTERNAL_SERVER_ERROR,
                "non_finite_score",
                format!("the score of sequence {index} is not a finite number; the model's weights are not usable"),
            ),
        }
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let kind = self.kind();
        let body = json!({"error": {"message": self.message, "type": kind, "code": self.code}});
        let mut response = (self.status, Json(body)).into_response();
        let headers = response.headers_mut();
        if kind == "unavailable_error" {
            headers.insert(header::RETRY_AFTER, HeaderValue::from_static(RETRY_AFTER));
        }
        if self.status == StatusCode::UNAUTHORIZED {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        response
    }
}
