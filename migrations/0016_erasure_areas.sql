-- The areas of backhaul.erase. Each looks at the next `p_rows_max` rows behind `p_after` and erases those that hold an identifier, or,
-- with `p_erasure` null, counts them. Their answer is how many rows were looked at and matched, how far they got, and
-- whether there is more.

-- One job a transaction, as everywhere: two could deadlock with the settle of both.
create function backhaul.erase_jobs(p_tenant text, p_pattern text, p_after jsonb, p_rows_max integer,
    p_erasure uuid, p_actor text, out looked integer, out matched integer, out reached jsonb, out more boolean)
language plpgsql
set search_path = pg_catalog, pg_temp
set enable_seqscan = off
set jit = off
set enable_bitmapscan = off
as $$
declare
    j backhaul.jobs;
begin
    looked := 0;
    matched := 0;
    for j in select x.* from backhaul.jobs x where x.id > coalesce(p_after::bigint, 0)
             order by x.id limit p_rows_max loop
        looked := looked + 1;
        reached := to_jsonb(j.id);
        continue when j.tenant <> p_tenant;
        continue when not (concat_ws(' ', j.ordering_key, j.idempotency_key) ~* p_pattern
            or backhaul.erasure_text(j.payload) ~* p_pattern
            or coalesce(backhaul.erasure_text(j.errors) ~* p_pattern, false)
            or backhaul.erasure_in_steps(j.id, p_pattern));
        if p_erasure is null then
            matched := matched + 1;
        elsif backhaul.erase_job(j.id, p_erasure, p_actor) then
            matched := 1;
            more := true;
            return;
        end if;
    end loop;
    more := looked = p_rows_max;
end $$;

create function backhaul.erase_dead_letters(p_tenant text, p_pattern text, p_after jsonb, p_rows_max integer,
    p_erasure uuid, p_actor text, out looked integer, out matched integer, out reached jsonb, out more boolean)
language plpgsql
set search_path = pg_catalog, pg_temp
set enable_seqscan = off
set jit = off
set enable_bitmapscan = off
as $$
declare
    d backhaul.dead_letters;
begin
    looked := 0;
    matched := 0;
    for d in select x.* from backhaul.dead_letters x where x.id > coalesce(p_after::bigint, 0)
             order by x.id limit p_rows_max loop
        looked := looked + 1;
        reached := to_jsonb(d.id);
        continue when d.tenant <> p_tenant;
        continue when not (concat_ws(' ', d.ordering_key, d.idempotency_key, d.traceparent) ~* p_pattern
            or backhaul.erasure_text(jsonb_build_array(d.payload, d.errors, d.error, d.conflict)) ~* p_pattern
            or backhaul.erasure_in_steps(d.id, p_pattern));
        if p_erasure is not null then
            delete from backhaul.dead_letters x where x.id = d.id;
            -- Somebody replayed or discarded it meanwhile; a replayed one is a job, which a second run finds.
            continue when not found;
            delete from backhaul.steps s where s.job_id = d.id;
            update backhaul.idempotency_keys k set request_hash = ''
            where k.scope = d.kind || '/' || d.tenant and k.key = d.idempotency_key and k.job_id = d.id;
            perform backhaul.append_event('dev.backhaul.job.erased', d.id, d.tenant, d.kind, d.traceparent,
                backhaul.by_whom(p_actor) || jsonb_build_object('erasure', p_erasure, 'was', 'dead'));
        end if;
        matched := matched + 1;
    end loop;
    more := looked = p_rows_max;
end $$;

-- What a kind remembers. The next job starts as if it met the resource for the first time.
create function backhaul.erase_memories(p_tenant text, p_pattern text, p_after jsonb, p_rows_max integer,
    p_erasure uuid, p_actor text, out looked integer, out matched integer, out reached jsonb, out more boolean)
language plpgsql
set search_path = pg_catalog, pg_temp
set enable_seqscan = off
set jit = off
set enable_bitmapscan = off
as $$
declare
    m backhaul.memories;
begin
    looked := 0;
    matched := 0;
    for m in select x.* from backhaul.memories x
             where x.tenant = p_tenant
               and (x.kind, x.resource) > (coalesce(p_after ->> 0, ''), coalesce(p_after ->> 1, ''))
             order by x.kind, x.resource limit p_rows_max loop
        looked := looked + 1;
        reached := jsonb_build_array(m.kind, m.resource);
        continue when not (m.resource ~* p_pattern or backhaul.erasure_text(m.value) ~* p_pattern);
        if p_erasure is not null then
            delete from backhaul.memories x where x.tenant = m.tenant and x.kind = m.kind and x.resource = m.resource;
        end if;
        matched := matched + 1;
    end loop;
    more := looked = p_rows_max;
end $$;

create function backhaul.erase_idempotency_keys(p_tenant text, p_pattern text, p_after jsonb, p_rows_max integer,
    p_erasure uuid, p_actor text, out looked integer, out matched integer, out reached jsonb, out more boolean)
language plpgsql
set search_path = pg_catalog, pg_temp
set enable_seqscan = off
set jit = off
set enable_bitmapscan = off
as $$
declare
    k record;
