-- Erasing what is kept about a person: every copy of it, in every table, of one tenant.
--
-- A person is named by identifiers: the profile's id, a thread's id, an e-mail address, a telephone number. A copy is
-- a row that holds one of them anywhere, because payloads and bodies have no fixed place for a person. So every row of
-- the tenant is looked at, in batches that each are a transaction; nothing here is hot. What has to stay for the sake
-- of others (a place in the order of events, an answer to a repeated webhook) stays as a tombstone without content.
--
-- Versions that Postgres has not vacuumed yet, its log and backups are out of reach of any statement.

-- The proof that it was done. It holds neither the identifiers nor a hash of them: hashes of telephone numbers are
-- reversed by trying all. `why` names the request.
create table backhaul.erasures (
    id uuid primary key,
    tenant text not null,
    actor text not null,
    why text not null check (octet_length(why) between 1 and 500),
    -- Rows by area, see backhaul.erase.
    erased jsonb not null default '{}',
    begun_at timestamptz not null default clock_timestamp(),
    ended_at timestamptz
);

-- A document as a text in which words can be told apart: the escapes of JSON end in letters, as in "\nann".
create function backhaul.erasure_text(p_document jsonb) returns text
language sql immutable set search_path = pg_catalog, pg_temp as $$
    select regexp_replace(p_document::text, '\\(u[0-9a-f]{4}|.)', ' ', 'g')
$$;

-- A webhook's body. Parsed first, because the same text can be written with other escapes.
create function backhaul.erasure_text(p_body bytea) returns text
language plpgsql immutable set search_path = pg_catalog, pg_temp as $$
begin
    return backhaul.erasure_text(convert_from(p_body, 'UTF8')::jsonb);
exception when data_exception then
    return regexp_replace(encode(p_body, 'escape'), '\\(u[0-9a-f]{4}|.)', ' ', 'g');
end $$;

-- The regular expression that finds any of the identifiers, whole: 4711 is not in 14711, nor ann@example.com in
-- joann@example.com. A telephone number is found in every spelling of its digits.
create function backhaul.erasure_pattern(p_identifiers text[]) returns text
language plpgsql immutable
set search_path = pg_catalog, pg_temp
as $$
declare
    v_id text;
    v_parts text[] := '{}';
begin
    if coalesce(cardinality(p_identifiers), 0) not between 1 and 20 then
        raise exception 'invalid_argument: 1 to 20 identifiers' using errcode = 'BH005',
            hint = 'the ids, addresses and numbers of one person';
    end if;
    foreach v_id in array p_identifiers loop
        if v_id is null or char_length(v_id) > 256 or v_id ~ '[[:cntrl:]"\\]' or v_id <> btrim(v_id)
           or char_length(regexp_replace(v_id, '[^[:alnum:]]', '', 'g')) < 4 then
            raise exception 'invalid_argument: an identifier has 4 or more letters and digits, at most 256 characters, '
                'and neither quotes, backslashes nor control characters' using errcode = 'BH005',
                hint = 'what is shorter would be found in the data of others';
        end if;
        v_parts := v_parts || case
            when v_id ~ '^[+]?[0-9(][0-9 ().-]*$' and regexp_replace(v_id, '[^0-9]', '', 'g') ~ '^[0-9]{7,}$' then
                '(?<![0-9])' || regexp_replace(regexp_replace(v_id, '[^0-9]', '', 'g'),
                    '([0-9])(?=[0-9])', '\1[ ().-]{0,3}', 'g') || '(?![0-9])'
            when v_id ~ '^[^@ ]+@[^@ ]+$' then
                '(?<![[:alnum:]._%+-])' || regexp_replace(v_id, '([^[:alnum:]])', '\\\1', 'g')
                    || '(?![[:alnum:]]|[.-][[:alnum:]])'
            else
                '(?<![[:alnum:]])' || regexp_replace(v_id, '([^[:alnum:]])', '\\\1', 'g') || '(?![[:alnum:]])'
            end;
    end loop;
    return array_to_string(v_parts, '|');
