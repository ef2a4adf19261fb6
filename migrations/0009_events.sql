-- The audit trail and outbox: what the database itself tells, the order of events, and their partitions.

-- RFC 8785 text of a document whose member names are ASCII and whose numbers are integers, as ours are.
create function backhaul.canonical(p_value jsonb) returns text
language plpgsql immutable
set search_path = pg_catalog, pg_temp
as $$
begin
    case jsonb_typeof(p_value)
    when 'object' then
        return (select '{' || coalesce(string_agg(to_json(m.key)::text || ':' || backhaul.canonical(m.value), ','
                                                  order by m.key collate "C"), '') || '}'
                from jsonb_each(p_value) m);
    when 'array' then
        return (select '[' || coalesce(string_agg(backhaul.canonical(e.value), ',' order by e.n), '') || ']'
                from jsonb_array_elements(p_value) with ordinality as e (value, n));
    else
        return p_value::text;
    end case;
end $$;

create function backhaul.uuid_v7() returns uuid
language sql volatile set search_path = pg_catalog, pg_temp as $$
    select encode(set_bit(set_bit(overlay(uuid_send(gen_random_uuid())
        placing substring(int8send(floor(extract(epoch from clock_timestamp()) * 1000)::bigint) from 3) from 1 for 6),
        52, 1), 53, 1), 'hex')::uuid
$$;

-- Who did it: the name that was given, which anybody may choose, and the login, which nobody can.
create function backhaul.by_whom(p_actor text) returns jsonb
language sql stable set search_path = pg_catalog, pg_temp as $$
    select jsonb_build_object('actor', coalesce(p_actor, session_user), 'login', session_user)
$$;

-- An event that the database itself tells: operators' actions and rescues.
create function backhaul.append_event(p_type text, p_job bigint, p_tenant text, p_kind text, p_trace text, p_members jsonb)
returns void
language sql volatile set search_path = pg_catalog, pg_temp as $$
    insert into backhaul.events (event_id, job_id, occurred_at, type, tenant, kind, subject, traceparent, data)
    values (backhaul.uuid_v7(), p_job, clock_timestamp(), p_type, p_tenant, p_kind, 'job/' || p_job, p_trace,
        convert_to(backhaul.canonical(jsonb_strip_nulls(p_members) ||
            jsonb_build_object('job_id', p_job, 'kind', p_kind, 'tenant', p_tenant)), 'UTF8'))
$$;

-- Events in one partition; the first one is made with the table.
create function backhaul.partition_size() returns bigint
language sql immutable set search_path = pg_catalog, pg_temp as $$
    select 10000000::bigint
$$;

-- Makes or drops a partition of events, unless somebody reads or writes them for longer than 200 ms: those who write events
-- queue behind the lock that this needs. Its callers have ten million events' time to try again.
create function backhaul.change_partitions(p_statement text) returns boolean
language plpgsql
set search_path = pg_catalog, pg_temp
set lock_timeout = '200ms'
as $$
begin
    execute p_statement;
    return true;
exception when lock_not_available then
    return false;
end $$;

-- Keeps two partitions of events ahead.
create function backhaul.add_partitions(p_every interval) returns integer
language plpgsql security definer
set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
declare
    v_size constant bigint := backhaul.partition_size();
    v_last bigint;
    v_added integer := 0;
    n bigint;
begin
    if not backhaul.my_turn('partitions', p_every) then
        return 0;
    end if;
    select case when s.is_called then s.last_value else 0 end into v_last from backhaul.event_seq s;
    for n in v_last / v_size .. v_last / v_size + 2 loop
        if to_regclass('backhaul.events_' || n) is null
           and not exists (select from only backhaul.events_default d where d.id >= n * v_size and d.id < (n + 1) * v_size) then
            exit when not backhaul.change_partitions(format(
                'create table backhaul.%I partition of backhaul.events for values from (%s) to (%s)',
                'events_' || n, n * v_size, (n + 1) * v_size));
            v_added := v_added + 1;
        end if;
    end loop;
    return v_added;
end $$;

-- Drops the partitions of events that are older than the retention, with their seals, but never one that an enabled
-- sink still needs or that is not sealed to its end. Returns how many seals and partitions are gone; more than `p_limit`
-- seals are left for the next calls, and their partition with them.
create function backhaul.drop_partitions(p_every interval, p_retention interval, p_limit integer) returns integer
language plpgsql security definer
set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
declare
    v_size constant bigint := backhaul.partition_size();
    v_sealed bigint;
    v_newest timestamptz;
    v_needed bigint;
    v_gone integer;
    v_total integer := 0;
    n bigint;
