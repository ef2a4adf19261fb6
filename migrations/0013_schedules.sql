-- Work that comes back.
--
-- A schedule is a row; there is no scheduler. Every worker looks about once a second for a row that is due, locks it,
-- computes the next occurrence (cron and time zones are the program's affair, not SQL's), and in one transaction
-- enqueues the run and moves `next_at`. Two workers cannot fire the same occurrence, because the second one finds the
-- row locked or moved; a crash in between leaves neither the run nor the move. The idempotency key of a run names its
-- occurrence, so that even a restored backup fires nothing twice within the kind's window.

create table backhaul.schedules (
    name text primary key check (name ~ '^[a-z][a-z0-9_-]{0,62}$'),
    kind text not null,
    version smallint not null default 1,
    tenant text not null,
    payload jsonb not null check (jsonb_typeof(payload) = 'object'),
    priority text not null default 'normal' check (backhaul.priority_rank(priority) is not null),
    -- Five fields, or @hourly and its like. Whether they mean anything is found out by the program.
    cron text not null check (octet_length(cron) between 1 and 200),
    timezone text not null default 'UTC' check (timezone ~ '^[A-Za-z0-9_+/-]{1,64}$'),
    -- What becomes of occurrences that nobody was there for: one run for all of them, a run for each, or none.
    missed text not null default 'coalesce' check (missed in ('coalesce', 'all', 'skip')),
    paused boolean not null default false,
    -- Occurrences after this moment count. Moved by put and by resume: what was changed or paused on purpose was not
    -- missed.
    counted_from timestamptz not null default clock_timestamp(),
    -- Null until a worker has computed it.
    next_at timestamptz,
    last_at timestamptz,
    last_job bigint,
    -- Why the program paused it.
    last_error text
);
create index schedules_due on backhaul.schedules (next_at nulls first) where not paused;

create function backhaul.append_schedule(p_type text, p_schedule backhaul.schedules, p_job bigint, p_actor text, p_why text)
returns void
language sql volatile set search_path = pg_catalog, pg_temp as $$
    insert into backhaul.events (event_id, job_id, occurred_at, type, tenant, kind, subject, data)
    values (backhaul.uuid_v7(), p_job, clock_timestamp(), p_type, p_schedule.tenant, p_schedule.kind,
        'schedule/' || p_schedule.name,
        convert_to(backhaul.canonical(jsonb_strip_nulls(backhaul.by_whom(p_actor)
            || jsonb_build_object('schedule', p_schedule.name, 'kind', p_schedule.kind, 'tenant', p_schedule.tenant,
            'cron', p_schedule.cron, 'timezone', p_schedule.timezone, 'missed', p_schedule.missed, 'job_id', p_job, 'why', p_why))), 'UTF8'))
$$;

-- Locks a schedule by name, or says that there is none.
create function backhaul.lock_schedule(p_name text) returns backhaul.schedules language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
    s backhaul.schedules;
begin
    select x.* into s from backhaul.schedules x where x.name = p_name for update;
    if s.name is null then
        raise exception 'not_found: no schedule %', left(p_name, 64) using errcode = 'BH020',
            hint = 'backhaul schedules list shows them';
    end if;
    return s;
end $$;

-- Adds or replaces a schedule. The job's arguments are held to the same rules as enqueue's, now and at each run.
create function backhaul.schedule_put(
    name text, kind text, payload jsonb, cron text, timezone text default 'UTC', tenant text default 'default',
    priority text default 'normal', version integer default 1, missed text default 'coalesce',
    actor text default null, why text default null
) returns text
language plpgsql security definer
set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
declare
    v_bytes_max integer;
    s backhaul.schedules;
    v_problem text;
    v_known boolean;
