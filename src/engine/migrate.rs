//! Bringing the schema to this program's version, and refusing to work with another.

use sqlx::{PgPool, migrate::Migrator, postgres::PgPoolOptions};

use crate::{
    job::KindSpec,
    store::{Store, StoreError},
};

static MIGRATIONS: Migrator = sqlx::migrate!("../../migrations");

fn migrator() -> Migrator {
    let mut migrator = Migrator::with_migrations(MIGRATIONS.iter().cloned().collect());
    migrator.dangerous_set_table_name("backhaul.migrations");
    migrator.create_schema("backhaul");
    migrator
}

/// Newest schema version this program knows.
pub fn known_version() -> i64 {
    MIGRATIONS.iter().map(|migration| migration.version).max().unwrap_or(0)
}

/// Version of the schema in the database; 0 where there is none.
pub async fn schema_version(store: &Store) -> Result<i64, StoreError> {
    let present: bool =
        sqlx::query_scalar("select to_regclass('backhaul.migrations') is not null").fetch_one(store).await?;
    if !present {
        return Ok(0);
    }
    Ok(sqlx::query_scalar("select coalesce(max(version), 0) from backhaul.migrations where success")
        .fetch_one(store)
        .await?)
}

async fn run(connection: &PgPool) -> Result<(), StoreError> {
    // Waiting for another process that migrates, or building an index of a large table, takes longer than any
    // statement of a worker may.
    sqlx::query("set statement_timeout = '30 min'").execute(connection).await?;
    Ok(migrator().run(connection).await?)
}

/// Applies what is missing and registers the kinds. Safe when two processes start at once: one waits for the other.
/// Returns the version before and after.
pub async fn migrate(store: &Store, kinds: &[KindSpec]) -> Result<(i64, i64), StoreError> {
    let before = schema_version(store).await?;
    let known = known_version();
    if before > known {
        return Err(StoreError::SchemaNewer { found: before, known });
    }
    if before < known {
        // A connection of its own, closed either way: migrations hold a lock of their session, which one that failed
        // does not give back, and others would wait for it as long as a pool kept the session.
        let own = PgPoolOptions::new().max_connections(1).connect_with(store.options().clone()).await?;
        let migrated = run(&own).await;
        own.close().await;
        migrated?;
    }
    register_kinds(store, kinds).await?;
    Ok((before, schema_version(store).await?))
}

/// Refuses a schema that is not this program's.
pub async fn check_version(store: &Store) -> Result<(), StoreError> {
    let (found, known) = (schema_version(store).await?, known_version());
    match found.cmp(&known) {
        std::cmp::Ordering::Equal => Ok(()),
        std::cmp::Ordering::Greater => Err(StoreError::SchemaNewer { found, known }),
        std::cmp::Ordering::Less => Err(StoreError::SchemaOlder { found, known }),
    }
}

/// Writes the constants of the kinds, so that producers in SQL are held to them.
pub async fn register_kinds(store: &Store, kinds: &[KindSpec]) -> Result<(), StoreError> {
    for kind in kinds {
        sqlx::query(
            "insert into backhaul.kinds as k (kind, version, max_attempts, timeout, deadline, idempotency_window,
                 payload_bytes_max, ordering_paths, pacing)
             values ($1, $2, $3, make_interval(secs => $4), make_interval(secs => $5), make_interval(secs => $6), $7, $8, $9)
             on conflict (kind, version) do update set max_attempts = excluded.max_attempts,
                 timeout = excluded.timeout, deadline = excluded.deadline,
                 idempotency_window = excluded.idempotency_window, payload_bytes_max = excluded.payload_bytes_max,
                 ordering_paths = excluded.ordering_paths, pacing = excluded.pacing
             where (k.max_attempts, k.timeout, k.deadline, k.idempotency_window, k.payload_bytes_max, k.ordering_paths, k.pacing)
                 is distinct from (excluded.max_attempts, excluded.timeout, excluded.deadline,
                     excluded.idempotency_window, excluded.payload_bytes_max, excluded.ordering_paths, excluded.pacing)",
        )
        .bind(kind.kind)
        .bind(kind.version)
        .bind(i16::try_from(kind.max_attempts).unwrap_or(i16::MAX))
        .bind(kind.timeout.as_secs_f64())
        .bind(kind.deadline.as_secs_f64())
        .bind(kind.idempotency_window.as_secs_f64())
        .bind(i32::try_from(kind.payload_bytes_max).unwrap_or(i32::MAX))
        .bind(kind.ordering_key.map(|path| path.iter().map(|part| (*part).to_owned()).collect::<Vec<_>>()))
        .bind(kind.pacing.iter().map(|bucket| (*bucket).to_owned()).collect::<Vec<_>>())
        .execute(store)
        .await?;
    }
    Ok(())
}
