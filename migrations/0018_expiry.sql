-- What goes by itself after a time, where the installation asks for it: dead letters that nobody decided about, and what
-- kinds remember of resources. Each call is one batch, and passes over rows that somebody else holds: whoever replays or
-- discards a letter, erases a person or remembers something at this moment is not waited for, and has their way.

create index dead_letters_died on backhaul.dead_letters (died_at);

-- Discards dead letters that died longer ago than `p_age`, oldest first, as an operator would. A letter holds nothing beside
-- its own row and its steps: its ordering key was handed on when it died, its lease ended then.
create function backhaul.expire_dead_letters(p_every interval, p_age interval, p_limit integer) returns integer
language plpgsql security definer
set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
declare
    d backhaul.dead_letters;
    v_found integer := 0;
    v_until timestamptz := clock_timestamp() - p_age;
begin
    if not backhaul.my_turn('dead_letters', p_every) then
        return 0;
    end if;
    for d in delete from backhaul.dead_letters x using (
                 select y.id from backhaul.dead_letters y
                 where y.died_at <= v_until order by y.died_at limit p_limit for update skip locked) e
             where x.id = e.id returning x.* loop
        perform backhaul.give_up(d, 'backhaul', 'expired');
        v_found := v_found + 1;
    end loop;
    return v_found;
end $$;

-- Forgets what was written longer ago than `p_age`; that something was looked up since does not show. No index leads there:
-- one on the time would make each step that remembers something write it anew, for a look once an hour.
create function backhaul.expire_memories(p_every interval, p_age interval, p_limit integer) returns integer
language plpgsql security definer
set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
declare
    v_found integer;
    v_until timestamptz := clock_timestamp() - p_age;
begin
    if not backhaul.my_turn('memories', p_every) then
        return 0;
    end if;
    delete from backhaul.memories x using (
        select y.tenant, y.kind, y.resource from backhaul.memories y
        where y.updated_at <= v_until limit p_limit for update skip locked) e
    where x.tenant = e.tenant and x.kind = e.kind and x.resource = e.resource;
    get diagnostics v_found = row_count;
    return v_found;
end $$;

-- A schema's default privileges do not take back what every new function grants to everybody.
revoke all on all functions in schema backhaul from public;
grant execute on function backhaul.expire_dead_letters, backhaul.expire_memories to backhaul_worker;
