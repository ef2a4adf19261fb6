-- The two logs of the engine: jobs, which workers consume, and events, which the outbox publishes.
-- Appending and finishing touch a row; reading moves a cursor and never does. See docs/ARCHITECTURE.md.

create table backhaul.deployment (
    one boolean primary key default true check (one),
    id uuid not null default gen_random_uuid(),
    created_at timestamptz not null default now()
);
comment on table backhaul.deployment is 'Names this installation in idempotency keys and in the source of its events.';
insert into backhaul.deployment default values;

-- What a kind demands of its jobs. Written by `backhaul migrate` from the constants of the kinds it was built with, so that
-- producers which only speak SQL are held to the same rules. A worker adds kinds that are not here, and changes none.
create table backhaul.kinds (
    kind text not null check (kind ~ '^[a-z][a-z0-9-]{0,62}$'),
    version smallint not null check (version > 0),
    max_attempts smallint not null check (max_attempts between 1 and 1000),
    timeout interval not null,
    deadline interval not null,
    idempotency_window interval not null,
    payload_bytes_max integer not null check (payload_bytes_max > 0),
    ordering_paths text[] check (cardinality(ordering_paths) between 1 and 2),
    pacing text[] not null default '{}',
    registered_at timestamptz not null default now(),
    primary key (kind, version)
);

-- A lane is one tenant's work of one kind and payload version. Lanes are made by promotion and never by producers:
-- a producer with a long transaction would make every other producer of that lane wait on the unique index.
create table backhaul.lanes (
    id integer generated always as identity primary key,
    kind text not null,
    version smallint not null,
    tenant text not null,
    weight smallint not null default 1 check (weight between 1 and 1000),
    unique (kind, version, tenant)
);

-- What operators hold back: a kind, a tenant, or one tenant's kind; '*' stands for all.
create table backhaul.pauses (
    kind text not null default '*',
    tenant text not null default '*',
    actor text not null,
    why text,
    since timestamptz not null default clock_timestamp(),
    primary key (kind, tenant)
);

-- How many jobs may run at once in the whole fleet: of a kind (tenant '*'), or of one tenant's kind.
create table backhaul.caps (
    kind text not null,
    tenant text not null default '*',
    running_max integer not null check (running_max > 0),
    primary key (kind, tenant)
);

-- How far one (lane, priority) has been read. `position` moves at every claim; every job at or below `floor` is
-- finished or in somebody's hands. Only an awake cursor is looked at by claims, and only behind an awake cursor may a
-- producer place a job directly: the cost of a claim does not grow with idle tenants.
create table backhaul.cursors (
    lane integer not null references backhaul.lanes (id),
    priority smallint not null,
    position bigint not null default 0,
    floor bigint not null default 0,
    awake boolean not null default true,
    -- Set by the sweep once a cursor sleeps: when every transaction older than this has ended, nobody who saw the
    -- cursor awake can still commit a job behind it. Null while it is awake, and after that proof.
    cooling xid8,
    settled boolean not null default false,
    -- Virtual time for a fair share: jobs served divided by the lane's weight.
    pass double precision not null default 0,
    served_at timestamptz not null default now(),
    primary key (lane, priority)
) with (fillfactor = 50, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 500);
-- By priority first, so that no other index serves the order in which claims ask for them.
create index cursors_awake on backhaul.cursors (priority, lane) where awake;

-- One sequence numbers ids and places alike, so that a first place is an id and sorts with it.
create sequence backhaul.job_seq;

-- What a column of jobs may hold. Domains, because a statement carries their checks in its plan, while those of a table
-- are read and prepared anew by each: seven of them were a fifth of what it takes to enqueue one job.
create domain backhaul.priority as smallint check (value between 0 and 4);
create domain backhaul.tries as smallint check (value between 1 and 1000);
create domain backhaul.payload as jsonb check (jsonb_typeof(value) = 'object');
-- Postgres knows times that no worker can read, 'infinity' among them.
create domain backhaul.instant as timestamptz check (value > '1999-01-01+00' and value < '9999-01-01+00');

-- An unfinished job. Its state is a fact about its columns, never a status to keep in step:
--   ready      seq is set, beyond its cursor
--   running    seq is in a lease (a negative seq runs alone: its worker died twice with it)
--   scheduled  due_at is set
--   blocked    neither: it waits behind an older job of its ordering key
-- A finished job is deleted; a dead one moves to dead_letters.
create table backhaul.jobs (
    id bigint primary key default nextval('backhaul.job_seq'),
    lane integer,
    priority backhaul.priority not null default 2,
    version smallint not null default 1,
    attempt smallint not null default 0,
    max_attempts backhaul.tries not null,
    rescues smallint not null default 0,
    replays smallint not null default 0,
    seq bigint,
    -- A plain insert needs no more than this; the front door says null where it places the job itself.
    due_at backhaul.instant default clock_timestamp(),
    deadline_at backhaul.instant not null,
    enqueued_at backhaul.instant not null default clock_timestamp(),
    kind text not null,
    tenant text not null,
    ordering_key text,
    idempotency_key text,
    enqueued_by text not null default session_user,
    traceparent text,
    payload backhaul.payload not null,
    errors jsonb,
    constraint jobs_state check (case when seq is null then due_at is not null or ordering_key is not null
                                      else due_at is null and lane is not null end)
) with (autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_threshold = 5000, autovacuum_analyze_scale_factor = 0.2);

