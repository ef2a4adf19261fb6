//! The database, its workers as only it knows them, and the model beside it.

use std::collections::BTreeSet;

use serde_json::json;
use sqlx::{PgConnection, types::Json};
use uuid::Uuid;

use super::{Action, How, WORKERS, Wanted, model::Model};
use crate::support::{Database, TERMINAL};

/// Rounds of claiming and settling after which everything must have ended: more than a schedule has jobs.
const ROUNDS_MAX: usize = 80;

/// An outcome as a worker reports it.
#[derive(Debug, Clone, Copy)]
struct Report {
    lease: i64,
    job: i64,
    how: How,
    /// Nothing else of the lease is in the worker's hands.
    ends_lease: bool,
}

#[derive(Debug)]
struct Worker {
    id: Uuid,
    /// `(lease, job)` that it believes to be its own.
    hands: Vec<(i64, i64)>,
    last: Option<Report>,
}

pub(super) struct World<'a> {
    db: &'a Database,
    model: Model,
    workers: Vec<Worker>,
    slow: Option<(sqlx::Transaction<'a, sqlx::Postgres>, i64, Wanted)>,
}

/// What the database says of itself.
#[derive(sqlx::FromRow)]
struct State {
    live: Vec<i64>,
    dead: Vec<i64>,
    running_jobs: Vec<i64>,
    running_leases: Vec<i64>,
    ended: Vec<i64>,
    ends: Vec<i64>,
    /// Jobs behind a cursor's floor that no lease has: nobody would ever look there.
    forgotten: Vec<i64>,
    /// Running jobs that do not hold their keys.
    keyless: Vec<i64>,
    /// Keys held by jobs that are not there, although none was stopped.
    stray: i64,
}

fn told<T: std::fmt::Debug + PartialEq>(what: &str, found: T, expected: T) -> Result<(), String> {
    if found == expected { Ok(()) } else { Err(format!("{what}: {found:?}, and should be {expected:?}")) }
}

fn refused(error: sqlx::Error) -> String {
    error.to_string()
}

async fn enqueue(connection: &mut PgConnection, wanted: Wanted) -> Result<i64, String> {
    sqlx::query_scalar(
        "select job_id from backhaul.enqueue('toy', '{\"n\": 1}', tenant => $1, ordering_key => $2, priority => $3)",
    )
    .bind(format!("tenant-{}", wanted.tenant))
    .bind(wanted.key.map(|key| format!("key-{key}")))
    .bind(if wanted.urgent { "high" } else { "normal" })
    .fetch_one(connection)
    .await
    .map_err(refused)
}

impl<'a> World<'a> {
    /// An empty one.
    pub(super) async fn new(db: &'a Database) -> Self {
        db.run(
            "truncate backhaul.jobs, backhaul.leases, backhaul.cursors, backhaul.lanes, backhaul.key_holders,
                 backhaul.workers, backhaul.marks, backhaul.dead_letters, backhaul.events",
        )
        .await;
        let mut world = Self { db, model: Model::default(), workers: Vec::new(), slow: None };
        for _ in 0..WORKERS {
            let worker = world.register().await;
            world.workers.push(worker);
        }
        world
    }

    async fn register(&self) -> Worker {
        let id = Uuid::new_v4();
        sqlx::query("select backhaul.register_worker($1, 'here', 1, 'test', array['toy@1'], 1)")
            .bind(id)
            .execute(self.db.store.pool())
            .await
            .expect("registers");
        Worker { id, hands: Vec::new(), last: None }
    }

