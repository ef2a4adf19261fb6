-- Why a job is not running, a row a reason: a stable code, the cause, and what to do about it.
create function backhaul.explain_job(job_id bigint) returns table (code text, cause text, remedy text)
language plpgsql stable security definer
set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
declare
    j backhaul.jobs;
    v_held boolean := false;
begin
    select x.* into j from backhaul.jobs x where x.id = explain_job.job_id;
    if j.id is null then
        return query select * from backhaul.explain_ended(explain_job.job_id);
        return;
    end if;
    return query select * from backhaul.explain_running(j);
    if found then
        return;
    end if;
    return query select * from backhaul.explain_held(j);
    v_held := found;
    return query select s.code, s.cause, s.remedy from backhaul.explain_place(j) s
    -- Nothing more can be said of a job that is ready, once it is known what holds it back.
    where not (v_held and s.code in ('due', 'next'));
end $$;
comment on function backhaul.explain_job is 'Why a job is not running: a row a reason, with what to do about it.';

create function backhaul.utc(p_at timestamptz) returns text
language sql immutable set search_path = pg_catalog, pg_temp as $$
    select to_char(p_at at time zone 'utc', 'YYYY-MM-DD HH24:MI:SS') || ' UTC'
$$;

-- A job that is no longer unfinished.
create function backhaul.explain_ended(p_job bigint) returns table (code text, cause text, remedy text)
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
begin
    return query select 'dead', format('dead since %s: %s', backhaul.utc(d.died_at), d.reason),
        format('`backhaul dead show %s` tells why; then `backhaul dead replay %1$s` or `backhaul dead discard %1$s --why TEXT`', d.id)
    from backhaul.dead_letters d where d.id = p_job;
    if found then
        return;
    end if;
    return query select 'finished', format('finished: %s at %s', e.type, backhaul.utc(e.occurred_at)),
        format('nothing; `backhaul jobs show %s` lists its events', p_job)
    from backhaul.events e where e.job_id = p_job order by e.id desc limit 1;
    if not found then
        raise exception 'not_found: there is no job % and no event of one', p_job using errcode = 'BH020',
            hint = 'backhaul jobs list shows what is unfinished or dead';
    end if;
end $$;

create function backhaul.explain_running(j backhaul.jobs) returns table (code text, cause text, remedy text)
language sql stable
set search_path = pg_catalog, pg_temp
as $$
    select case when w.silent is false then 'running' else 'worker_silent' end,
        case when w.silent is false
             then format('in the hands of worker %s (process %s) since %s', w.host, w.pid, backhaul.utc(l.claimed_at))
             else format('its worker %s was last heard of at %s', coalesce(w.host, l.worker::text),
                         coalesce(backhaul.utc(w.heartbeat_at), 'no known time')) end,
        case when w.silent is false
             then format('nothing; `backhaul jobs cancel %s --why TEXT` would stop it', j.id)
             when exists (select from backhaul.worker_states o where not o.silent)
             then 'wait: another worker takes it over once this one counts as dead (worker.dead_after_ms)'
             else 'start a worker: none lives that would take it over' end
    from backhaul.leases l left join backhaul.worker_states w on w.id = l.worker
    where l.lane = j.lane and l.priority = j.priority and j.seq = any (l.seqs)
$$;

