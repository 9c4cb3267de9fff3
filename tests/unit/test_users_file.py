"""deploy/redis/users.acl allows each role what it runs, and no more.

Rights count inside scripts too, so a command that a script calls must be in the list of the role that runs the script.
"""

from __future__ import annotations

import re
from importlib import resources

import pytest

from tests.servers import USERS_FILE

FILE = "deploy/redis/users.acl"

SCRIPTS = {
    "producer": {"open", "add_chunks", "touch", "seal", "sync", "sweep", "cancel", "retry", "delete", "discard"},
    "worker": {"claim", "renew", "commit", "release", "poll", "void", "depart"},
}
"""Who runs which script. A new script must be put here."""

ANYBODY = {"ping", "info", "select", "time"}
SCRIPT_RUNNERS = {"eval", "evalsha"}
WAKE_UP_SENDERS = {"multi", "exec", "sadd", "smembers", "llen", "lpush"}
"""What kombu sends to publish: it declares queue and exchange, then pushes."""

OUTSIDE_SCRIPTS = {
    "producer": ANYBODY
    | SCRIPT_RUNNERS
    | {"hexists", "hget", "hgetall", "hmget", "zrange", "zscore"}  # scorequeue/inquiries.py
    | {"zcount"}  # scorequeue/overview.py: producer doctor
    | WAKE_UP_SENDERS
    | {"subscribe", "unsubscribe"},  # waiting for a job's end
    "worker": ANYBODY
    | SCRIPT_RUNNERS
    | WAKE_UP_SENDERS
    | {"hget", "hgetall", "zrange", "llen"}  # worker status
    | {"brpop"}  # kombu: wake-ups
    | {"psubscribe", "punsubscribe", "publish", "smembers", "srem"}  # kombu: remote control, and its answers
    | {"zadd", "zrangebyscore", "zrem", "exists", "del", "script|exists", "script|load"},  # kombu: bindings that expire
    "exporter": ANYBODY | {"hget", "hgetall", "hlen", "hmget", "llen", "zcard", "zcount", "zrange"},
}

LUA = resources.files("scorequeue") / "lua"
ANY_CALL = re.compile(r"\bredis\.p?call\s*\(")
CALL = re.compile(r"\bredis\.p?call\s*\(\s*(['\"])([A-Za-z]+)\1")


def called_by(script: str) -> set[str]:
    """Commands that a script calls; those of the prelude count whether it comes to them or not."""
    text = "\n".join((LUA / f"{part}.lua").read_text() for part in ("prelude", script))
    named = CALL.findall(text)
    assert len(named) == len(ANY_CALL.findall(text)), f"{script}.lua calls a command that is not written out"
    return {command.lower() for _, command in named}


def scripts_there() -> set[str]:
    return {entry.name.removesuffix(".lua") for entry in LUA.iterdir() if entry.name.endswith(".lua")} - {"prelude"}


def rules_of(user: str) -> list[str]:
    (line,) = [line for line in USERS_FILE.read_text().splitlines() if line.startswith(f"user {user} ")]
    return line.split()[2:]


def allowed(user: str) -> list[str]:
    return [rule[1:] for rule in rules_of(user) if rule.startswith("+")]


def test_every_script_has_a_role() -> None:
    unknown = scripts_there() - SCRIPTS["producer"] - SCRIPTS["worker"]

    assert not unknown, f"say in {__file__} who runs {sorted(unknown)}, and allow what it calls in {FILE}"


@pytest.mark.parametrize("user", ["producer", "worker"])
def test_role_may_call_what_its_scripts_call(user: str) -> None:
    for script in sorted(SCRIPTS[user] & scripts_there()):
        missing = called_by(script) - set(allowed(user))

        assert not missing, f"add {sorted(missing)} to user {user} in {FILE}: scorequeue/lua/{script}.lua calls it"


@pytest.mark.parametrize("user", OUTSIDE_SCRIPTS)
def test_role_may_do_no_more_than_it_does(user: str) -> None:
    needed = set(OUTSIDE_SCRIPTS[user]).union(*(called_by(s) for s in SCRIPTS.get(user, set()) & scripts_there()))

    missing, surplus = needed - set(allowed(user)), set(allowed(user)) - needed
    assert not missing, f"add {sorted(missing)} to user {user} in {FILE}"
    assert not surplus, f"take {sorted(surplus)} from user {user} in {FILE}: nothing needs it any more"


@pytest.mark.parametrize("user", OUTSIDE_SCRIPTS)
def test_role_begins_with_nothing_and_stays_in_its_namespace(user: str) -> None:
    rules = rules_of(user)

    assert rules[:2] == ["on", f">CHANGE-ME-{user}"]
    assert rules.index("-@all") < min(rules.index(f"+{command}") for command in allowed(user))
    assert not [rule for rule in rules if rule.startswith("+@") or rule in ("allkeys", "allchannels", "allcommands")]
    assert [rule for rule in rules if rule.startswith("~")] == ["~{scorequeue}:*"]
    assert all(rule.startswith("&{scorequeue}:") for rule in rules if rule.startswith("&"))
    assert rules.index("resetchannels") < len(rules) - len(allowed(user))  # Redis 6.2 begins with all of them
    assert allowed(user) == sorted(set(allowed(user)))


def test_default_user_is_off_but_keeps_its_rights() -> None:
    """Redis 7.0 to 8.2 replays the append-only file as this user, and drops each script that it may not run."""
    assert rules_of("default") == ["off", "~*", "&*", "+@all"]


def test_file_has_no_comments() -> None:
    """Redis loads no file with one."""
    assert all(line.startswith("user ") for line in USERS_FILE.read_text().splitlines())