create index jobs_ready on backhaul.jobs (lane, priority, seq) where seq is not null;
create index jobs_due on backhaul.jobs (due_at) where due_at is not null and rescues < 2;
-- When more is due than one promotion takes, it goes by tenants too.
create index jobs_due_tenant on backhaul.jobs (tenant, due_at) where due_at is not null and rescues < 2;
-- Jobs whose worker died twice: few, and handed out one at a time to a worker that holds nothing else.
create index jobs_alone on backhaul.jobs (due_at) where due_at is not null and rescues >= 2;
create index jobs_key on backhaul.jobs (tenant, ordering_key, id) where ordering_key is not null;
-- Those that wait behind their key, which neither a claim nor a promotion ever meets.
create index jobs_blocked on backhaul.jobs (tenant, ordering_key, id) where seq is null and due_at is null;

-- The job that an ordering key is reserved for, from its first claim to its end, retries included. The unique index is
-- what keeps one job of a key in flight, whatever order transactions commit in.
create table backhaul.key_holders (
    tenant text not null,
    ordering_key text not null,
    job_id bigint not null,
    -- The oldest job that was met after a newer one had got the key.
    late bigint,
    -- The job was cancelled while it ran: its attempt has until then to stop and give the key back.
    stopping_until timestamptz,
    primary key (tenant, ordering_key)
);
create index key_holders_job on backhaul.key_holders (job_id);

create table backhaul.workers (
    id uuid primary key,
    host text not null,
    pid integer not null,
    build text not null,
    kinds text[] not null,
    concurrency integer not null,
    in_flight integer not null default 0,
    stopping boolean not null default false,
    started_at timestamptz not null default clock_timestamp(),
    heartbeat_at timestamptz not null default clock_timestamp()
) with (fillfactor = 50);

-- One batch of one cursor in one worker's hands. Its row is the fence: who cannot lock it may not write. Ids are drawn
-- at random and not counted: claims commit without waiting for the disk, and a server that crashes would count what it
-- forgot once more. A worker that knows the forgotten lease would settle, and end, the new one of the same number.
create table backhaul.leases (
    id bigint primary key default (hashtextextended(gen_random_uuid()::text, 0) & 9223372036854775807),
    worker uuid not null,
    lane integer not null,
    priority smallint not null,
    seqs bigint[] not null,
    claimed_at timestamptz not null default clock_timestamp()
) with (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 1000);
create index leases_worker on backhaul.leases (worker);
create index leases_lane on backhaul.leases (lane, priority);

-- Samples of (sequence, transaction horizon): once every transaction older than the horizon has ended, no job at or
-- below the sequence can still appear.
create table backhaul.marks (
    horizon xid8 not null,
    seq bigint not null
) with (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 500);

-- A finished step's output, or the note that a step was begun. Kept with a dead letter, so that a replay resumes.
create table backhaul.steps (
    job_id bigint not null,
    name text not null check (octet_length(name) between 1 and 200),
    state text not null check (state in ('begun', 'done')),
    output jsonb,
    at timestamptz not null default clock_timestamp(),
    primary key (job_id, name)
);

-- What a kind remembers of a resource from one job to the next.
create table backhaul.memories (
    tenant text not null,
    kind text not null,
    resource text not null check (octet_length(resource) between 1 and 512),
    value jsonb not null,
    updated_at timestamptz not null default clock_timestamp(),
    primary key (tenant, kind, resource)
);

create table backhaul.idempotency_keys (
    scope text not null,
    key text not null,
    job_id bigint not null,
    request_hash bytea not null,
    expires_at timestamptz not null,
    primary key (scope, key)
);
create index idempotency_keys_expiry on backhaul.idempotency_keys (expires_at);

-- A job that ended badly, whole. Its id is the job's: a replay puts it back under the same id.
create table backhaul.dead_letters (
    id bigint primary key,
    kind text not null,
    version smallint not null,
    tenant text not null,
    priority smallint not null,
    attempt smallint not null,
    max_attempts smallint not null,
    rescues smallint not null,
    replays smallint not null,
    ordering_key text,
    idempotency_key text,
    enqueued_at timestamptz not null,
    enqueued_by text not null,
    deadline_at timestamptz not null,
    traceparent text,
    payload jsonb not null,
    errors jsonb not null default '[]',
    reason text not null,
    error jsonb not null,
    -- The three documents of a conflict. Apart from the error, because they are content as the payload is.
    conflict jsonb,
    fingerprint text not null,
    died_at timestamptz not null default clock_timestamp()
);
create index dead_letters_kind on backhaul.dead_letters (kind, tenant, died_at);
create index dead_letters_fingerprint on backhaul.dead_letters (fingerprint, died_at);

