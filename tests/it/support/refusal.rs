//! What Postgres says when it refuses.

use sqlx::postgres::PgDatabaseError;

/// An error of the database, as a client sees it.
#[derive(Debug)]
pub(crate) struct Refusal {
    pub(crate) sqlstate: String,
    pub(crate) message: String,
    pub(crate) hint: String,
}

/// The refusal that `answer` must be.
#[track_caller]
pub(crate) fn refusal<T: std::fmt::Debug>(answer: Result<T, sqlx::Error>) -> Refusal {
    match answer {
        Err(sqlx::Error::Database(error)) => {
            let error = error.downcast_ref::<PgDatabaseError>();
            Refusal {
                sqlstate: error.code().to_owned(),
                message: error.message().to_owned(),
                hint: error.hint().unwrap_or_default().to_owned(),
            }
        }
        other => panic!("the database should have refused, but: {other:?}"),
    }
}
