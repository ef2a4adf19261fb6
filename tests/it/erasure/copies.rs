//! A person in every place where data is kept, and the search for what is left of them.

use serde_json::{Value, json};

use crate::support::{Database, Toy, eventually};

/// Somebody, as one tenant knows them.
#[derive(Clone, Copy)]
pub(super) struct Person {
    pub(super) tenant: &'static str,
    pub(super) id: &'static str,
    pub(super) email: &'static str,
    pub(super) phone: &'static str,
}

/// Jobs of a person that tests look at.
pub(super) struct Copies {
    /// Waits behind whatever runs with the person's ordering key.
    pub(super) blocked: i64,
}

impl Person {
    /// Puts the person everywhere.
    pub(super) async fn fill(&self, db: &Database) -> Copies {
        let blocked = self.jobs(db).await;
        self.rows(db).await;
        for outcome in self.receive(db).await {
            assert_ne!(outcome, "duplicate");
        }
        Copies { blocked }
    }

    /// A blocked job; one with a producer's key; one whose failure, one whose step names the person; and a dead one.
    async fn jobs(&self, db: &Database) -> i64 {
        let later = |n: i64, more: Value| {
            let mut job =
                json!({"kind": "toy", "tenant": self.tenant, "payload": Toy::new(n), "run_at": "2030-01-01T00:00:00Z"});
            job.as_object_mut().expect("an object").extend(more.as_object().expect("an object").clone());
            job
        };
        let blocked = json!({"kind": "toy", "tenant": self.tenant, "payload": Toy::new(2).keyed(self.id)});
        let ids = db
            .enqueue(vec![
                blocked,
                later(3, json!({"idempotency_key": format!("customer-{}", self.id)})),
                later(4, json!({})),
                later(5, json!({})),
                later(6, json!({"payload": Toy::new(6).act(self.phone)})),
            ])
            .await;
        let errors = json!([{"code": "rejected", "message": format!("no consent of {}", self.email)}]);
        self.sql(
            db,
            "update backhaul.jobs set errors = $2 where id = $1::bigint and tenant = $3",
            &json!(ids[2]),
            &errors,
        )
        .await;
        let output = json!({"found": {"email": self.email}});
        let step = "insert into backhaul.steps (job_id, name, state, output) 
                    select $1::bigint, 'read', 'done', $2 where $3::text is not null";
        for job in [ids[3], ids[4]] {
            self.sql(db, step, &json!(job), &output).await;
        }
        let dead = json!([{"id": ids[4], "reason": "conflict",
            "error": {"code": "conflict", "message": self.email, "conflict": {"base": self.id}}}]);
        sqlx::query("select backhaul.bury($1)").bind(dead).execute(db.store.pool()).await.expect("buries");
        ids[0]
    }

    /// Memories, a finished job's key, a schedule, and events.
    async fn rows(&self, db: &Database) {
        let memory =
            "insert into backhaul.memories (tenant, kind, resource, value) values ($3, 'toy', $1 #>> '{}', $2)";
        self.sql(db, memory, &json!(self.id), &json!({"seen": 1})).await;
        self.sql(db, memory, &json!("another"), &json!({"mergedInto": [self.id]})).await;
        let key = "insert into backhaul.idempotency_keys values ('toy/' || $3, $1 #>> '{}', 1, '', ($2 #>> '{}')::timestamptz)";
        self.sql(db, key, &json!(format!("mail {}", self.email)), &json!("2030-01-01")).await;
        let schedule = "select backhaul.schedule_put('nightly-' || $3, $1 #>> '{}', $2, '@daily', tenant => $3)";
        self.sql(db, schedule, &json!("toy"), &json!({"n": 7, "acts": [self.phone]})).await;
        let event = "insert into backhaul.events (event_id, job_id, occurred_at, type, tenant, kind, subject, data)
                     values (gen_random_uuid(), 7, now(), 'dev.backhaul.toy.told', $3, 'toy', $1 #>> '{}',
                             convert_to(backhaul.canonical($2), 'UTF8'))";
        let told = json!({"attempt": 1, "job_id": 7, "http_status": 200, "latency_ms": 12, "status": "SUCCESS",
            "resource_id": self.id, "step": format!("push-{}", self.id), "payload_hmac": "0011"});
        self.sql(db, event, &json!(self.id), &told).await;
        self.sql(db, event, &json!("job/7"), &json!({"error": {"message": format!("no {}", self.email)}})).await;
        // One event that every sink has had already: it is sealed, and the sink stands behind it.
        db.run("select backhaul.seal(100)").await;
        db.run(
            "insert into backhaul.sinks (name, kind, target, position, caught_up)
             select 'done', 'file', 'x', next_seq - 1, true from backhaul.seal_state on conflict do nothing",
        )
        .await;
        self.sql(db, event, &json!(format!("profile/{}", self.id)), &json!({})).await;
    }

