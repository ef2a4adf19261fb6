-- What people do and see: cancelling, deciding on dead letters, views, and the roles that may do each.

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
    select x.* into j from backhaul.jobs x where x.id = cancel.job_id for update;
    if not found then
        raise exception 'not_found: no unfinished job %', cancel.job_id using errcode = 'BH020',
            hint = 'a finished job cannot be cancelled; a dead one can be discarded';
    end if;
    select exists (select from backhaul.leases l
                   where l.lane = j.lane and l.priority = j.priority and j.seq = any (l.seqs)) into v_running;
    delete from backhaul.jobs x where x.id = j.id;
    delete from backhaul.steps s where s.job_id = j.id;
    perform backhaul.append_event('dev.backhaul.job.cancelled', j.id, j.tenant, j.kind, j.traceparent,
        jsonb_build_object('actor', coalesce(cancel.actor, session_user), 'why', cancel.why, 'was_running', v_running));
    if j.ordering_key is not null then
        perform backhaul.hand_over(array[j.id]);
    end if;
    return case when v_running then 'cancelled_running' else 'cancelled' end;
end $$;
comment on function backhaul.cancel is 'Ends an unfinished job. A running one is stopped at its worker''s next heartbeat, and nothing it still reports is written.';

-- Puts a dead letter back under its id, with its finished steps, so that it resumes and its idempotency keys stay.
create function backhaul.dead_replay(job_id bigint, actor text, why text, payload jsonb default null) returns bigint
language plpgsql security definer
set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
declare
    d backhaul.dead_letters;
    k backhaul.kinds;
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
            raise exception 'payload_not_object: payload is %', jsonb_typeof(dead_replay.payload) using errcode = 'BH002';
        end if;
        if octet_length(dead_replay.payload::text) > coalesce(k.payload_bytes_max, 262144) then
            raise exception 'payload_too_large: % bytes', octet_length(dead_replay.payload::text) using errcode = 'BH003';
        end if;
        -- Another payload is another request: what was done for the old one says nothing about it.
        delete from backhaul.steps s where s.job_id = d.id;
    end if;
    insert into backhaul.jobs (id, priority, version, max_attempts, rescues, replays, due_at, deadline_at, enqueued_at,
        kind, tenant, ordering_key, idempotency_key, enqueued_by, traceparent, payload, errors)
    values (d.id, d.priority, d.version, d.max_attempts, 0, d.replays + 1, clock_timestamp(),
        clock_timestamp() + coalesce(k.deadline, interval '24 hours'), d.enqueued_at, d.kind, d.tenant, d.ordering_key,
        d.idempotency_key, d.enqueued_by, d.traceparent, coalesce(dead_replay.payload, d.payload), d.errors);
    perform backhaul.append_event('dev.backhaul.job.replayed', d.id, d.tenant, d.kind, d.traceparent,
        jsonb_build_object('actor', coalesce(dead_replay.actor, session_user), 'why', dead_replay.why,
            'edited', dead_replay.payload is not null, 'replay', d.replays + 1));
    return d.id;
end $$;
comment on function backhaul.dead_replay is 'Puts a dead letter back to work under its id; finished steps are not repeated.';

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
    delete from backhaul.steps s where s.job_id = d.id;
    perform backhaul.append_event('dev.backhaul.job.discarded', d.id, d.tenant, d.kind, d.traceparent,
        jsonb_build_object('actor', coalesce(dead_discard.actor, session_user), 'why', dead_discard.why,
            'reason', d.reason));
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

-- Roles belong to the whole server: another database of it may be making them at this moment.
do $$
declare
    r text;
begin
    foreach r in array array['backhaul_producer', 'backhaul_operator', 'backhaul_worker', 'backhaul_reader'] loop
        begin
            execute format('create role %I nologin', r);
        exception when duplicate_object or unique_violation then
            null;
        end;
    end loop;
end $$;

revoke all on schema backhaul from public;
revoke all on all tables in schema backhaul from public;
revoke all on all functions in schema backhaul from public;
alter default privileges in schema backhaul revoke all on functions from public;

grant usage on schema backhaul to backhaul_producer, backhaul_operator, backhaul_worker, backhaul_reader;

grant execute on function backhaul.enqueue, backhaul.enqueue_many to backhaul_producer, backhaul_operator, backhaul_worker;
grant select on backhaul.my_jobs, backhaul.kinds to backhaul_producer;

grant select on backhaul.job_states, backhaul.queue_depth, backhaul.outbox_events to backhaul_reader, backhaul_operator, backhaul_worker;
grant select (id, kind, version, tenant, priority, attempt, max_attempts, rescues, replays, ordering_key, enqueued_at,
              enqueued_by, reason, error, fingerprint, died_at) on backhaul.dead_letters to backhaul_reader;
grant select on backhaul.kinds, backhaul.lanes, backhaul.cursors, backhaul.workers, backhaul.leases, backhaul.buckets,
    backhaul.sinks, backhaul.seals, backhaul.seal_state, backhaul.maintenance, backhaul.deployment
    to backhaul_reader, backhaul_operator, backhaul_worker;

grant select on backhaul.dead_letters, backhaul.jobs, backhaul.steps to backhaul_operator;
grant execute on function backhaul.cancel, backhaul.dead_replay, backhaul.dead_discard to backhaul_operator;

grant select on backhaul.steps, backhaul.memories to backhaul_worker;
grant execute on function backhaul.claim, backhaul.claim_alone, backhaul.next_due, backhaul.settle, backhaul.put_step,
    backhaul.bucket_take, backhaul.bucket_limit, backhaul.sweep, backhaul.rescue, backhaul.unblock, backhaul.expire_keys,
    backhaul.keep_partitions, backhaul.seal, backhaul.register_worker, backhaul.heartbeat, backhaul.leave
    to backhaul_worker;
grant insert, delete, select on backhaul.sleepers to backhaul_worker;
grant select, insert, update on backhaul.sinks to backhaul_worker;
grant select on backhaul.events to backhaul_worker;
grant insert, update on backhaul.kinds to backhaul_worker;