begin
    select x.payload_bytes_max into v_bytes_max from backhaul.kinds x
    where x.kind = schedule_put.kind and x.version = schedule_put.version;
    v_problem := case
        when schedule_put.name is null or schedule_put.name !~ '^[a-z][a-z0-9_-]{0,62}$'
            then 'invalid_argument: name must be a letter and up to 62 more of a-z, 0-9, hyphen and underscore'
        when schedule_put.cron is null or octet_length(schedule_put.cron) > 200
             or schedule_put.cron !~ '^\s*(@[a-z]+|(\S+\s+){4}\S+)\s*$'
            then 'invalid_argument: cron must have five fields, or be @hourly, @daily, @weekly, @monthly or @yearly'
        when schedule_put.timezone is null or schedule_put.timezone !~ '^[A-Za-z0-9_+/-]{1,64}$'
            then 'invalid_argument: timezone must be a name like UTC or Europe/Berlin'
        when schedule_put.missed is null or schedule_put.missed not in ('coalesce', 'all', 'skip')
            then 'invalid_argument: missed must be coalesce, all or skip'
        else backhaul.job_problem(v_bytes_max, schedule_put.kind, schedule_put.payload, schedule_put.tenant, null,
                 schedule_put.priority, null, null, null, null, null, schedule_put.version) end;
    if v_problem is not null then
        raise exception '%', v_problem using
            errcode = case split_part(v_problem, ':', 1) when 'unknown_kind' then 'BH001'
                when 'payload_not_object' then 'BH002' when 'payload_too_large' then 'BH003' else 'BH005' end,
            hint = 'see docs/guide/operate.md for schedules, and docs/guide/enqueue.md for a job''s arguments';
    end if;
    v_known := exists (select from backhaul.schedules x where x.name = schedule_put.name);
    insert into backhaul.schedules as x (name, kind, version, tenant, payload, priority, cron, timezone, missed)
    values (schedule_put.name, schedule_put.kind, schedule_put.version, schedule_put.tenant, schedule_put.payload,
            schedule_put.priority, btrim(schedule_put.cron), schedule_put.timezone, schedule_put.missed)
    on conflict (name) do update set
        kind = excluded.kind, version = excluded.version, tenant = excluded.tenant, payload = excluded.payload,
        priority = excluded.priority, cron = excluded.cron, timezone = excluded.timezone, missed = excluded.missed,
        -- What the program paused is mended by this; what a person paused stays so.
        paused = x.paused and x.last_error is null, last_error = null,
        counted_from = clock_timestamp(), next_at = null
    returning x.* into s;
    perform backhaul.append_schedule('dev.backhaul.schedule.put', s, null, schedule_put.actor, schedule_put.why);
    return case when v_known then 'changed' else 'added' end;
end $$;
comment on function backhaul.schedule_put is 'Adds a schedule, or replaces the one of that name: added or changed.';

create function backhaul.schedule_pause(name text, actor text default null, why text default null) returns boolean
language plpgsql security definer
set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
declare
    s backhaul.schedules := backhaul.lock_schedule(schedule_pause.name);
begin
    if s.paused then
        return false;
    end if;
    update backhaul.schedules x set paused = true, next_at = null where x.name = s.name;
    perform backhaul.append_schedule('dev.backhaul.schedule.paused', s, null, schedule_pause.actor, schedule_pause.why);
    return true;
end $$;
comment on function backhaul.schedule_pause is 'Stops a schedule from firing. False: it was paused already.';

create function backhaul.schedule_resume(name text, actor text default null, why text default null) returns boolean
language plpgsql security definer
set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
declare
    s backhaul.schedules := backhaul.lock_schedule(schedule_resume.name);
begin
    if not s.paused then
        return false;
    end if;
    update backhaul.schedules x set paused = false, last_error = null, next_at = null, counted_from = clock_timestamp()
    where x.name = s.name;
    perform backhaul.append_schedule('dev.backhaul.schedule.resumed', s, null, schedule_resume.actor, schedule_resume.why);
    return true;
end $$;
comment on function backhaul.schedule_resume is 'Lets a schedule fire again, from now on: what fell into the pause was not missed.';

create function backhaul.schedule_trigger(name text, actor text default null, why text default null) returns bigint
language plpgsql security definer
set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
declare
    s backhaul.schedules := backhaul.lock_schedule(schedule_trigger.name);
    v_job bigint;
begin
    select e.job_id into v_job from backhaul.enqueue(kind => s.kind, payload => s.payload, tenant => s.tenant,
        priority => s.priority, version => s.version::integer) e;
    update backhaul.schedules x set last_at = clock_timestamp(), last_job = v_job where x.name = s.name;
    perform backhaul.append_schedule('dev.backhaul.schedule.triggered', s, v_job, schedule_trigger.actor,
        schedule_trigger.why);
    return v_job;