    /// Does it, and compares.
    pub(super) async fn act(&mut self, action: &Action) -> Result<(), String> {
        match action {
            Action::Enqueue(wanted) => {
                let mut connection = self.db.store.pool().acquire().await.map_err(refused)?;
                let id = enqueue(&mut connection, *wanted).await?;
                self.model.enqueued(id, *wanted, false);
            }
            Action::EnqueueSlowly(wanted) if self.slow.is_none() => {
                let mut transaction = self.db.store.pool().begin().await.map_err(refused)?;
                let id = enqueue(&mut transaction, *wanted).await?;
                self.slow = Some((transaction, id, *wanted));
            }
            Action::CommitSlow => {
                if let Some((transaction, id, wanted)) = self.slow.take() {
                    transaction.commit().await.map_err(refused)?;
                    self.model.enqueued(id, wanted, true);
                }
            }
            Action::EnqueueSlowly(_) | Action::RollBackSlow => {
                if let Some((transaction, ..)) = self.slow.take() {
                    transaction.rollback().await.map_err(refused)?;
                }
            }
            Action::Claim { worker, want } => self.claim(*worker, *want).await?,
            Action::Finish { worker, nth, how } => self.finish(*worker, *nth, *how).await?,
            Action::Repeat { worker } => {
                if let Some(report) = self.workers[*worker].last {
                    self.report(*worker, report).await?;
                }
            }
            Action::Kill { worker } => {
                self.silence(*worker).await?;
                self.workers[*worker] = self.register().await;
            }
            Action::Silence { worker } => self.silence(*worker).await?,
            Action::Rescue => self.rescue().await?,
            Action::Sweep { rest } => self.sweep(*rest).await?,
            Action::Cancel { nth } => self.cancel(*nth).await?,
            Action::Replay { nth } => self.replay(*nth).await?,
        }
        self.check().await
    }

    async fn claim(&mut self, worker: usize, want: i32) -> Result<(), String> {
        let id = self.workers[worker].id;
        let mut sql = "select lease, id from backhaul.claim($1, array['toy@1'], $2, '-infinity')";
        if self.workers[worker].hands.is_empty() {
            let alone: Option<i64> = sqlx::query_scalar("select backhaul.waits_alone(array['toy@1'])")
                .fetch_one(self.db.store.pool())
                .await
                .map_err(refused)?;
            if alone.is_some() {
                sql = "select lease, id from backhaul.claim_alone($1, array['toy@1']) where $2 > 0";
            }
        }
        let claimed: Result<Vec<(i64, i64)>, _> =
            sqlx::query_as(sql).bind(id).bind(want).fetch_all(self.db.store.pool()).await;
        match claimed {
            Ok(claimed) => {
                for (lease, job) in claimed {
                    self.model.claimed(id, lease, job)?;
                    self.workers[worker].hands.push((lease, job));
                }
            }
            // It was given up: it lets go of everything and comes back under another name.
            Err(error) if error.as_database_error().and_then(|e| e.code()).as_deref() == Some("BH030") => {
                self.workers[worker] = self.register().await;
            }
            Err(error) => return Err(error.to_string()),
        }
        Ok(())
    }

    async fn finish(&mut self, worker: usize, nth: usize, how: How) -> Result<(), String> {
        let hands = &mut self.workers[worker].hands;
        if hands.is_empty() {
            return Ok(());
        }
        let (lease, job) = hands.remove(nth % hands.len());
        let ends_lease = hands.iter().all(|(other, _)| *other != lease);
        let report = Report { lease, job, how, ends_lease };
        self.workers[worker].last = Some(report);
        self.report(worker, report).await
    }

    async fn report(&mut self, worker: usize, report: Report) -> Result<(), String> {
        let Report { lease, job, how, ends_lease } = report;
        let id = self.workers[worker].id;
        let accepted = self.model.accepts(id, lease, job);
        let before = self.digest().await?;
        let refusals = settle(self.db, id, report).await?;
        told(&format!("refused {report:?}"), refusals, if accepted { vec![] } else { vec![job] })?;
        if accepted {
            self.model.settled(job, how);
        } else {
            if !self.model.stopping.contains_key(&job) {
                told(&format!("what a refused {report:?} changed"), self.digest().await?, before)?;
            }
            self.model.refused(id, lease, job);
        }
        if ends_lease && self.model.leases.get(&lease) == Some(&id) {
            self.model.leases.remove(&lease);
        }
        Ok(())
    }

