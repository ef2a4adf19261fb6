-- What people do and see: cancelling, deciding on dead letters, views, and the roles that may do each.

-- Locks an unfinished job, and first its cursor where it has a place, in the order in which claims lock them, so that
-- afterwards it is certain whether the job is running. Null where there is none.
create function backhaul.lock_job(p_job bigint) returns backhaul.jobs
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
declare
    v_placed boolean;
    j backhaul.jobs;
begin
    loop
        select x.* into j from backhaul.jobs x where x.id = p_job;
        v_placed := j.seq is not null;
        if v_placed then
            perform from backhaul.cursors c where c.lane = j.lane and c.priority = j.priority for update;
        end if;
        select x.* into j from backhaul.jobs x where x.id = p_job for update;
        -- Promoted between the two looks: it has a cursor now.
        exit when v_placed or j.seq is null;
    end loop;
    return j;
end $$;

-- Wakes the cursor of a due job that is taken away: the rest of its batch may stand behind that cursor and count on the
-- promotion of this one to wake it (see enqueue_many).
create function backhaul.rouse(j backhaul.jobs) returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
begin
    if j.due_at is not null then
        update backhaul.cursors c set awake = true, settled = false, cooling = null, served_at = clock_timestamp()
        where c.lane = j.lane and c.priority = j.priority and not c.awake;
        perform backhaul.wake();
    end if;
end $$;

create function backhaul.cancel(job_id bigint, actor text, why text) returns text
language plpgsql security definer
set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
declare
    j backhaul.jobs;
    v_running boolean;
begin
    perform pg_current_xact_id();
    j := backhaul.lock_job(cancel.job_id);
    if j.id is null then
        raise exception 'not_found: no unfinished job %', cancel.job_id using errcode = 'BH020',
            hint = 'a finished job cannot be cancelled; a dead one can be discarded';
    end if;
    select exists (select from backhaul.leases l
                   where l.lane = j.lane and l.priority = j.priority and j.seq = any (l.seqs)) into v_running;
    delete from backhaul.jobs x where x.id = j.id;
    delete from backhaul.steps s where s.job_id = j.id;
    perform backhaul.rouse(j);
    perform backhaul.append_event('dev.backhaul.job.cancelled', j.id, j.tenant, j.kind, j.traceparent,
        backhaul.by_whom(cancel.actor) || jsonb_build_object('why', cancel.why, 'was_running', v_running));
    if v_running then
        -- Its attempt may be in the middle of a request. The next job of the key starts when the worker has stopped it,
        -- which settle tells, or when so much time has passed that the worker must be dead.
        update backhaul.key_holders h set stopping_until = clock_timestamp() + interval '30 seconds' where h.job_id = j.id;
    elsif j.ordering_key is not null then
        perform backhaul.hand_over(array[j.id]);
    end if;
    return case when v_running then 'cancelled_running' else 'cancelled' end;
end $$;
comment on function backhaul.cancel is 'Ends an unfinished job. A running one is stopped at its worker''s next heartbeat, and nothing it still reports is written.';

create function backhaul.reschedule(job_id bigint, run_at timestamptz, actor text, why text) returns void
language plpgsql security definer
set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
declare
    j backhaul.jobs;
