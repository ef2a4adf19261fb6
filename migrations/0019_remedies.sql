-- What people do about work that waits for the wrong reason, and how a producer learns what became of its own.

-- Gives a waiting job another priority. One that is ready gets its place among the others of that priority anew; one
-- that waits for its time or for its key keeps waiting for it. 'unchanged': it had that priority, and keeps its place.
create function backhaul.reprioritize(job_id bigint, priority text, actor text, why text) returns text
language plpgsql security definer
set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
declare
    j backhaul.jobs;
    v_rank smallint := backhaul.priority_rank(reprioritize.priority);
begin
    perform pg_current_xact_id();
    if v_rank is null then
        raise exception 'invalid_argument: priority must be critical, high, normal, low or backfill' using errcode = 'BH005',
            hint = 'critical is served first';
    end if;
    j := backhaul.lock_job(reprioritize.job_id);
    if j.id is null then
        raise exception 'not_found: no unfinished job %', reprioritize.job_id using errcode = 'BH020',
            hint = 'a dead one can be replayed';
    end if;
    if exists (select from backhaul.leases l
               where l.lane = j.lane and l.priority = j.priority and j.seq = any (l.seqs)) then
        raise exception 'job_running: job % is running', j.id using errcode = 'BH021',
            hint = 'its priority matters no more; wait for it to end, or cancel it';
    end if;
    if j.priority = v_rank then
        return 'unchanged';
    end if;
    -- A place belongs to a cursor, and a cursor to a priority: promotion gives it the next one of its new cursor.
    update backhaul.jobs x set priority = v_rank, seq = null,
        due_at = case when j.seq is not null then clock_timestamp() else x.due_at end
    where x.id = j.id;
    perform backhaul.rouse(j);
    perform backhaul.append_event('dev.backhaul.job.reprioritized', j.id, j.tenant, j.kind, j.traceparent,
        backhaul.by_whom(reprioritize.actor) || jsonb_build_object('why', reprioritize.why,
            'priority', reprioritize.priority, 'was', backhaul.priority_name(j.priority)));
    perform backhaul.wake();
    return 'reprioritized';
end $$;
comment on function backhaul.reprioritize is 'Gives an unfinished job that is not running another priority.';

-- Opens a bucket before the time that its upstream asked for. Its limit stays; an upstream that still refuses closes it
-- again. Jobs that met the pause wait until its end by their own time, so they are due now, ten thousand at most; their
-- number is returned, or null where the bucket was open.
create function backhaul.open_bucket(tenant text, bucket text, actor text default null, why text default null) returns integer
language plpgsql security definer
set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
declare
    b backhaul.buckets;
    v_now timestamptz := clock_timestamp();
    v_moved integer;
begin
    perform pg_current_xact_id();
    select x.* into b from backhaul.buckets x
    where x.tenant = open_bucket.tenant and x.name = open_bucket.bucket for update;
    if b.name is null then
        raise exception 'not_found: % has no bucket %', coalesce(left(open_bucket.tenant, 64), 'null'),
            coalesce(left(open_bucket.bucket, 81), 'null') using errcode = 'BH020',
            hint = '`backhaul queue status` lists them, as provider/class';
    end if;
    if not b.probing and coalesce(b.blocked_until <= v_now, true) then
        return null;
    end if;
    update backhaul.buckets x set blocked_until = null, blocked_why = null, probing = false
    where x.tenant = b.tenant and x.name = b.name;
    -- They came back up to five seconds after its end; a later time was set by somebody who meant it.
    update backhaul.jobs x set due_at = v_now where x.id in (
        select j.id from backhaul.jobs j
        where j.tenant = b.tenant and j.due_at > v_now and j.due_at <= b.blocked_until + interval '10 seconds'
          and j.rescues < 2 and j.errors -> -1 ->> 'class' = 'throttled' and j.errors -> -1 ->> 'bucket' = b.name
        order by j.due_at limit 10000 for update skip locked);
    get diagnostics v_moved = row_count;
    perform backhaul.append_control('dev.backhaul.queue.opened', '*', b.tenant, open_bucket.actor, open_bucket.why,
        jsonb_strip_nulls(jsonb_build_object('bucket', b.name, 'was', b.blocked_why,
            'until', to_char(b.blocked_until at time zone 'utc', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"'))));
    perform backhaul.wake();
    return v_moved;
end $$;
comment on function backhaul.open_bucket is 'Opens a bucket that is closed or probed; returns how many jobs that met it are due now. Null: it was open.';

-- What became of a job that the caller's login enqueued. An unfinished or dead one of somebody else is 'unknown', like
-- one that never was. Of one that is over nobody keeps whose it was, so whoever knows its id is told how it ended, and
-- nothing of what it was about; once its events have expired it is 'unknown' as well.
create function backhaul.fate(job_id bigint) returns table (state text, code text, at timestamptz)
language plpgsql stable security definer
set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
begin
    return query select case when m.state = 'dead' then 'dead' else 'waiting' end, m.code, coalesce(m.died_at, m.due_at)
    from backhaul.my_jobs m where m.id = fate.job_id;
    if found then
        return;
    end if;
    -- The last word counts: a dead letter may have been replayed, and ended well.
    return query select case e.type when 'dev.backhaul.job.completed' then 'done'
                                    when 'dev.backhaul.job.cancelled' then 'cancelled'
                                    when 'dev.backhaul.job.erased' then 'erased' else 'discarded' end, null, e.occurred_at
    from backhaul.events e
    where e.job_id = fate.job_id and e.type in ('dev.backhaul.job.completed', 'dev.backhaul.job.cancelled',
                                                'dev.backhaul.job.discarded', 'dev.backhaul.job.erased')
      and not exists (select from backhaul.job_states s where s.id = fate.job_id)
    order by e.id desc limit 1;
    if not found then
        return query select 'unknown', null, null::timestamptz;
    end if;
end $$;
comment on function backhaul.fate is 'Whether a job of the caller''s is done, dead, waiting, cancelled, discarded or erased, with the code of its failure.';

-- A schema's default privileges do not take back what every new function grants to everybody.
revoke all on all functions in schema backhaul from public;

grant execute on function backhaul.reprioritize, backhaul.open_bucket to backhaul_operator;
grant execute on function backhaul.fate to backhaul_producer, backhaul_operator;