    async fn silence(&mut self, worker: usize) -> Result<(), String> {
        let id = self.workers[worker].id;
        let known = sqlx::query("update backhaul.workers set heartbeat_at = '-infinity' where id = $1")
            .bind(id)
            .execute(self.db.store.pool())
            .await
            .map_err(refused)?;
        if known.rows_affected() == 1 {
            self.model.silent.insert(id);
        }
        Ok(())
    }

    async fn rescue(&mut self) -> Result<(), String> {
        let found: i32 = self.db.one("select backhaul.rescue('1 hour', '0 s')").await;
        let expected = self.model.rescued();
        told("jobs rescued", usize::try_from(found).unwrap_or(usize::MAX), expected)
    }

    async fn sweep(&mut self, rest: bool) -> Result<(), String> {
        let sql = if rest { "select backhaul.sweep('0 s', '0 s')" } else { "select backhaul.sweep('0 s', '1 hour')" };
        let _: i32 = self.db.one(sql).await;
        let _: i32 = self.db.one("select backhaul.unblock('0 s')").await;
        Ok(())
    }

    async fn cancel(&mut self, nth: usize) -> Result<(), String> {
        let Some(id) = self.model.live.keys().copied().nth(nth % self.model.live.len().max(1)) else { return Ok(()) };
        let said: String = sqlx::query_scalar("select backhaul.cancel($1, 'a test', null)")
            .bind(id)
            .fetch_one(self.db.store.pool())
            .await
            .map_err(refused)?;
        told(&format!("cancelling {id}"), said.as_str(), self.model.cancelled(id))
    }

    async fn replay(&mut self, nth: usize) -> Result<(), String> {
        let Some(id) = self.model.dead.keys().copied().nth(nth % self.model.dead.len().max(1)) else { return Ok(()) };
        sqlx::query("select backhaul.dead_replay($1, 'a test', null)")
            .bind(id)
            .execute(self.db.store.pool())
            .await
            .map_err(refused)?;
        self.model.replayed(id);
        Ok(())
    }

