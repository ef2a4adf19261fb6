//! A [`Store`] is an executor of queries: straight from the pool, or so that a transaction pooler may sit in between.
//! Either way for a bounded time: a connection that breaks without a word answers nothing for a quarter of an hour, and
//! what waits for it holds jobs that nobody else may have.
//!
//! sqlx parses a statement and executes it in two messages. A transaction pooler may give the connection's server to
//! somebody else between the two, and what is executed then is somebody else's statement. A transaction around both
//! keeps the server; it costs two round trips, and is done only where the settings say `pooler`.

use std::{future::Future, io, time::Duration};

use futures::{
    FutureExt, StreamExt, TryFutureExt, TryStreamExt,
    future::BoxFuture,
    stream::{self, BoxStream},
};
use sqlx::{
    Either, Error, Execute, Executor, Postgres, SqlStr,
    postgres::{PgArguments, PgQueryResult, PgRow, PgStatement, PgTypeInfo},
};

use tokio::time::timeout;

use crate::store::Store;

/// Options at the start of a connection are for its server, and a pooler passes none: the timeout (of
/// `store::STATEMENT_MS_MAX`) goes with every transaction.
pub(crate) const BEGIN: &str = "begin; set local statement_timeout = 30000";
/// Longest wait for an answer: for a connection of the pool, and then for the statement, both of which end before by
/// themselves (see [`Store`]).
const ANSWER_MAX: Duration = Duration::from_secs(45);

/// Bounds what talks to the database.
pub(crate) async fn answered<T>(query: impl Future<Output = Result<T, Error>>) -> Result<T, Error> {
    let silent = |_| io::Error::new(io::ErrorKind::TimedOut, "no answer from the database");
    timeout(ANSWER_MAX, query).await.map_err(silent)?
}

/// A query whose statement has no name on the server: names belong to sessions, and sessions are the pooler's.
struct Unnamed<E>(E);

impl<'q, E: Execute<'q, Postgres>> Execute<'q, Postgres> for Unnamed<E> {
    fn sql(self) -> SqlStr {
        self.0.sql()
    }

    fn statement(&self) -> Option<&PgStatement> {
        self.0.statement()
    }

    fn take_arguments(&mut self) -> Result<Option<PgArguments>, sqlx::error::BoxDynError> {
        self.0.take_arguments()
    }

    fn persistent(&self) -> bool {
        false
    }
}

impl<'c> Executor<'c> for &'_ Store {
    type Database = Postgres;

    fn fetch_many<'e, 'q: 'e, E>(self, query: E) -> BoxStream<'e, Result<Either<PgQueryResult, PgRow>, Error>>
    where
        'c: 'e,
        E: 'q + Execute<'q, Postgres>,
    {
        let (pool, pooled) = (self.pool().clone(), self.pooled());
        let all = answered(async move {
            if !pooled {
                return pool.fetch_many(query).try_collect::<Vec<_>>().await;
            }
            let mut transaction = pool.begin_with(BEGIN).await?;
            let all = transaction.fetch_many(Unnamed(query)).try_collect().await?;
            transaction.commit().await?;
            Ok(all)
        });
        stream::once(all.map_ok(|all| stream::iter(all.into_iter().map(Ok)))).try_flatten().boxed()
    }

    fn fetch_optional<'e, 'q: 'e, E>(self, query: E) -> BoxFuture<'e, Result<Option<PgRow>, Error>>
    where
        'c: 'e,
        E: 'q + Execute<'q, Postgres>,
    {
        let (pool, pooled) = (self.pool().clone(), self.pooled());
        answered(async move {
            if !pooled {
                return pool.fetch_optional(query).await;
            }
            let mut transaction = pool.begin_with(BEGIN).await?;
            let row = transaction.fetch_optional(Unnamed(query)).await?;
            transaction.commit().await?;
            Ok(row)
        })
        .boxed()
    }

    fn prepare_with<'e>(self, sql: SqlStr, parameters: &'e [PgTypeInfo]) -> BoxFuture<'e, Result<PgStatement, Error>>
    where
        'c: 'e,
    {
        self.pool().clone().prepare_with(sql, parameters)
    }

    #[doc(hidden)]
    fn describe<'e>(self, sql: SqlStr) -> BoxFuture<'e, Result<sqlx::Describe<Postgres>, Error>>
    where
        'c: 'e,
    {
        self.pool().clone().describe(sql)
    }
}
