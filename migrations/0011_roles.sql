-- Who may do what: producers, operators, workers and readers.

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
-- Postgres lets everybody execute a new function, and default privileges of a schema cannot take that back: a later
-- migration that adds one revokes it again. tests/it/roles.rs looks.
revoke all on all functions in schema backhaul from public;

grant usage on schema backhaul to backhaul_producer, backhaul_operator, backhaul_worker, backhaul_reader;

-- Views run the functions in them with the rights of whoever reads them.
grant execute on function backhaul.priority_name to backhaul_producer, backhaul_operator, backhaul_worker, backhaul_reader;

grant execute on function backhaul.enqueue, backhaul.enqueue_many to backhaul_producer, backhaul_operator, backhaul_worker;
grant select on backhaul.my_jobs, backhaul.kinds to backhaul_producer;

grant select on backhaul.job_states, backhaul.queue_depth, backhaul.outbox_events to backhaul_reader, backhaul_operator, backhaul_worker;
grant select (id, kind, version, tenant, priority, attempt, max_attempts, rescues, replays, ordering_key, enqueued_at,
              enqueued_by, reason, error, fingerprint, died_at) on backhaul.dead_letters to backhaul_reader;
grant select on backhaul.kinds, backhaul.lanes, backhaul.cursors, backhaul.workers, backhaul.leases, backhaul.buckets,
    backhaul.pauses, backhaul.caps, backhaul.sinks, backhaul.sinks_waited_for, backhaul.seals, backhaul.seal_state, backhaul.maintenance, backhaul.deployment,
    backhaul.migrations
    to backhaul_reader, backhaul_operator, backhaul_worker;

-- A preview reads what an attempt would read, and takes tokens as it would; only a worker writes.
grant select on backhaul.dead_letters, backhaul.jobs, backhaul.steps, backhaul.memories to backhaul_operator;
grant execute on function backhaul.bucket_take to backhaul_operator;
grant execute on function backhaul.cancel, backhaul.reschedule, backhaul.dead_replay, backhaul.dead_discard,
    backhaul.pause, backhaul.resume, backhaul.set_cap, backhaul.set_weight, backhaul.set_backfill_share,
    backhaul.pause_sink, backhaul.resume_sink
    to backhaul_operator;

grant select on backhaul.steps, backhaul.memories to backhaul_worker;
grant execute on function backhaul.claim, backhaul.claim_alone, backhaul.waits_alone, backhaul.next_due, backhaul.settle, backhaul.put_step,
    backhaul.bucket_take, backhaul.bucket_limit, backhaul.sweep, backhaul.rescue, backhaul.unblock, backhaul.expire_keys,
    backhaul.stand_alone, backhaul.judge_sinks, backhaul.add_partitions, backhaul.drop_partitions, backhaul.seal,
    backhaul.sealed_after, backhaul.register_worker, backhaul.heartbeat, backhaul.leave
    to backhaul_worker;
grant insert, delete, select on backhaul.sleepers to backhaul_worker;
grant select, insert, update on backhaul.sinks to backhaul_worker;
grant select on backhaul.events to backhaul_worker;
grant insert, update on backhaul.kinds to backhaul_worker;
