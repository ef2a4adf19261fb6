//! Doors that hold a worker at a chosen row of its job's steps, whatever process it is in: the row is written only when
//! the test lets it be. So a test can act, or kill, at exactly that moment.

use sqlx::{Connection, PgConnection};

use crate::support::{Database, eventually};

/// The doors of one database. Closed while this value lives and is not opened.
pub(super) struct Doors {
    holder: PgConnection,
}

/// The waiting backends of this database.
const WAITING: &str = "from pg_locks l where l.locktype = 'advisory' and not l.granted
    and l.database = (select oid from pg_database where datname = current_database())";

impl Doors {
    /// Closes a door before each `(job, step, state)`; no job means every job. Before workers start.
    pub(super) async fn close(database: &Database, rows: &[(Option<i64>, &str, &str)]) -> Self {
        database
            .run(
                "create schema if not exists test;
                 create table if not exists test.doors (job_id bigint, name text not null, state text not null);
                 create or replace function test.door() returns trigger language plpgsql security definer as $$
                 begin
                     if exists (select from test.doors d where (d.job_id is null or d.job_id = new.job_id)
                                and d.name = new.name and d.state = new.state) then
                         perform pg_advisory_xact_lock_shared(7);
                     end if;
                     return new;
                 end $$;
                 create or replace trigger door before insert on backhaul.steps
                     for each row execute function test.door()",
            )
            .await;
        for (job, name, state) in rows {
            sqlx::query("insert into test.doors values ($1, $2, $3)")
                .bind(job)
                .bind(name)
                .bind(state)
                .execute(database.store.pool())
                .await
                .expect("writes");
        }
        let mut holder = PgConnection::connect(&database.url).await.expect("connects");
        sqlx::query("select pg_advisory_lock(7)").execute(&mut holder).await.expect("locks");
        Self { holder }
    }

    /// Waits until `count` jobs stand before doors.
    pub(super) async fn reached(&mut self, count: i64) {
        let holder = tokio::sync::Mutex::new(&mut self.holder);
        eventually("jobs stand before their doors", async || {
            let waiting: i64 = sqlx::query_scalar(sqlx::AssertSqlSafe(format!("select count(*) {WAITING}")))
                .fetch_one(&mut **holder.lock().await)
                .await
                .expect("reads");
            waiting == count
        })
        .await;
    }

    /// Ends the connections that wait, as the server does for a client that died, so that their rows are never written.
    pub(super) async fn forget(&mut self) {
        sqlx::query(sqlx::AssertSqlSafe(format!("select pg_terminate_backend(l.pid) {WAITING}")))
            .execute(&mut self.holder)
            .await
            .expect("terminates");
        self.reached(0).await;
    }

    /// Lets everybody pass, now and later.
    pub(super) async fn open(self) {
        self.holder.close().await.expect("closes");
    }
}

/// Writes down the rows of steps as they are written, oldest first.
pub(super) async fn record_rows(database: &Database) {
    database
        .run(
            "create schema if not exists test;
             create table test.rows (n bigint generated always as identity, job_id bigint, name text, state text);
             create function test.note() returns trigger language plpgsql security definer as $$
             begin
                 insert into test.rows (job_id, name, state) values (new.job_id, new.name, new.state);
                 return new;
             end $$;
             create trigger note after insert or update on backhaul.steps for each row execute function test.note()",
        )
        .await;
}

/// The rows of [`record_rows`], as name and state.
pub(super) async fn recorded_rows(database: &Database) -> Vec<(String, String)> {
    database.rows("select name, state from test.rows order by n").await
}

/// Refuses each of these rows once, as a connection does that breaks between a call and its checkpoint.
pub(super) async fn refuse_once(database: &Database, rows: &[(i64, &str, &str)]) {
    database
        .run(
            "create schema if not exists test;
             create table test.refusals (job_id bigint, name text, state text, counter text);
             create function test.refuse() returns trigger language plpgsql security definer as $$
             declare r record;
             begin
                 for r in select * from test.refusals d
                          where d.job_id = new.job_id and d.name = new.name and d.state = new.state loop
                     -- A sequence counts although the transaction is rolled back.
                     if nextval(r.counter::regclass) = 1 then
                         raise exception 'the checkpoint is lost';
                     end if;
                 end loop;
                 return new;
             end $$;
             create trigger refuse before insert on backhaul.steps for each row execute function test.refuse()",
        )
        .await;
    for (number, (job, name, state)) in rows.iter().enumerate() {
        let counter = format!("test.refusal_{number}");
        let create = format!("create sequence {counter}");
        sqlx::raw_sql(sqlx::AssertSqlSafe(create)).execute(database.store.pool()).await.expect("creates");
        sqlx::query("insert into test.refusals values ($1, $2, $3, $4)")
            .bind(job)
            .bind(name)
            .bind(state)
            .bind(counter)
            .execute(database.store.pool())
            .await
            .expect("writes");
    }
}

/// How many of the refusals have happened.
pub(super) async fn refused(database: &Database) -> i64 {
    let counters: Vec<(String,)> = database.rows("select counter from test.refusals").await;
    let mut refused = 0;
    for (counter,) in counters {
        let last = format!("select case when is_called then 1::bigint else 0 end from {counter}");
        refused += sqlx::query_scalar::<_, i64>(sqlx::AssertSqlSafe(last))
            .fetch_one(database.store.pool())
            .await
            .expect("reads");
    }
    refused
}