begin
    looked := 0;
    matched := 0;
    for k in select x.scope, x.key from backhaul.idempotency_keys x
             where (x.scope, x.key) > (coalesce(p_after ->> 0, ''), coalesce(p_after ->> 1, ''))
             order by x.scope, x.key limit p_rows_max loop
        looked := looked + 1;
        reached := jsonb_build_array(k.scope, k.key);
        continue when split_part(k.scope, '/', 2) <> p_tenant or not k.key ~* p_pattern;
        if p_erasure is not null then
            delete from backhaul.idempotency_keys x where x.scope = k.scope and x.key = k.key;
        end if;
        matched := matched + 1;
    end loop;
    more := looked = p_rows_max;
end $$;

-- A schedule about a person would go on making jobs about them.
create function backhaul.erase_schedules(p_tenant text, p_pattern text, p_after jsonb, p_rows_max integer,
    p_erasure uuid, p_actor text, out looked integer, out matched integer, out reached jsonb, out more boolean)
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
    s backhaul.schedules;
begin
    looked := 0;
    matched := 0;
    for s in select x.* from backhaul.schedules x where x.name > coalesce(p_after #>> '{}', '')
             order by x.name limit p_rows_max loop
        looked := looked + 1;
        reached := to_jsonb(s.name);
        continue when s.tenant <> p_tenant;
        continue when not (concat_ws(' ', s.name, s.last_error) ~* p_pattern
            or backhaul.erasure_text(s.payload) ~* p_pattern);
        if p_erasure is not null then
            delete from backhaul.schedules x where x.name = s.name;
            if s.name !~* p_pattern then
                perform backhaul.append_schedule('dev.backhaul.schedule.removed', s, null, p_actor, 'erasure ' || p_erasure);
            end if;
        end if;
        matched := matched + 1;
    end loop;
    more := looked = p_rows_max;
end $$;

-- Webhook events keep their row as long as their keys: a repetition is answered, and does not bring the person back.
create function backhaul.erase_ingress_events(p_tenant text, p_pattern text, p_after jsonb, p_rows_max integer,
    p_erasure uuid, p_actor text, out looked integer, out matched integer, out reached jsonb, out more boolean)
language plpgsql
set search_path = pg_catalog, pg_temp
set enable_seqscan = off
set jit = off
set enable_bitmapscan = off
as $$
declare
    e backhaul.ingress_events;
begin
    looked := 0;
    matched := 0;
    for e in select x.* from backhaul.ingress_events x
             where x.id > coalesce((p_after #>> '{}')::uuid, '00000000-0000-0000-0000-000000000000')
             order by x.id limit p_rows_max loop
        looked := looked + 1;
        reached := to_jsonb(e.id);
        continue when e.tenant <> p_tenant;
        continue when not (concat_ws(' ', e.event_type, e.channel, e.detail) ~* p_pattern
            or coalesce(backhaul.erasure_text(e.body) ~* p_pattern, false));
        if p_erasure is not null then
            update backhaul.ingress_events x
            set body = null, detail = null, parked = null, event_type = null, channel = null where x.id = e.id;
            perform backhaul.append_parked('dev.backhaul.ingress.erased', e, p_actor, 'erasure ' || p_erasure);
        end if;
        matched := matched + 1;
    end loop;
    more := looked = p_rows_max;
end $$;

-- Events keep their id, number, type, time and job, so that the order stays dense and a sink that has not had them
-- gets tombstones. What a sink has had is beyond us: an event names the ids, so that consumers erase them too.
create function backhaul.erase_events(p_tenant text, p_pattern text, p_after jsonb, p_rows_max integer,
    p_erasure uuid, p_actor text, out looked integer, out matched integer, out reached jsonb, out more boolean)
language plpgsql
set search_path = pg_catalog, pg_temp
set enable_seqscan = off
set jit = off
set enable_bitmapscan = off
as $$
declare
    -- Bounds the event that names them.
    v_matched_max constant integer := 200;
    e backhaul.events;
    v_data jsonb;
    v_ids uuid[] := '{}';
begin
    looked := 0;
    matched := 0;
    for e in select x.* from backhaul.events x where x.id > coalesce(p_after::bigint, 0)
             order by x.id limit p_rows_max loop
        looked := looked + 1;
        reached := to_jsonb(e.id);
        continue when e.tenant <> p_tenant;
        v_data := convert_from(e.data, 'UTF8')::jsonb;
        continue when not (e.subject ~* p_pattern or backhaul.erasure_text(v_data) ~* p_pattern);
        matched := matched + 1;
        continue when p_erasure is null;
        v_ids := v_ids || e.event_id;
        update backhaul.events x set subject = 'erasure/' || p_erasure, data = convert_to(backhaul.canonical(
            backhaul.erasure_tombstone(v_data, p_pattern) || jsonb_build_object('erasure', p_erasure)), 'UTF8')
        where x.id = e.id;
        more := matched = v_matched_max;
        exit when more;
    end loop;
    more := coalesce(more, false) or looked = p_rows_max;
    if cardinality(v_ids) > 0 then
        perform backhaul.append_erasure('dev.backhaul.events.erased', p_tenant, p_erasure,
            backhaul.by_whom(p_actor) || jsonb_build_object('event_ids', v_ids));
    end if;
end $$;

revoke all on all functions in schema backhaul from public;