end $$;

-- Whether a step of the job holds an identifier: what an upstream answered about somebody.
create function backhaul.erasure_in_steps(p_job bigint, p_pattern text) returns boolean
language sql stable set search_path = pg_catalog, pg_temp as $$
    select exists (select from backhaul.steps s where s.job_id = p_job and backhaul.erasure_text(s.output) ~* p_pattern)
$$;

-- Ends one unfinished job as a cancellation does: nothing that its worker still reports is written. False: it ended
-- by itself meanwhile. A producer's key stays without the payload's hash, so that a repeated request finds it used;
-- keys that hold an identifier go later.
create function backhaul.erase_job(p_job bigint, p_erasure uuid, p_actor text) returns boolean
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
    j backhaul.jobs;
    v_running boolean;
begin
    j := backhaul.lock_job(p_job);
    if j.id is null then
        return false;
    end if;
    v_running := exists (select from backhaul.leases l
                         where l.lane = j.lane and l.priority = j.priority and j.seq = any (l.seqs));
    delete from backhaul.jobs x where x.id = j.id;
    delete from backhaul.steps s where s.job_id = j.id;
    perform backhaul.rouse(j);
    update backhaul.idempotency_keys k set request_hash = ''
    where k.scope = j.kind || '/' || j.tenant and k.key = j.idempotency_key and k.job_id = j.id;
    perform backhaul.append_event('dev.backhaul.job.erased', j.id, j.tenant, j.kind, j.traceparent,
        backhaul.by_whom(p_actor) || jsonb_build_object('erasure', p_erasure,
            'was', case when v_running then 'running' else 'waiting' end));
    if v_running then
        -- See backhaul.cancel.
        update backhaul.key_holders h set stopping_until = clock_timestamp() + interval '30 seconds' where h.job_id = j.id;
    elsif j.ordering_key is not null then
        perform backhaul.hand_over(array[j.id]);
    end if;
    return true;
end $$;

-- What may stay of an event's data: how a step went, and never a word that holds an identifier.
create function backhaul.erasure_tombstone(p_data jsonb, p_pattern text) returns jsonb
language sql immutable set search_path = pg_catalog, pg_temp as $$
    select coalesce(jsonb_object_agg(m.key, m.value), '{}') from jsonb_each(p_data) m
    where (m.key in ('attempt', 'http_status', 'job_id', 'latency_ms') and m.value::text ~ '^[0-9]{1,15}$')
       or (m.key in ('code', 'kind', 'status', 'step', 'tenant') and jsonb_typeof(m.value) = 'string'
           and m.value::text ~ '^"[A-Za-z0-9_.-]{1,64}"$' and m.value::text !~* p_pattern)
$$;

create function backhaul.append_erasure(p_type text, p_tenant text, p_erasure uuid, p_members jsonb) returns void
language sql volatile set search_path = pg_catalog, pg_temp as $$
    insert into backhaul.events (event_id, occurred_at, type, tenant, subject, data)
    values (backhaul.uuid_v7(), clock_timestamp(), p_type, p_tenant, 'erasure/' || p_erasure,
        convert_to(backhaul.canonical(p_members || jsonb_build_object('erasure', p_erasure, 'tenant', p_tenant)), 'UTF8'))
$$;

-- One batch of an erasure, in the caller's transaction. Call it again with what it returned as `next` until that is
-- null; a call that never came back may be made again, and an erasure that was given up is begun anew: what is erased
-- already is not found again. First what makes rows, then the rows: schedules and webhooks make jobs, jobs make dead
-- letters, memories and events.
create function backhaul.erase(tenant text, identifiers text[], actor text, why text, after jsonb default null,
                               rows_max integer default 1000, only_count boolean default false)