begin
    perform pg_current_xact_id();
    j := backhaul.lock_job(reschedule.job_id);
    if j.id is null then
        raise exception 'not_found: no unfinished job %', reschedule.job_id using errcode = 'BH020',
            hint = 'a dead one can be replayed';
    end if;
    if reschedule.run_at is null or reschedule.run_at < '2000-01-01'
       or reschedule.run_at > clock_timestamp() + interval '5 years' then
        raise exception 'invalid_argument: run_at must lie within five years from now' using errcode = 'BH005',
            hint = 'now() runs the job at once';
    end if;
    if exists (select from backhaul.leases l
               where l.lane = j.lane and l.priority = j.priority and j.seq = any (l.seqs)) then
        raise exception 'job_running: job % is running', j.id using errcode = 'BH021',
            hint = 'wait for it to end, or cancel it';
    end if;
    update backhaul.jobs x set seq = null, due_at = reschedule.run_at,
        deadline_at = greatest(x.deadline_at, reschedule.run_at + (x.deadline_at - x.enqueued_at))
    where x.id = j.id;
    perform backhaul.rouse(j);
    -- A job that holds its ordering key keeps it over its retries, but not until another day.
    if j.ordering_key is not null and reschedule.run_at > clock_timestamp() then
        perform backhaul.hand_over(array[j.id]);
    end if;
    perform backhaul.append_event('dev.backhaul.job.rescheduled', j.id, j.tenant, j.kind, j.traceparent,
        backhaul.by_whom(reschedule.actor) || jsonb_build_object('why', reschedule.why,
            'run_at', to_char(reschedule.run_at at time zone 'utc', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"')));
    perform backhaul.wake();
end $$;
comment on function backhaul.reschedule is 'Moves an unfinished job that is not running to another time; now() runs it at once.';

-- Holds back a kind, a tenant, or one tenant's kind; '*' stands for all. Running jobs go on.
create function backhaul.pause(kind text default '*', tenant text default '*', actor text default null, why text default null)
returns boolean
language plpgsql security definer
set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
begin
    if pause.kind is distinct from '*' then
        perform backhaul.check_kind(pause.kind);
    end if;
    perform backhaul.check_tenant(pause.tenant);
    insert into backhaul.pauses (kind, tenant, actor, why)
    values (pause.kind, pause.tenant, coalesce(pause.actor, session_user), pause.why) on conflict do nothing;
    if not found then
        return false;
    end if;
    perform backhaul.append_control('dev.backhaul.queue.paused', pause.kind, pause.tenant, pause.actor, pause.why);
    return true;
end $$;
comment on function backhaul.pause is 'Holds back what has not started. False: it was held back already.';

create function backhaul.resume(kind text default '*', tenant text default '*', actor text default null, why text default null)
returns boolean
language plpgsql security definer
set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
begin
    delete from backhaul.pauses p where p.kind = resume.kind and p.tenant = resume.tenant;
    if not found then
        return false;
    end if;
    perform backhaul.append_control('dev.backhaul.queue.resumed', resume.kind, resume.tenant, resume.actor, resume.why);
    perform backhaul.wake();
    return true;
end $$;
comment on function backhaul.resume is 'Lets go what pause with the same arguments held back. False: nothing was.';

create function backhaul.append_control(p_type text, p_kind text, p_tenant text, p_actor text, p_why text,
                                        p_more jsonb default '{}') returns void
language sql volatile set search_path = pg_catalog, pg_temp as $$
    insert into backhaul.events (event_id, occurred_at, type, tenant, kind, subject, data)
    values (backhaul.uuid_v7(), clock_timestamp(), p_type, p_tenant, nullif(p_kind, '*'), 'queue/' || p_kind || '/' || p_tenant,
        convert_to(backhaul.canonical(jsonb_strip_nulls(backhaul.by_whom(p_actor)
            || jsonb_build_object('kind', p_kind, 'tenant', p_tenant, 'why', p_why) || p_more)), 'UTF8'))
$$;

-- At most `running_max` jobs of the kind at once in the whole fleet (tenant '*'), or of one tenant's kind; null: no cap.
create function backhaul.set_cap(kind text, tenant text, running_max integer, actor text default null, why text default null)
returns void
language plpgsql security definer
set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
begin
    perform backhaul.check_kind(set_cap.kind);
    perform backhaul.check_tenant(set_cap.tenant);
    if set_cap.running_max < 1 then
        raise exception 'invalid_argument: running_max must be 1 or more' using errcode = 'BH005',
            hint = 'backhaul.pause holds a kind back altogether; null takes the cap away';
    end if;
    if set_cap.running_max is null then
        delete from backhaul.caps c where c.kind = set_cap.kind and c.tenant = set_cap.tenant;
    else
        insert into backhaul.caps (kind, tenant, running_max) values (set_cap.kind, set_cap.tenant, set_cap.running_max)
        on conflict (kind, tenant) do update set running_max = excluded.running_max;
    end if;
    perform backhaul.append_control('dev.backhaul.queue.capped', set_cap.kind, set_cap.tenant, set_cap.actor, set_cap.why,
        jsonb_build_object('running_max', set_cap.running_max));
    perform backhaul.wake();
end $$;

-- A tenant of weight 3 is served three times as often as one of weight 1, while both have work.
create function backhaul.set_weight(kind text, tenant text, weight integer, actor text default null, why text default null)
returns void
language plpgsql security definer
set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
begin
    perform backhaul.check_kind(set_weight.kind);
    perform backhaul.check_tenant(nullif(set_weight.tenant, '*'));
    if set_weight.weight is null or set_weight.weight not between 1 and 1000 then
        raise exception 'invalid_argument: weight must be 1 to 1000' using errcode = 'BH005', hint = '1 is the default';
    end if;
    insert into backhaul.lanes (kind, version, tenant, weight)
    select k.kind, k.version, set_weight.tenant, set_weight.weight from backhaul.kinds k where k.kind = set_weight.kind
    on conflict (kind, version, tenant) do update set weight = excluded.weight;
    perform backhaul.append_control('dev.backhaul.queue.weighted', set_weight.kind, set_weight.tenant, set_weight.actor,
        set_weight.why, jsonb_build_object('weight', set_weight.weight));
end $$;

-- The part of a tenant's limit that work of priority `backfill` may use, from just above 0 to 1.
create function backhaul.set_backfill_share(tenant text, bucket text, share real, actor text default null, why text default null)
returns void
language plpgsql security definer
set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
begin
    perform backhaul.check_tenant(nullif(set_backfill_share.tenant, '*'));
    if set_backfill_share.bucket is null or set_backfill_share.bucket !~ '^[a-z0-9_-]{1,40}/[a-z0-9_-]{1,40}$' then
        raise exception 'invalid_argument: a bucket is provider/class' using errcode = 'BH005',
            hint = 'select tenant, name from backhaul.buckets lists them';
    elsif set_backfill_share.share is null or not (set_backfill_share.share > 0 and set_backfill_share.share <= 1) then
        raise exception 'invalid_argument: share must be above 0 and at most 1' using errcode = 'BH005',
            hint = '0.25 leaves three quarters of the limit to other work';
    end if;
    insert into backhaul.buckets (tenant, name, backfill_share)
    values (set_backfill_share.tenant, set_backfill_share.bucket, set_backfill_share.share)
    on conflict (tenant, name) do update set backfill_share = excluded.backfill_share;
    perform backhaul.append_control('dev.backhaul.queue.shared', '*', set_backfill_share.tenant, set_backfill_share.actor,
        set_backfill_share.why,
        jsonb_build_object('bucket', set_backfill_share.bucket, 'backfill_share', set_backfill_share.share::text));
end $$;

create function backhaul.check_kind(p_kind text) returns void language plpgsql stable
set search_path = pg_catalog, pg_temp as $$
begin
    if not exists (select from backhaul.kinds k where k.kind = p_kind) then
        raise exception 'unknown_kind: %', coalesce(left(p_kind, 64), 'null') using errcode = 'BH001',
            hint = 'select kind from backhaul.kinds lists what this deployment runs';
    end if;
end $$;

-- A tenant's name, or '*' for all.
create function backhaul.check_tenant(p_tenant text) returns void language plpgsql immutable
set search_path = pg_catalog, pg_temp as $$
begin
    if p_tenant is null or p_tenant !~ '^([A-Za-z0-9][A-Za-z0-9_.-]{0,63}|[*])$' then
        raise exception 'invalid_argument: tenant must be 1 to 64 of letters, digits, dot, hyphen and underscore'
            using errcode = 'BH005', hint = 'the tenant as in the jobs';
    end if;
end $$;

-- Puts a dead letter back under its id, with its finished steps, so that it resumes and its idempotency keys stay.
create function backhaul.dead_replay(job_id bigint, actor text, why text, payload jsonb default null) returns bigint
language plpgsql security definer
set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
declare
    d backhaul.dead_letters;
    k backhaul.kinds;
    v_path1 text[];
    v_path2 text[];
begin
    perform pg_current_xact_id();
    delete from backhaul.dead_letters x where x.id = dead_replay.job_id returning x.* into d;
    if d.id is null then
        raise exception 'not_found: no dead letter %', dead_replay.job_id using errcode = 'BH020',
            hint = 'select id, kind, reason from backhaul.dead_letters lists them';
    end if;
    select x.* into k from backhaul.kinds x where x.kind = d.kind and x.version = d.version;
    if dead_replay.payload is not null then
        if jsonb_typeof(dead_replay.payload) <> 'object' then
            raise exception 'payload_not_object: payload is %', jsonb_typeof(dead_replay.payload) using errcode = 'BH002',
                hint = 'a payload is a JSON object with the members of its kind';
        end if;
        if octet_length(dead_replay.payload::text) > coalesce(k.payload_bytes_max, 262144) then
            raise exception 'payload_too_large: % bytes', octet_length(dead_replay.payload::text) using errcode = 'BH003',
                hint = 'store the bulk elsewhere and send a reference';
        end if;
        -- Another payload is another request: what was done for the old one says nothing about it.
        delete from backhaul.steps s where s.job_id = d.id;
        -- And it may be about another resource, whose jobs it must wait for.
        v_path1 := string_to_array(k.ordering_paths[1], '.');
        v_path2 := string_to_array(k.ordering_paths[2], '.');
        if d.ordering_key = backhaul.derived_key(d.kind, v_path1, v_path2, d.payload) then
            d.ordering_key := backhaul.derived_key(d.kind, v_path1, v_path2, dead_replay.payload);
        end if;
    end if;
    insert into backhaul.jobs (id, priority, version, max_attempts, rescues, replays, due_at, deadline_at, enqueued_at,
        kind, tenant, ordering_key, idempotency_key, enqueued_by, traceparent, payload, errors)
    values (d.id, d.priority, d.version, d.max_attempts, 0, d.replays + 1, clock_timestamp(),
        clock_timestamp() + coalesce(k.deadline, interval '24 hours'), d.enqueued_at, d.kind, d.tenant, d.ordering_key,
        d.idempotency_key, d.enqueued_by, d.traceparent, coalesce(dead_replay.payload, d.payload), d.errors);
    perform backhaul.append_event('dev.backhaul.job.replayed', d.id, d.tenant, d.kind, d.traceparent,
        backhaul.by_whom(dead_replay.actor) || jsonb_build_object('why', dead_replay.why,
            'edited', dead_replay.payload is not null, 'replay', d.replays + 1));
    return d.id;
end $$;
comment on function backhaul.dead_replay is 'Puts a dead letter back to work under its id; finished steps are not repeated.';

-- What a dead letter leaves, whoever gives it up: its steps go, and the trail says who and why.
create function backhaul.give_up(d backhaul.dead_letters, p_actor text, p_why text) returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
begin
    delete from backhaul.steps s where s.job_id = d.id;
    perform backhaul.append_event('dev.backhaul.job.discarded', d.id, d.tenant, d.kind, d.traceparent,
        backhaul.by_whom(p_actor) || jsonb_build_object('why', p_why, 'reason', d.reason));
end $$;

create function backhaul.dead_discard(job_id bigint, actor text, why text) returns bigint
language plpgsql security definer
set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
declare
    d backhaul.dead_letters;
begin
    perform pg_current_xact_id();
    delete from backhaul.dead_letters x where x.id = dead_discard.job_id returning x.* into d;
    if d.id is null then
        raise exception 'not_found: no dead letter %', dead_discard.job_id using errcode = 'BH020',
            hint = 'select id, kind, reason from backhaul.dead_letters lists them';
    end if;
    perform backhaul.give_up(d, coalesce(dead_discard.actor, session_user), dead_discard.why);
    return d.id;
end $$;
comment on function backhaul.dead_discard is 'Gives a dead letter up for good. The audit trail keeps who and why.';

create view backhaul.job_states as
select j.id, j.kind, j.version, j.tenant, backhaul.priority_name(j.priority) as priority,
    case when r.worker is not null then 'running'
         when j.seq is not null then 'ready'
         when j.due_at is not null and j.attempt > 0 then 'retrying'
         when j.due_at is not null then 'scheduled'
         else 'blocked' end as state,
    j.due_at, j.attempt, j.max_attempts, j.rescues, j.replays, j.ordering_key, j.idempotency_key, j.enqueued_at,
    j.enqueued_by, j.deadline_at, r.worker, r.claimed_at, j.errors -> -1 as last_error
from backhaul.jobs j
left join (select l.worker, l.claimed_at, unnest(l.seqs) as seq from backhaul.leases l) r on r.seq = j.seq
union all
select d.id, d.kind, d.version, d.tenant, backhaul.priority_name(d.priority), 'dead', null, d.attempt, d.max_attempts,
    d.rescues, d.replays, d.ordering_key, d.idempotency_key, d.enqueued_at, d.enqueued_by, d.deadline_at, null, null,
    d.error
from backhaul.dead_letters d;
comment on view backhaul.job_states is 'Every unfinished or dead job with its state in a word. A finished job is gone; its end is in outbox_events.';

create view backhaul.my_jobs with (security_barrier) as
select s.id, s.kind, s.tenant, s.priority, s.state, s.due_at, s.attempt, s.enqueued_at, s.deadline_at
from backhaul.job_states s where s.enqueued_by = session_user;
comment on view backhaul.my_jobs is 'The unfinished and dead jobs that the caller''s login role enqueued.';

create view backhaul.outbox_events as
select e.event_id as id, e.kind as aggregatetype, e.subject as aggregateid, e.type,
    convert_from(e.data, 'UTF8')::jsonb as payload, e.tenant, e.job_id, e.occurred_at, e.traceparent, e.id as event_no
from backhaul.events e;
comment on view backhaul.outbox_events is 'The audit trail, with the column names of Debezium''s outbox.';

create view backhaul.queue_depth as
select s.kind, s.tenant, s.priority, count(*) filter (where s.state = 'ready') as ready,
    count(*) filter (where s.state = 'running') as running, count(*) filter (where s.state = 'scheduled') as scheduled,
    count(*) filter (where s.state = 'retrying') as retrying, count(*) filter (where s.state = 'blocked') as blocked,
    count(*) filter (where s.state = 'dead') as dead,
    min(s.enqueued_at) filter (where s.state = 'ready') as oldest_ready
from backhaul.job_states s group by s.kind, s.tenant, s.priority;
comment on view backhaul.queue_depth is 'Jobs by kind, tenant, priority and state. Reads every unfinished job.';