begin
    if not backhaul.my_turn('retention', p_every) then
        return 0;
    end if;
    select s.position into v_sealed from backhaul.seal_state s;
    select min(s.position) into v_needed from backhaul.sinks s where not s.paused;
    for n in select substring(c.relname from 8)::bigint from pg_class c join pg_namespace ns on ns.oid = c.relnamespace
             where ns.nspname = 'backhaul' and c.relkind = 'r' and c.relname ~ '^events_[0-9]+$' order by 1 loop
        exit when (n + 1) * v_size > v_sealed;
        -- Ids and times grow together, give or take a transaction.
        execute format('select e.occurred_at from backhaul.%I e order by e.id desc limit 1', 'events_' || n) into v_newest;
        exit when v_newest > clock_timestamp() - p_retention;
        exit when exists (select from backhaul.seals e
                          where e.first_seq >= (select coalesce(max(x.first_seq), 0) from backhaul.seals x
                                                where x.first_seq <= v_needed)
                            and e.first_seq + cardinality(e.event_ids) - 1 > v_needed
                            and e.event_ids[1] < (n + 1) * v_size);
        delete from backhaul.seals e where e.first_seq = any (array(
            select o.first_seq from (select x.first_seq, x.event_ids from backhaul.seals x
                                     order by x.first_seq limit p_limit) o
            where o.event_ids[cardinality(o.event_ids)] < (n + 1) * v_size));
        get diagnostics v_gone = row_count;
        v_total := v_total + v_gone;
        exit when v_gone = p_limit;
        exit when not backhaul.change_partitions(format('drop table backhaul.%I', 'events_' || n));
        v_total := v_total + 1;
    end loop;
    return v_total;
end $$;

-- Gives the visible events that no seal holds their dense order. Ids missing from the range are remembered as gaps and
-- looked up again until they turn up or every transaction that could own them has ended; nothing waits for them.
-- A gap's horizon is the id of a later seal's transaction, so that it is newer than any owner's id (see sweep); until
-- that seal it is null. A seal does not wait for the disk: one that a crash takes back is made anew, and no sink has
-- seen it (see relay.rs).
create function backhaul.seal(p_limit integer) returns integer
language plpgsql security definer
set search_path = pg_catalog, pg_temp
set plan_cache_mode = force_generic_plan
set enable_seqscan = off
set jit = off
set enable_bitmapscan = off
as $$
#variable_conflict use_column
declare
    s backhaul.seal_state;
    v_late bigint[];
    v_new bigint[];
    v_now pg_snapshot;
    v_to bigint;
    v_gaps bigint[];
    v_horizons xid8[];
    v_ids bigint[];
    v_own xid8;
    v_sample boolean := pg_current_xact_id_if_assigned() is null;
begin
    perform set_config('synchronous_commit', 'off', true);
    select x.* into s from backhaul.seal_state x for update skip locked;
    if not found then
        return 0;
    end if;
    -- One statement, so one snapshot: late arrivals among the gaps, new rows, horizon.
    select array(select e.id from backhaul.events e where e.id = any (s.gaps) order by e.id),
           array(select e.id from backhaul.events e where e.id > s.position order by e.id limit p_limit),
           pg_current_snapshot()
    into v_late, v_new, v_now;
    if cardinality(v_late) = 0 and cardinality(v_new) = 0 and cardinality(s.gaps) = 0 then
        return 0;
    end if;
    if v_sample then
        v_own := pg_current_xact_id();
    end if;
    v_ids := v_late || v_new;
    v_to := coalesce(v_new[cardinality(v_new)], s.position);
    select coalesce(array_agg(g.id order by g.id), '{}'), coalesce(array_agg(g.horizon order by g.id), '{}')
    into v_gaps, v_horizons
    from (
        select u.id, coalesce(u.horizon, v_own) from unnest(s.gaps, s.gap_horizons) as u (id, horizon)
        where u.id <> all (v_late) and not coalesce(backhaul.ended(u.horizon, v_now), false)
        union all
        select i, null from generate_series(s.position + 1, v_to) i
        where cardinality(v_new) <> v_to - s.position and i <> all (v_new)
    ) g (id, horizon);
    if cardinality(v_ids) = 0 and v_gaps = s.gaps and array_position(s.gap_horizons, null) is null then
        return 0;
    end if;
    if cardinality(v_ids) > 0 then
        insert into backhaul.seals (first_seq, event_ids) values (s.next_seq, v_ids);
    end if;
    update backhaul.seal_state x set position = v_to, next_seq = s.next_seq + cardinality(v_ids),
        gaps = v_gaps, gap_horizons = v_horizons;
    return cardinality(v_ids);
end $$;

-- Judges for which sinks claims have to wait: a sink of which more than `p_max` events are not published, until nine tenths
-- of that are left. A completion is never refused, so claims are the only place to stop at. Everything is read off the
-- numbers that seals and sinks have anyway. Events without a place in the order do not count: a sink cannot have them yet,
-- and to stop claims would not speed up the seals.
-- Nobody waits for a sink that is paused, nor for one that no worker has served for a minute, because it was taken out of
-- the settings; nor for one that has not caught up since it was new or paused, which has all that is kept before it.
-- `changed` is true once for each change, for the caller whose turn it was. With `p_max` 0 it only tells.
create function backhaul.judge_sinks(p_every interval, p_max bigint)
returns table (sink text, behind bigint, holds boolean, changed boolean)
language plpgsql security definer
set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
declare
    v_sealed bigint := (select l.next_seq - 1 from backhaul.seal_state l);
    v_changed text[] := '{}';
