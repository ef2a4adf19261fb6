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
    select case when w.heartbeat_at > clock_timestamp() - interval '10 seconds' then 'running' else 'worker_silent' end,
        case when w.heartbeat_at > clock_timestamp() - interval '10 seconds'
             then format('in the hands of worker %s (process %s) since %s', w.host, w.pid, backhaul.utc(l.claimed_at))
             else format('its worker %s was last heard of at %s', coalesce(w.host, l.worker::text),
                         coalesce(backhaul.utc(w.heartbeat_at), 'no known time')) end,
        case when w.heartbeat_at > clock_timestamp() - interval '10 seconds'
             then format('nothing; `backhaul jobs cancel %s --why TEXT` would stop it', j.id)
             else 'wait: another worker takes it over once this one counts as dead (worker.dead_after_ms)' end
    from backhaul.leases l left join backhaul.workers w on w.id = l.worker
    where l.lane = j.lane and l.priority = j.priority and j.seq = any (l.seqs)
$$;

-- What keeps the job from starting although, or once, its turn has come.
create function backhaul.explain_held(j backhaul.jobs) returns table (code text, cause text, remedy text)
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
declare
    v_due timestamptz := greatest(j.due_at, clock_timestamp());
begin
    return query select 'deadline_passed', format('its deadline was %s: the next attempt makes it a dead letter',
        backhaul.utc(j.deadline_at)), format('nothing, or replay it then: `backhaul dead replay %s`', j.id)
    where j.deadline_at <= clock_timestamp();
    return query select 'unknown_kind', format('no kind %s version %s is registered', j.kind, j.version),
        'start a worker that has it, or run `backhaul migrate` with the program that has it'
    where not exists (select from backhaul.kinds k where k.kind = j.kind and k.version = j.version);
    return query select 'no_worker', format('no live worker runs %s version %s', j.kind, j.version),
        'start one: `backhaul work`; `backhaul doctor` shows who is there'
    where not exists (select from backhaul.workers w where (j.kind || '@' || j.version) = any (w.kinds)
                      and not w.stopping and w.heartbeat_at > clock_timestamp() - interval '30 seconds');
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
    return query select 'bucket_closed',
        format('the bucket %s is closed until %s: %s', b.name, backhaul.utc(b.blocked_until), coalesce(b.blocked_why, 'blocked')),
        case when b.probing then 'the upstream looked down; one job tries it every ten seconds, the first success opens it'
             else 'wait: the upstream asked for the pause, and it ends by itself' end
    from backhaul.kinds k join backhaul.buckets b on b.tenant = j.tenant and b.name = any (k.pacing || (
        select o.within from backhaul.buckets o where o.tenant = j.tenant and o.name = k.pacing[1]))
    where k.kind = j.kind and k.version = j.version and b.blocked_until > v_due order by b.name;
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
    v_now text := format('`backhaul jobs reschedule %s --at now`', j.id);
begin
    if j.due_at > clock_timestamp() and j.errors is not null then
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
        return query select 'blocked', format('waits for job %s, which holds the ordering key %s; %s older of this key', v_holder,
            j.ordering_key, v_before), format('`backhaul jobs explain %s` tells what that one waits for', v_holder);
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