end $$;
comment on function backhaul.schedule_trigger is 'Runs a schedule''s job now, paused or not; its times stay as they are. Returns the job''s id.';

create function backhaul.schedule_remove(name text, actor text default null, why text default null) returns void
language plpgsql security definer
set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
declare
    s backhaul.schedules := backhaul.lock_schedule(schedule_remove.name);
begin
    delete from backhaul.schedules x where x.name = s.name;
    perform backhaul.append_schedule('dev.backhaul.schedule.removed', s, null, schedule_remove.actor, schedule_remove.why);
end $$;
comment on function backhaul.schedule_remove is 'Removes a schedule. Jobs that it enqueued stay.';

-- One schedule that is due, locked for the caller's transaction, and the time. `p_seen` names those that this round has
-- dealt with, so that one which is far behind lets the others have their turn.
create function backhaul.schedule_due(p_seen text[])
returns table (name text, cron text, timezone text, missed text, counted_from timestamptz, next_at timestamptz,
               now timestamptz)
language sql volatile security definer
set search_path = pg_catalog, pg_temp
as $$
    select x.name, x.cron, x.timezone, x.missed, x.counted_from, x.next_at, clock_timestamp()
    from backhaul.schedules x
    where not x.paused and (x.next_at is null or x.next_at <= clock_timestamp()) and x.name <> all (p_seen)
    order by x.next_at nulls first limit 1 for update skip locked
$$;

-- Enqueues a job for each occurrence and moves on. The caller holds the row. Where the front door refuses the job, the
-- schedule is paused with the reason, and says so in the log. Returns how many jobs are new.
create function backhaul.schedule_fire(p_name text, p_runs timestamptz[], p_next timestamptz) returns integer
language plpgsql security definer
set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
declare
    s backhaul.schedules := backhaul.lock_schedule(p_name);
    v_new integer := 0;
    v_last bigint;
    v_reason text;
begin
    if cardinality(p_runs) > 0 then
        select count(*) filter (where e.outcome = 'inserted'), max(e.job_id),
               -- A key that belongs to an older payload: this occurrence had its run before the schedule was changed.
               min(e.reason) filter (where e.outcome = 'rejected' and e.reason not like 'idempotency_key_reused%')
        into v_new, v_last, v_reason
        from backhaul.enqueue_many((
            select jsonb_agg(jsonb_build_object('kind', s.kind, 'payload', s.payload, 'tenant', s.tenant,
                'priority', s.priority, 'version', s.version, 'idempotency_key',
                'schedule/' || s.name || '/' || to_char(r at time zone 'utc', 'YYYY-MM-DD"T"HH24:MI:SS"Z"')) order by n)
            from unnest(p_runs) with ordinality as u (r, n))) e;
        if v_reason is not null then
            perform backhaul.schedule_stop(p_name, v_reason);
            return 0;
        end if;
    end if;
    update backhaul.schedules x set next_at = p_next,
        last_at = coalesce(p_runs[cardinality(p_runs)], x.last_at), last_job = coalesce(v_last, x.last_job)
    where x.name = p_name;
    return v_new;
end $$;

-- The program cannot go on with it: paused until a person mends it.
create function backhaul.schedule_stop(p_name text, p_error text) returns void
language plpgsql security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    s backhaul.schedules := backhaul.lock_schedule(p_name);
begin
    update backhaul.schedules x set paused = true, next_at = null, last_error = left(p_error, 500) where x.name = p_name;
    perform backhaul.append_schedule('dev.backhaul.schedule.stopped', s, null, 'backhaul', left(p_error, 500));
end $$;

revoke all on all functions in schema backhaul from public;

-- A payload may hold personal data: operators alone read it, as they read a job's.
grant select on backhaul.schedules to backhaul_operator;
grant select (name, kind, version, tenant, priority, cron, timezone, missed, paused, counted_from, next_at, last_at,
              last_job, last_error) on backhaul.schedules to backhaul_reader, backhaul_worker;
grant execute on function backhaul.schedule_put, backhaul.schedule_pause, backhaul.schedule_resume,
    backhaul.schedule_trigger, backhaul.schedule_remove to backhaul_operator;
grant execute on function backhaul.schedule_due, backhaul.schedule_fire, backhaul.schedule_stop to backhaul_worker;