begin
    perform set_config('synchronous_commit', 'off', true);
    if p_max > 0 and backhaul.my_turn('sinks', p_every) then
        update backhaul.sinks s set caught_up = not s.caught_up
        where s.caught_up <> (not s.paused and (s.caught_up or v_sealed - s.position <= p_max));
        with turned as (
            update backhaul.sinks s set holds_since = case when s.holds_since is null then clock_timestamp() end
            where (s.holds_since is not null) <> (
                s.caught_up and coalesce(s.owned_until > clock_timestamp() - interval '1 minute', false)
                and v_sealed - s.position > case when s.holds_since is null then p_max else p_max * 9 / 10 end)
            returning s.name
        )
        select coalesce(array_agg(t.name), '{}') into v_changed from turned t;
    end if;
    return query
    select s.name, greatest(v_sealed - s.position, 0), s.holds_since is not null, s.name = any (v_changed)
    from backhaul.sinks s order by s.name;
end $$;

-- The sinks that claims wait for. Nobody has judged them for a while where the limit was turned off.
create view backhaul.sinks_waited_for as
select s.name, s.holds_since, l.next_seq - 1 - s.position as behind, s.last_error
from backhaul.sinks s cross join backhaul.seal_state l
where s.holds_since is not null
  and exists (select from backhaul.maintenance m
              where m.task = 'sinks' and m.ran_at > clock_timestamp() - interval '30 seconds');
comment on view backhaul.sinks_waited_for is 'Sinks that are so far behind that no worker claims jobs.';

-- What a sink gets next: the rest of the seal that holds the event behind `p_position`, or the first seal behind it where
-- that one is past its retention. A function for its switches (see 0003): a session that planned the join while there
-- were few events would read all of them for each batch.
create function backhaul.sealed_after(p_position bigint)
returns table (seq bigint, sealed_at timestamptz, event_id uuid, event_type text, tenant text, kind text, job_id bigint,
               subject text, occurred_at timestamptz, traceparent text, data bytea)
language plpgsql stable security definer
set search_path = pg_catalog, pg_temp
set plan_cache_mode = force_generic_plan
set enable_seqscan = off
set jit = off
set enable_bitmapscan = off
as $$
#variable_conflict use_column
declare
    s backhaul.seals;
begin
    select x.* into s from backhaul.seals x where x.first_seq <= p_position + 1 order by x.first_seq desc limit 1;
    if s.first_seq is null or s.first_seq + cardinality(s.event_ids) - 1 <= p_position then
        select x.* into s from backhaul.seals x where x.first_seq > p_position order by x.first_seq limit 1;
    end if;
    return query
    select s.first_seq + u.n - 1, s.sealed_at, e.event_id, e.type, e.tenant, e.kind, e.job_id, e.subject, e.occurred_at,
        e.traceparent, e.data
    from unnest(s.event_ids) with ordinality as u (id, n)
    cross join lateral (select x.* from backhaul.events x where x.id = u.id offset 0) e
    where s.first_seq + u.n - 1 > p_position
    order by 1;
end $$;

create function backhaul.switch_sink(p_sink text, p_paused boolean, p_actor text, p_why text) returns boolean
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
begin
    update backhaul.sinks s set paused = p_paused where s.name = p_sink and s.paused <> p_paused;
    if found then
        perform backhaul.append_control('dev.backhaul.sink.' || case when p_paused then 'paused' else 'resumed' end, '*', '*',
            p_actor, p_why, jsonb_build_object('sink', p_sink));
        return true;
    elsif not exists (select from backhaul.sinks s where s.name = p_sink) then
        raise exception 'not_found: no sink %', coalesce(left(p_sink, 64), 'null') using errcode = 'BH020',
            hint = 'backhaul outbox status lists them';
    end if;
    return false;
end $$;

-- Delivers nothing more to the sink. Its position is kept, but events that are past their retention do not wait for it.
create function backhaul.pause_sink(sink text, actor text default null, why text default null) returns boolean
language sql security definer
set search_path = pg_catalog, pg_temp
as $$
    select backhaul.switch_sink(pause_sink.sink, true, pause_sink.actor, pause_sink.why)
$$;
comment on function backhaul.pause_sink is 'Holds a sink''s events back; jobs go on without it. False: it was paused already.';

create function backhaul.resume_sink(sink text, actor text default null, why text default null) returns boolean
language sql security definer
set search_path = pg_catalog, pg_temp
as $$
    select backhaul.switch_sink(resume_sink.sink, false, resume_sink.actor, resume_sink.why)
$$;
comment on function backhaul.resume_sink is 'Goes on behind the last event that the sink has. False: it was not paused.';