    /// Two webhooks: one that became no job, one that was taken. Answers what became of them.
    pub(super) async fn receive(&self, db: &Database) -> Vec<String> {
        let mut outcomes = Vec::new();
        for (body, parked) in [
            (json!({"data": {"customer": {"phoneNumber": self.phone}}}).to_string(), Some("unknown_channel")),
            (format!(r#"{{"data": {{"customer": {{"email": "{}"}}}}}}"#, self.escaped()), None),
        ] {
            let outcome: String = sqlx::query_scalar(
                "select outcome from backhaul.ingest($1, 'cxone', array[sha256(convert_to($2, 'UTF8'))], '72 hours',
                     gen_random_uuid(), 'interaction.created', 'voice', now(), now(), convert_to($2, 'UTF8'), null, '[]',
                     $3, $4)",
            )
            .bind(self.tenant)
            .bind(body)
            .bind(parked)
            .bind(parked.map(|_| self.email))
            .fetch_one(db.store.pool())
            .await
            .expect("takes it");
            outcomes.push(outcome);
        }
        outcomes
    }

    /// Runs a statement with two JSON values and the tenant.
    async fn sql(&self, db: &Database, sql: &'static str, first: &Value, second: &Value) {
        let query = sqlx::query(sql).bind(first).bind(second).bind(self.tenant);
        query.execute(db.store.pool()).await.expect(sql);
    }

    /// The address with an escape of JSON for its first letter.
    fn escaped(&self) -> String {
        format!("\\u{:04x}{}", u32::from(self.email.as_bytes()[0]), &self.email[1..])
    }

    /// Every spelling of the person that [`Person::fill`] uses, and the same as Postgres shows bytes.
    fn spellings(&self) -> Vec<String> {
        let plain = [self.id.to_owned(), self.email.to_owned(), self.phone.to_owned(), self.escaped()];
        let hex = |text: &String| text.bytes().map(|byte| format!("{byte:02x}")).collect();
        let hexed: Vec<String> = plain.iter().map(hex).collect();
        plain.into_iter().chain(hexed).collect()
    }
}

/// Every row of every table of the schema, with the name of its table.
async fn rows(db: &Database) -> Vec<(String, String)> {
    let tables: Vec<(String,)> = db
        .rows(
            "select relname::text from pg_class
             where relnamespace = 'backhaul'::regnamespace and relkind = 'r' order by relname",
        )
        .await;
    assert!(tables.len() > 20, "{tables:?}");
    let mut rows = Vec::new();
    for (table,) in tables {
        let sql = format!("select '{table}', to_jsonb(t)::text from backhaul.{table} t order by 2");
        let found: Vec<(String, String)> =
            sqlx::query_as(sqlx::AssertSqlSafe(sql)).fetch_all(db.store.pool()).await.expect("reads");
        rows.extend(found);
    }
    rows
}

/// Rows that hold the person in any spelling.
pub(super) async fn holding(db: &Database, person: &Person) -> Vec<String> {
    let spellings = person.spellings();
    let holds = |row: &str| {
        let row = row.to_lowercase().replace("\\\\", "\\");
        spellings.iter().any(|spelling| row.contains(&spelling.to_lowercase()))
    };
    rows(db).await.into_iter().filter(|(_, row)| holds(row)).map(|(table, row)| format!("{table}: {row}")).collect()
}

/// Everything that is kept, but for what workers, sealing and erasures write of themselves.
pub(super) async fn snapshot(db: &Database) -> Vec<(String, String)> {
    let own = [
        "workers",
        "leases",
        "cursors",
        "marks",
        "maintenance",
        "sleepers",
        "seals",
        "seal_state",
        "erasures",
        "schedules",
    ];
    let is_own = |row: &str| row.contains("\"erasure/");
    rows(db).await.into_iter().filter(|(table, row)| !own.contains(&table.as_str()) && !is_own(row)).collect()
}

/// Waits until the job is in a state.
pub(super) async fn state_is(db: &Database, job: i64, state: &str) {
    eventually(&format!("job {job} is {state}"), async || {
        db.rows::<(i64, String)>("select id, state from backhaul.job_states").await.contains(&(job, state.to_owned()))
    })
    .await;
}