    /// Jobs, dead letters and events in one word.
    async fn digest(&self) -> Result<String, String> {
        sqlx::query_scalar(
            "select md5(concat_ws('|', (select string_agg(j::text, '|' order by j.id) from backhaul.jobs j),
                 (select string_agg(d::text, '|' order by d.id) from backhaul.dead_letters d),
                 (select count(*) from backhaul.events)))",
        )
        .fetch_one(self.db.store.pool())
        .await
        .map_err(refused)
    }

    async fn check(&self) -> Result<(), String> {
        let sql = format!(
            "with running as materialized (
                 select j.id, j.tenant, j.ordering_key, l.id as lease from backhaul.leases l
                 cross join lateral unnest(l.seqs) as u (seq)
                 join backhaul.jobs j on j.lane = l.lane and j.priority = l.priority and j.seq = u.seq
             ), ends as materialized (
                 select e.job_id, count(*) as times from backhaul.events e where {TERMINAL} group by 1
             )
             select array(select id from backhaul.jobs order by 1) as live,
                 array(select id from backhaul.dead_letters order by 1) as dead,
                 array(select id from running order by id, lease) as running_jobs,
                 array(select lease from running order by id, lease) as running_leases,
                 array(select job_id from ends order by 1) as ended,
                 array(select times from ends order by job_id) as ends,
                 array(select j.id from backhaul.jobs j
                       join backhaul.cursors c on c.lane = j.lane and c.priority = j.priority
                       where j.seq <= c.floor and j.id not in (select id from running)) as forgotten,
                 array(select r.id from running r where r.ordering_key is not null
                       and not exists (select from backhaul.key_holders h where h.tenant = r.tenant
                                       and h.ordering_key = r.ordering_key and h.job_id = r.id)) as keyless,
                 (select count(*) from backhaul.key_holders h where h.stopping_until is null
                  and not exists (select from backhaul.jobs j where j.id = h.job_id)) as stray"
        );
        let state: State =
            sqlx::query_as(sqlx::AssertSqlSafe(sql)).fetch_one(self.db.store.pool()).await.map_err(refused)?;
        told("live jobs", state.live, self.model.live.keys().copied().collect())?;
        told("dead jobs", state.dead, self.model.dead.keys().copied().collect())?;
        let running: Vec<(i64, i64)> = state.running_jobs.into_iter().zip(state.running_leases).collect();
        told("(job, lease) in hand", running, self.model.running().into_iter().collect())?;
        let ends: BTreeSet<(i64, i64)> = state.ended.into_iter().zip(state.ends).collect();
        told("(job, times it ended)", ends, self.model.ends.iter().map(|(id, times)| (*id, *times)).collect())?;
        told("jobs that nobody looks for", state.forgotten, vec![])?;
        told("running without their keys", state.keyless, vec![])?;
        told("keys of nobody", state.stray, 0)
    }

    /// Whatever was, everything comes to its end once all workers are given up and one goes on.
    pub(super) async fn ends_well(&mut self) -> Result<(), String> {
        self.act(&Action::CommitSlow).await?;
        for worker in 0..WORKERS {
            self.silence(worker).await?;
        }
        self.act(&Action::Rescue).await?;
        self.workers = vec![self.register().await];
        // Half a minute later: whoever was cancelled has stopped.
        self.db
            .run("update backhaul.key_holders set stopping_until = '-infinity' where stopping_until is not null")
            .await;
        self.model.stopping.clear();
        for _ in 0..ROUNDS_MAX {
            if self.model.live.is_empty() {
                break;
            }
            self.act(&Action::Claim { worker: 0, want: 10 }).await?;
            while !self.workers[0].hands.is_empty() {
                self.act(&Action::Finish { worker: 0, nth: 0, how: How::Done }).await?;
            }
            self.act(&Action::Sweep { rest: false }).await?;
        }
        told("never claimed", self.model.live.keys().collect(), Vec::<&i64>::new())?;
        self.act(&Action::Sweep { rest: false }).await?;
        told("keys held at the end", self.db.one("select count(*) from backhaul.key_holders").await, 0_i64)?;
        told("leases at the end", self.db.one("select count(*) from backhaul.leases").await, 0_i64)
    }
}

/// Settles one outcome, with the event that belongs to it; returns the refused jobs.
async fn settle(db: &Database, worker: Uuid, report: Report) -> Result<Vec<i64>, String> {
    let Report { lease, job, how, ends_lease } = report;
    let done = how == How::Done;
    let others = (!done).then(|| {
        let what = json!({ "id": job, "lease": lease, "do": how.word(), "delay_ms": 0, "attempt": 1, "reason": "x",
            "error": {} });
        Json([what])
    });
    let event = match how {
        How::Done => "completed",
        How::Retry => "retried",
        How::Later => "snoozed",
        How::Dead => "dead",
    };
    sqlx::query_scalar(
        "select backhaul.settle($1, $2, $3, $4, $5, $6, true, '{}', array[$7::bigint], array[gen_random_uuid()],
             array[now()], array[$8::text], array['t'::text], array['toy'::text], array['job'::text],
             array[null::text], array['{}'::bytea], null, null)",
    )
    .bind(worker)
    .bind(if done { vec![job] } else { vec![] })
    .bind(if done { vec![lease] } else { vec![] })
    .bind(others)
    .bind(vec![lease])
    .bind(if ends_lease { vec![lease] } else { vec![] })
    .bind(job)
    .bind(format!("dev.backhaul.job.{event}"))
    .fetch_one(db.store.pool())
    .await
    .map_err(refused)
}
