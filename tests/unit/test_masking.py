"""A password is shown nowhere: not in an address, however it is written, not in settings, not in a log."""

from __future__ import annotations

import json
import logging
import re
from urllib.parse import quote

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from redis.exceptions import RedisError

from scorequeue import logs
from scorequeue.errors import RedisUnavailableError, UsageError
from scorequeue.logs import fields
from scorequeue.masking import mask_url, scrub, secrets_of
from scorequeue.refusals import translated
from scorequeue.scripts import connect
from scorequeue.settings import Settings

MARK = "QXZ"
"""Letters that passwords are made of here, and nothing else in an address is."""

passwords = st.text(st.sampled_from(f"{MARK}{MARK}0@/:?#&=;%+ []'\"\\\n\u00e9"), min_size=1, max_size=24).filter(
    lambda text: any(letter in text for letter in MARK)
)
quoted = passwords.map(lambda password: quote(password, safe=""))
schemes = st.sampled_from(["redis", "rediss", "http", "amqp"])
users = st.sampled_from(["", "someone", "some.one", "some%40one"])
hosts = st.sampled_from(["redis", "127.0.0.1:6379", "[::1]:7000", "redis.example:1/0", "redis/3?db=2", "h?username=a"])


@given(scheme=schemes, user=users, password=passwords | quoted, host=hosts)
@example(scheme="redis", user="u", password="0?db=Q", host="redis")
@example(scheme="redis", user="u", password="0/0?username=Q", host="redis")
@example(scheme="redis", user="u", password="Q@Z", host="redis")
def test_password_before_the_host_is_hidden(scheme: str, user: str, password: str, host: str) -> None:
    """As it stands, too: such an address cannot be read, and what cannot be read is what gets printed."""
    masked = mask_url(f"{scheme}://{user}:{password}@{host}")

    assert not set(MARK) & set(masked), masked
    assert "***" in masked


@given(name=st.sampled_from(["password", "ssl_password", "pass%77ord"]), password=quoted, host=hosts)
def test_password_among_the_options_is_hidden(name: str, password: str, host: str) -> None:
    joint = "&" if "?" in host else "?"

    masked = mask_url(f"rediss://someone:{password}@{host}{joint}{name}={password}&ssl_ca_certs=/ca.pem")

    assert not set(MARK) & set(masked), masked
    assert masked.endswith("&ssl_ca_certs=/ca.pem")


@given(password=quoted)
def test_password_before_a_socket_is_hidden(password: str) -> None:
    assert mask_url(f"unix://u:{password}@/run/redis.sock?db=1") == "unix://u:***@/run/redis.sock?db=1"
    assert mask_url(f"unix:///run/redis.sock?password={password}") == "unix:///run/redis.sock?password=***"


@given(password=passwords)
def test_password_in_what_is_no_address_is_hidden(password: str) -> None:
    forgotten_host = f"redis://someone:{re.sub('[@?]', '', password)}"
    forgotten_scheme = f"someone:{password.lstrip('/')}@redis"  # else the user is the scheme
    for url in (forgotten_scheme, f"redis:someone:{password}@redis", forgotten_host):
        assert not set(MARK) & set(mask_url(url)), url


@given(text=st.text())
def test_any_text_can_be_masked(text: str) -> None:
    mask_url(text)
    secrets_of(text)


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("redis://127.0.0.1:6379/0", "redis://127.0.0.1:6379/0"),
        ("redis://someone:pw@redis:6379/0", "redis://someone:***@redis:6379/0"),
        ("rediss://:pw@redis/0?ssl_ca_certs=/ca.pem", "rediss://:***@redis/0?ssl_ca_certs=/ca.pem"),
        ("rediss://redis?username=a&password=a@b&db=1", "rediss://redis?username=a&password=***&db=1"),
        ("redis://token@redis", "redis://***@redis"),
        ("redis://[::1]:6379/0", "redis://[::1]:6379/0"),
        ("unix:///run/user@1000/redis.sock", "unix:///run/user@1000/redis.sock"),
        ("redis://redis?unknown=value", "redis://redis?***"),
        ("localhost:6379", "localhost:6379"),
        ("sentinel://someone:pw@h1:26379,[::1]:7,h2/main?db=1", "sentinel://someone:***@h1:26379,[::1]:7,h2/main?db=1"),
    ],
)
def test_what_is_no_password_stays_readable(url: str, shown: str) -> None:
    assert mask_url(url) == shown


# --- settings and messages ---


def test_settings_do_not_show_the_password() -> None:
    settings = Settings(redis_url="redis://someone:secret@redis")

    assert "secret" not in f"{settings!r} {settings} {settings.__repr_args__()}"
    assert "redis://someone:***@redis" in repr(settings)


def test_refused_setting_does_not_show_the_password() -> None:
    with pytest.raises(UsageError, match=r"got http://someone:\*\*\*@redis") as refusal:
        Settings.load(redis_url="http://someone:secret@redis")

    assert "secret" not in f"{refusal.value} {refusal.value.__cause__}"


def test_answer_that_repeats_the_password_is_cleaned() -> None:
    """A server older than 6, or a proxy before it, does not know HELLO and says what came with it."""
    said = "unknown command `HELLO`, with args beginning with: `3`, `AUTH`, `someone`, `secret`"
    client = connect("redis://someone:secret@redis")

    with pytest.raises(RedisUnavailableError, match="HELLO") as refusal, translated(client):
        raise RedisError(said)

    assert "secret" not in f"{refusal.value} {refusal.value.__cause__}"
    assert "someone" not in str(refusal.value)


# --- logs ---


@given(password=st.text(st.characters(exclude_categories=["Cs"]), min_size=4))
def test_library_that_logs_an_address_shows_no_password(password: str) -> None:
    secrets = secrets_of(f"redis://someone:{quote(password, safe='')}@redis")

    for form in (password, quote(password, safe=""), json.dumps(password), repr(password)):
        assert scrub(f"<{form}>", secrets) in ("<***>", '<"***">', "<'***'>")


@pytest.mark.parametrize("style", ["text", "json"])
def test_log_lines_are_scrubbed(style, capsys: pytest.CaptureFixture[str]) -> None:
    root, ours = logging.getLogger(), logging.getLogger("scorequeue")
    before = root.handlers[:], root.level, ours.level
    logs.configure("debug", style, secrets=secrets_of("redis://someone:s%22cret@redis"))

    try:
        ours.debug("connects to %s", 's"cret', extra=fields("connects", to='redis://someone:s"cret@redis'))
        try:
            raise ValueError('s"cret')
        except ValueError:
            logging.getLogger("kombu").exception("failed")
    finally:
        root.handlers[:], level, our_level = before
        root.setLevel(level)
        ours.setLevel(our_level)

    said = capsys.readouterr().err
    assert "cret" not in said
    assert said.count("***") == 4  # the message, the field, and the trace with its line of code
