//! What the five roles may do, proved with logins that are members of one role each, or of none.

mod hostile;
mod statements;
mod worker;

use std::collections::BTreeMap;

use sqlx::{AssertSqlSafe, Connection, PgConnection};

use self::statements::STATEMENTS;
use crate::support::{Database, Login, Toy, database};

const ROLES: [&str; 5] =
    ["backhaul_producer", "backhaul_operator", "backhaul_worker", "backhaul_reader", "backhaul_ingress"];

/// A database with a job (id 1) that waits and one (id 2) that is dead.
async fn with_jobs() -> Database {
    let db = database().await;
    db.toys(&[Toy::new(1), Toy::new(2)]).await;
    db.run("select backhaul.bury('[{\"id\": 2, \"reason\": \"r\", \"error\": {\"code\": \"r\", \"conflict\": {\"base\": 1}}}]')")
        .await;
    db
}

/// Whether the login has the right to do it, which says nothing of its success. Leaves nothing behind.
async fn may(connection: &mut PgConnection, sql: &'static str) -> bool {
    let mut transaction = connection.begin().await.expect("begins");
    let ran = sqlx::raw_sql(sql).execute(&mut *transaction).await;
    transaction.rollback().await.expect("rolls back");
    match ran {
        Ok(_) => true,
        Err(sqlx::Error::Database(error)) => error.code().as_deref() != Some("42501"),
        Err(error) => panic!("{error}: {sql}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn each_role_may_do_its_work_and_no_more() {
    let db = with_jobs().await;
    let mut wrong = Vec::new();
    for role in ROLES {
        let login = Login::of(&db, Some(role)).await;
        let mut connection = login.connect().await;
        let initial = role.trim_start_matches("backhaul_").chars().next().expect("a name");
        for (sql, allowed) in STATEMENTS {
            let (is, should) = (may(&mut connection, sql).await, allowed.contains(initial));
            if is != should {
                wrong.push(format!(
                    "{role} {} but should{}: {sql}",
                    if is { "may" } else { "may not" },
                    if should { "" } else { " not" }
                ));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_role_there_is_nothing() {
    let db = with_jobs().await;
    let stranger = Login::of(&db, None).await;
    let mut connection = stranger.connect().await;
    for (sql, _) in STATEMENTS {
        assert!(!may(&mut connection, sql).await, "a stranger may: {sql}");
    }
}

/// Looks at the catalog, so that what a later migration adds is looked at too.
#[tokio::test(flavor = "multi_thread")]
async fn everybody_has_no_rights_on_anything_of_ours() {
    let db = database().await;
    let open: Vec<(String,)> = db
        .rows(
            "select 'function ' || oid::regprocedure from pg_proc
             where pronamespace = 'backhaul'::regnamespace
               and (proacl is null or exists (select from aclexplode(proacl) a where a.grantee = 0))
             union all
             select 'relation ' || oid::regclass from pg_class
             where relnamespace = 'backhaul'::regnamespace and exists (select from aclexplode(relacl) a where a.grantee = 0)
             union all
             select 'schema ' || nspname from pg_namespace
             where nspname = 'backhaul' and (nspacl is null or exists (select from aclexplode(nspacl) a where a.grantee = 0))",
        )
        .await;
    assert!(open.is_empty(), "open to everybody: {open:?}");
}

/// No function is granted that the list does not ask about: a new one, or a new grant, needs a row.
#[tokio::test(flavor = "multi_thread")]
async fn every_function_that_a_role_may_call_is_in_the_list() {
    let db = database().await;
    let granted: Vec<(String, String)> = db
        .rows(
            "select distinct p.proname::text, r.rolname::text from pg_proc p
             cross join (select rolname from pg_roles where rolname ~ '^backhaul_(producer|operator|worker|reader|ingress)$') r
             where p.pronamespace = 'backhaul'::regnamespace and has_function_privilege(r.rolname, p.oid, 'execute')
             order by 1, 2",
        )
        .await;
    let missing: Vec<String> = granted
        .iter()
        .filter(|(function, role)| {
            let initial = role.trim_start_matches("backhaul_").chars().next().expect("a name");
            let call = format!("backhaul.{function}(");
            !STATEMENTS.iter().any(|(sql, allowed)| sql.contains(&call) && allowed.contains(initial))
        })
        .map(|(function, role)| format!("{role}: {function}"))
        .collect();
    assert!(missing.is_empty(), "granted and in no row of STATEMENTS: {}", missing.join(", "));
}

/// The whole list of tables that a role writes without a function in between.
#[tokio::test(flavor = "multi_thread")]
async fn roles_write_through_functions() {
    let db = database().await;
    let rights: Vec<(String, String)> = db
        .rows(
            "select r.rolname || ' ' || c.relname, string_agg(lower(p.p), ' ' order by p.p)
             from pg_class c
             cross join (select rolname from pg_roles where rolname ~ '^backhaul_(producer|operator|worker|reader|ingress)$') r
             cross join (values ('INSERT'), ('UPDATE'), ('DELETE'), ('TRUNCATE'), ('REFERENCES'), ('TRIGGER')) p (p)
             where c.relnamespace = 'backhaul'::regnamespace and c.relkind in ('r', 'p', 'v')
               and (has_table_privilege(r.rolname, c.oid, p.p)
                    or (p.p in ('INSERT', 'UPDATE', 'REFERENCES') and has_any_column_privilege(r.rolname, c.oid, p.p)))
             group by 1 order by 1",
        )
        .await;
    let rights: Vec<(&str, &str)> = rights.iter().map(|(who, what)| (who.as_str(), what.as_str())).collect();
    assert_eq!(
        rights,
        [
            ("backhaul_worker kinds", "insert update"),
            ("backhaul_worker sinks", "insert update"),
            ("backhaul_worker sleepers", "delete insert"),
        ]
    );
}

/// A producer's view of its own jobs, whoever else enqueues for the same tenant.
#[tokio::test(flavor = "multi_thread")]
async fn a_producer_sees_its_own_jobs() {
    let db = database().await;
    let (shop, crm) =
        (Login::of(&db, Some("backhaul_producer")).await, Login::of(&db, Some("backhaul_producer")).await);
    let mut ids = BTreeMap::new();
    for login in [&shop, &crm] {
        let mut connection = login.connect().await;
        let id: i64 = sqlx::query_scalar("select job_id from backhaul.enqueue('toy', '{\"n\": 1}')")
            .fetch_one(&mut connection)
            .await
            .expect("enqueues");
        ids.insert(login.name.clone(), id);
    }
    // The owner's own, and one that died.
    let dead = db.toys(&[Toy::new(2)]).await[0];
    sqlx::query("update backhaul.jobs set enqueued_by = $1 where id = $2")
        .bind(&shop.name)
        .bind(dead)
        .execute(db.store.pool())
        .await
        .expect("writes");
    let buried =
        format!("select backhaul.bury('[{{\"id\": {dead}, \"reason\": \"r\", \"error\": {{\"code\": \"r\"}}}}]')");
    sqlx::raw_sql(AssertSqlSafe(buried)).execute(db.store.pool()).await.expect("buries");
    for (login, expected) in [
        (&shop, vec![(ids[&shop.name], "scheduled".to_owned()), (dead, "dead".to_owned())]),
        (&crm, vec![(ids[&crm.name], "scheduled".to_owned())]),
    ] {
        let seen: Vec<(i64, String)> = sqlx::query_as("select id, state from backhaul.my_jobs order by id")
            .fetch_all(&mut login.connect().await)
            .await
            .expect("reads");
        assert_eq!(seen, expected);
    }
}