-- What keeps the job from starting although, or once, its turn has come.
create function backhaul.explain_held(j backhaul.jobs) returns table (code text, cause text, remedy text)
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
begin
    return query select 'deadline_passed', format('its deadline was %s: the next attempt makes it a dead letter',
        backhaul.utc(j.deadline_at)), format('nothing, or replay it then: `backhaul dead replay %s`', j.id)
    where j.deadline_at <= clock_timestamp();
    return query select 'unknown_kind', format('no kind %s version %s is registered', j.kind, j.version),
        'start a worker that has it, or run `backhaul migrate` with the program that has it'
    where not exists (select from backhaul.kinds k where k.kind = j.kind and k.version = j.version);
    return query select 'no_worker', format('no live worker runs %s version %s', j.kind, j.version),
        'start one: `backhaul work`; `backhaul doctor` shows who is there'
    where not exists (select from backhaul.worker_states w where (j.kind || '@' || j.version) = any (w.kinds)
                      and not w.stopping and not w.silent);
    return query select 'paused', format('paused since %s by %s%s', backhaul.utc(p.since), p.actor, ': ' || p.why),
        'when the reason is gone: `backhaul queue resume'
            || case when p.kind = '*' and p.tenant = '*' then ' --all' else '' end
            || case when p.kind = '*' then '' else ' --kind ' || p.kind end
            || case when p.tenant = '*' then '' else ' --tenant ' || p.tenant end || '`'
    from backhaul.pauses p where p.kind in (j.kind, '*') and p.tenant in (j.tenant, '*') order by p.kind, p.tenant;
    return query select 'sink_behind', format('since %s no worker claims anything: %s events are not published to the sink %s%s',
            backhaul.utc(s.holds_since), s.behind, s.name, ': ' || s.last_error),
        format('mend what the sink writes to; or, to go on without it: `backhaul outbox pause %s --why TEXT`', s.name)
    from backhaul.sinks_waited_for s order by s.name;
    return query select * from backhaul.explain_closed(j);
    if j.due_at > clock_timestamp() then
        return;
    end if;
    return query select 'capped', format('%s of at most %s jobs of %s%s are in workers'' hands', h.held, p.running_max,
            p.kind, case when p.tenant = '*' then '' else ' for ' || p.tenant end),
        format('wait, or raise it: `backhaul queue cap --kind %s%s --max %s`', p.kind,
            case when p.tenant = '*' then '' else ' --tenant ' || p.tenant end, p.running_max * 2)
    from backhaul.caps p cross join lateral (select backhaul.held(p.kind, p.tenant) as held) h
    where p.kind = j.kind and p.tenant in (j.tenant, '*') and h.held >= p.running_max order by p.tenant;
    return query select 'paced', format('the limit of %s a minute of the bucket %s is used up at this moment%s', b.per_minute,
            b.name, case when j.priority = 4 and b.backfill_share < 1
                         then format(', and backfill may have %s%% of it', round((b.backfill_share * 100)::numeric)) else '' end),
        'wait: tokens come back all the time'
    from backhaul.kinds k join backhaul.buckets b on b.tenant = j.tenant and b.name = any (k.pacing[1] || (
        select o.within from backhaul.buckets o where o.tenant = j.tenant and o.name = k.pacing[1]))
    where k.kind = j.kind and k.version = j.version and not backhaul.bucket_has(b, j.priority = 4) order by b.name;
end $$;

-- The buckets that keep the job back: those of its kind with what they lie within, the credentials of their upstreams,
-- and the one that it met last, which only the attempt could know. That one is named as long as it is closed, because the
-- job's own time comes from it.
create function backhaul.explain_closed(j backhaul.jobs) returns table (code text, cause text, remedy text)
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
declare
    v_now timestamptz := clock_timestamp();
    v_met text := j.errors -> -1 ->> 'bucket';
    v_pacing text[];
    v_names text[];
begin
    select k.pacing into v_pacing from backhaul.kinds k where k.kind = j.kind and k.version = j.version;
    select coalesce(v_pacing, '{}') || v_met || coalesce(array_agg(split_part(p, '/', 1) || '/token'), '{}') into v_names
    from unnest(v_pacing || v_met) p;
    select v_names || coalesce(array_agg(w), '{}') into v_names
    from backhaul.buckets o cross join lateral unnest(o.within) w
    where o.tenant = j.tenant and o.name in (v_pacing[1], v_met);
    return query select
        case when b.blocked_why ~ '^(auth_blocked|scope_missing):' then 'credential_refused' else 'bucket_closed' end,
        format('the bucket %s is closed until %s: %s', b.name, backhaul.utc(b.blocked_until), coalesce(b.blocked_why, 'blocked')),
        case when b.blocked_why ~ '^(auth_blocked|scope_missing):'
             then format('it does not pass by itself: correct client, secret and scopes of %s in the profile of %s, start the '
                 'workers again, then `backhaul jobs reschedule %s --at now`', split_part(b.name, '/', 1), b.tenant, j.id)
             when b.probing then 'the upstream looked down; one job tries it every ten seconds, the first success opens it'
             else format('wait: the upstream asked for the pause, and it ends by itself; if it asked for too much: '
                 '`backhaul queue open --tenant %s --bucket %s --why TEXT`', b.tenant, b.name) end
    from backhaul.buckets b
    where b.tenant = j.tenant and b.name = any (v_names)
      and b.blocked_until > case when b.name = v_met then v_now else greatest(j.due_at, v_now) end
    order by b.name;
end $$;