returns table (area text, looked integer, matched integer, next jsonb)
language plpgsql security definer
set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
declare
    v_areas constant text[] := '{schedules,ingress_events,jobs,dead_letters,memories,idempotency_keys,events}';
    v_pattern text := backhaul.erasure_pattern(erase.identifiers);
    v_actor text := coalesce(erase.actor, session_user);
    v_area text := coalesce(erase.after ->> 'area', v_areas[1]);
    v_erasure uuid := (erase.after ->> 'erasure')::uuid;
    v_at integer := array_position(v_areas, v_area);
    v_looked integer;
    v_matched integer;
    v_reached jsonb;
    v_more boolean;
    v_next jsonb;
    v_erased jsonb;
begin
    perform pg_current_xact_id();
    perform backhaul.check_tenant(nullif(erase.tenant, '*'));
    if erase.rows_max is null or erase.rows_max not between 1 and 10000 then
        raise exception 'invalid_argument: rows_max must be 1 to 10000' using errcode = 'BH005',
            hint = 'a batch is one transaction; 1000 is the default';
    elsif erase.why is null or octet_length(erase.why) not between 1 and 500 then
        raise exception 'invalid_argument: why must have 1 to 500 bytes' using errcode = 'BH005',
            hint = 'the number of the request';
    elsif erase.why ~* v_pattern or v_actor ~* v_pattern or session_user ~* v_pattern then
        raise exception 'invalid_argument: why, actor and login are kept, and one of them holds an identifier'
            using errcode = 'BH005', hint = 'name the request by its number';
    elsif v_at is null then
        raise exception 'invalid_argument: after is not what an earlier call returned' using errcode = 'BH005',
            hint = 'pass next as it is, or null to begin';
    end if;
    if not erase.only_count then
        if erase.after is null then
            v_erasure := backhaul.uuid_v7();
            insert into backhaul.erasures (id, tenant, actor, why) values (v_erasure, erase.tenant, v_actor, erase.why);
        else
            perform from backhaul.erasures x where x.id = v_erasure and x.tenant = erase.tenant for update;
            if not found then
                raise exception 'not_found: no erasure % of this tenant', v_erasure using errcode = 'BH020',
                    hint = 'pass next as it is, or null to begin';
            end if;
        end if;
    end if;
    execute format('select * from backhaul.%I($1, $2, $3, $4, $5, $6)', 'erase_' || v_area)
        into v_looked, v_matched, v_reached, v_more
        using erase.tenant, v_pattern, erase.after -> 'reached', erase.rows_max,
            case when not erase.only_count then v_erasure end, v_actor;
    if v_more then
        v_next := jsonb_build_object('area', v_area, 'erasure', v_erasure, 'reached', v_reached);
    elsif v_at < cardinality(v_areas) then
        v_next := jsonb_build_object('area', v_areas[v_at + 1], 'erasure', v_erasure);
    end if;
    if not erase.only_count then
        update backhaul.erasures x
        set erased = x.erased || jsonb_build_object(v_area, coalesce((x.erased ->> v_area)::integer, 0) + v_matched),
            ended_at = case when v_next is null then clock_timestamp() end
        where x.id = v_erasure returning x.erased into v_erased;
        if v_next is null then
            perform backhaul.append_erasure('dev.backhaul.erasure.completed', erase.tenant, v_erasure,
                backhaul.by_whom(v_actor) || jsonb_build_object('why', erase.why, 'erased', v_erased));
        end if;
    end if;
    return query select v_area, v_looked, v_matched, v_next;
end $$;
comment on function backhaul.erase is 'Erases what is kept about a person, a batch a call; pass next as after until it is null.';

-- A schema's default privileges do not take back what every new function grants to everybody.
revoke all on all functions in schema backhaul from public;

grant execute on function backhaul.erase to backhaul_operator;
grant select on backhaul.erasures to backhaul_operator, backhaul_reader;