-- One upstream limit of one tenant, shared by the fleet. `per_minute` null: no limit known, but it can be closed.
-- burst + 61 * rate = per_minute, so that no window of a minute exceeds the limit (see bucket_rate).
create table backhaul.buckets (
    tenant text not null,
    name text not null check (name ~ '^[a-z0-9_-]{1,40}/[a-z0-9_-]{1,40}$'),
    per_minute integer check (per_minute > 0),
    tokens double precision not null default 0,
    refilled_at timestamptz not null default clock_timestamp(),
    -- The part of the limit that work of priority `backfill` may use, and its own tokens where that is not all.
    backfill_share real not null default 1 check (backfill_share > 0 and backfill_share <= 1),
    backfill_tokens double precision not null default 0,
    blocked_until timestamptz,
    blocked_why text,
    -- The upstream looked down: one job at a time tries it, until one succeeds.
    probing boolean not null default false,
    -- Wider limits of the same upstream that every call of this bucket draws on as well, by their names.
    within text[] not null default '{}',
    primary key (tenant, name)
) with (fillfactor = 50, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 500);

-- Workers that are about to sleep. A producer notifies only when somebody is here: every notifying commit takes one
-- lock for the whole server. Unlogged: after a crash everybody reconnects and registers again.
create unlogged table backhaul.sleepers (
    worker uuid primary key
);

create table backhaul.maintenance (
    task text primary key,
    ran_at timestamptz not null default '-infinity',
    -- How long it took, where that says when it may run again.
    took interval not null default '0',
    -- Who does it, where it takes longer than a transaction.
    worker uuid
);
insert into backhaul.maintenance (task)
values ('sweep'), ('rescue'), ('alone'), ('keys'), ('partitions'), ('retention'), ('unblock'), ('sinks'),
    ('dead_letters'), ('memories');

-- The audit trail and the outbox: append-only, partitioned by id so that retention drops whole partitions.
create sequence backhaul.event_seq;
create table backhaul.events (
    id bigint not null default nextval('backhaul.event_seq'),
    event_id uuid not null,
    job_id bigint,
    occurred_at timestamptz not null,
    type text not null,
    tenant text not null,
    kind text,
    subject text not null,
    traceparent text,
    data bytea not null
) partition by range (id);
alter table backhaul.events add primary key (id);
-- Ids of events and jobs grow together, so a summary per block range finds a job's events at almost no cost.
create index events_job on backhaul.events using brin (job_id) with (pages_per_range = 16, autosummarize = on);
-- As large as backhaul.partition_size says of all.
create table backhaul.events_0 partition of backhaul.events for values from (0) to (10000000);
-- Appending an event must never fail: should nobody have made the next partition, events wait here.
create table backhaul.events_default partition of backhaul.events default;

create table backhaul.seals (
    first_seq bigint primary key,
    event_ids bigint[] not null,
    sealed_at timestamptz not null default clock_timestamp()
);

create table backhaul.seal_state (
    one boolean primary key default true check (one),
    position bigint not null default 0,
    next_seq bigint not null default 1,
    gaps bigint[] not null default '{}',
    gap_horizons xid8[] not null default '{}'
) with (fillfactor = 50, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 500);
insert into backhaul.seal_state default values;

-- One destination of events. `position` is the last sequence number delivered in order.
create table backhaul.sinks (
    name text primary key check (name ~ '^[a-z][a-z0-9_-]{0,62}$'),
    kind text not null,
    target text not null,
    position bigint not null default 0,
    paused boolean not null default false,
    failing_since timestamptz,
    last_error text,
    owner uuid,
    -- Or, without an owner, until when it had one.
    owned_until timestamptz,
    -- It was within the limit of unpublished events once since it was new or paused.
    caught_up boolean not null default false,
    -- Since when claims wait for it, because it is too far behind.
    holds_since timestamptz
);

-- A row's transaction id must exist before its number is taken: the horizons above are only true in that order.
-- A before-statement trigger runs before the first default is computed, also under copy.
-- Both run for every statement that inserts, so they set nothing that would have to be set back: all names are whole.
create function backhaul.assign_xid() returns trigger language plpgsql as $$
declare
    v_xid xid8 := pg_catalog.pg_current_xact_id();
begin
    return null;
end $$;

create function backhaul.before_jobs() returns trigger language plpgsql as $$
declare
    v_xid xid8 := pg_catalog.pg_current_xact_id();
begin
    if exists (select from backhaul.sleepers) then
        perform pg_catalog.pg_notify('backhaul', '');
    end if;
    return null;
end $$;

create trigger jobs_before_insert before insert on backhaul.jobs
    for each statement execute function backhaul.before_jobs();
create trigger events_before_insert before insert on backhaul.events
    for each statement execute function backhaul.assign_xid();