-- Who moved the job to the time that it waits for, where a person did.
create function backhaul.rescheduled_by(j backhaul.jobs) returns text
language sql stable
set search_path = pg_catalog, pg_temp
as $$
    select d.actor || coalesce(': ' || d.why, '') from (
        select convert_from(e.data, 'UTF8')::jsonb as data from backhaul.events e
        where e.job_id = j.id and e.type = 'dev.backhaul.job.rescheduled' order by e.id desc limit 1) e
    cross join lateral jsonb_to_record(e.data) as d (actor text, why text, run_at timestamptz)
    where d.run_at = j.due_at
$$;

-- Where an unfinished job that nobody runs stands.
create function backhaul.explain_place(j backhaul.jobs) returns table (code text, cause text, remedy text)
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
declare
    c backhaul.cursors;
    v_holder bigint;
    v_before bigint;
    v_by text;
    v_now text := format('`backhaul jobs reschedule %s --at now`', j.id);
    h backhaul.jobs;
    v_slow boolean;
begin
    if j.due_at > clock_timestamp() then
        v_by := backhaul.rescheduled_by(j);
    end if;
    if v_by is not null then
        return query select 'rescheduled', format('moved to %s by %s', backhaul.utc(j.due_at), v_by),
            'wait, or run it now: ' || v_now;
    elsif j.due_at > clock_timestamp() and j.errors is not null then
        return query select case when j.errors -> -1 ->> 'class' = 'transient' then 'retrying' else 'postponed' end,
            format('%s (%s failed tries of %s); due again at %s', j.errors -> -1 ->> 'code', j.attempt, j.max_attempts,
                   backhaul.utc(j.due_at)), 'wait, or try it now: ' || v_now;
    elsif j.due_at > clock_timestamp() then
        return query select 'scheduled', 'scheduled for ' || backhaul.utc(j.due_at), 'wait, or run it now: ' || v_now;
    elsif j.due_at is not null and j.rescues >= 2 then
        return query select 'alone', format('%s workers died while they ran it, so it runs with nothing beside it', j.rescues),
            format('wait until a worker is free of all else, or `backhaul jobs cancel %s --why TEXT`', j.id);
    elsif j.due_at is not null then
        return query select 'due', 'due since ' || backhaul.utc(j.due_at) || '; the next claim gives it its place', 'nothing';
    elsif j.seq is null then
        select h.job_id into v_holder from backhaul.key_holders h
        where h.tenant = j.tenant and h.ordering_key = j.ordering_key;
        if v_holder is null or v_holder = j.id then
            return query select 'freed', 'nobody holds its ordering key any more', 'nothing: it goes on within ten seconds';
            return;
        end if;
        select count(*) into v_before from backhaul.jobs o
        where o.tenant = j.tenant and o.ordering_key = j.ordering_key and o.id < j.id;
        -- What somebody more urgent waits for is raised, unless it runs already.
        select x.* into h from backhaul.jobs x where x.id = v_holder;
        v_slow := h.priority > j.priority and not exists (
            select from backhaul.leases l
            where l.lane = h.lane and l.priority = h.priority and h.seq = any (l.seqs));
        return query select 'blocked', format('waits for job %s%s, which holds the ordering key %s; %s older of this key', v_holder,
                case when v_slow then format(' of priority %s', backhaul.priority_name(h.priority)) else '' end,
                j.ordering_key, v_before),
            format('`backhaul jobs explain %s` tells what that one waits for', v_holder)
                || case when v_slow
                        then format('; `backhaul jobs reprioritize %s --priority %s` lets it go before its like', v_holder,
                                    backhaul.priority_name(j.priority)) else '' end;
    else
        select x.* into c from backhaul.cursors x where x.lane = j.lane and x.priority = j.priority;
        if j.seq <= c.position then
            return query select 'late', 'it was committed after its neighbours had been claimed',
                'nothing: the sweep finds it within a second, while a worker lives';
        elsif not c.awake then
            return query select 'asleep', 'its lane was put to sleep while it was being committed',
                'nothing: the sweep wakes the lane within a second, while a worker lives';
        else
            -- The exact number behind a long backlog helps nobody, and costs.
            select count(*) into v_before from (
                select from backhaul.jobs o where o.lane = j.lane and o.priority = j.priority
                    and o.seq > c.position and o.seq < j.seq limit 10000) u;
            return query select 'next', format('ready, with %s%s before it in its lane', case when v_before = 10000
                then 'at least ' else '' end, v_before), 'nothing; if the lane grows, start more workers';
        end if;
    end if;
end $$;

-- A schema's default privileges do not take back what every new function grants to everybody.

revoke all on all functions in schema backhaul from public;

grant execute on function backhaul.explain_job to backhaul_operator, backhaul_reader, backhaul_worker;
