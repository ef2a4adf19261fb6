"""Enqueues from Python with psycopg 3: one transaction that rolls back and one that commits.

Usage: python3 enqueue.py URL KIND
Prints one JSON object: what each call answered, and how a mistake is told.
"""

import json
import sys

import psycopg
from psycopg.types.json import Jsonb


def enqueue(connection, kind, payload, **arguments):
    """Enqueues in the connection's transaction; returns the job's id and the outcome."""
    names = "".join(f", {name} => %({name})s" for name in arguments)
    return connection.execute(
        f"select job_id, outcome from backhaul.enqueue(kind => %(kind)s, payload => %(payload)s{names})",
        {"kind": kind, "payload": Jsonb(payload), **arguments},
    ).fetchone()


def main(url, kind):
    told = {}
    with psycopg.connect(url) as connection:
        with connection.transaction(force_rollback=True):
            told["rolled_back"] = enqueue(connection, kind, {"n": 1}, idempotency_key="python-1")
        with connection.transaction():
            told["committed"] = enqueue(connection, kind, {"n": 1}, idempotency_key="python-1", priority="high")
        with connection.transaction():
            told["repeated"] = enqueue(connection, kind, {"n": 1}, idempotency_key="python-1")
        try:
            with connection.transaction():
                enqueue(connection, kind, {"n": 2}, idempotency_key="python-1")
        except psycopg.Error as error:
            told["refused"] = {"sqlstate": error.sqlstate, "hint": error.diag.message_hint}
        with connection.transaction():
            jobs = [{"kind": kind, "payload": {"n": n}} for n in (3, 4)] + [{"kind": kind}]
            rows = connection.execute("select outcome from backhaul.enqueue_many(%s)", [Jsonb(jobs)]).fetchall()
            told["many"] = [outcome for (outcome,) in rows]
    print(json.dumps(told))


if __name__ == "__main__":
    main(*sys.argv[1:])
