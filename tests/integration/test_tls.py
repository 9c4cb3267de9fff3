"""TLS on both roads to Redis, the ledger's and Celery's: verified unless the address says otherwise."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
import redis

from producer import Client
from scorequeue import scripts
from scorequeue.errors import RedisRefusedError, RedisUnavailableError
from scorequeue.jobs import Lane
from scorequeue.keys import Keys
from scorequeue.ledger import Ledger
from scorequeue.queue import make_app
from scorequeue.settings import Settings
from tests.processes import WorkerProcess, environment, until
from tests.proxies import Authority, TlsProxy
from tests.servers import RedisServer
from tests.tiny import publish_tiny

NOT_TRUSTED = "is not trusted: .*ssl_ca_certs=FILE"
OTHER_HOST = "is for another host: .*'127.0.0.1'.*ssl_check_hostname=false"


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture(scope="module")
def proxy(redis_server: RedisServer, authority: Authority) -> Iterator[TlsProxy]:
    with TlsProxy(redis_server.port, authority) as proxy:
        yield proxy


@pytest.fixture(scope="module")
def strangely_named(redis_server: RedisServer, authority: Authority) -> Iterator[TlsProxy]:
    """A proxy whose certificate is for another host."""
    with TlsProxy(redis_server.port, authority, host="redis.example") as proxy:
        yield proxy


@pytest.fixture(scope="module")
def choosy(redis_server: RedisServer, authority: Authority) -> Iterator[TlsProxy]:
    """A proxy that wants to see a certificate."""
    with TlsProxy(redis_server.port, authority, wants_client=True) as proxy:
        yield proxy


def reach_ledger(url: str) -> None:
    Ledger.connect(Settings(redis_url=url)).close()


def reach_celery(url: str) -> None:
    """Connect as a wake-up does, without the ledger to object first."""
    app = make_app(Settings(redis_url=url))
    with closing(app), app.connection_for_write() as connection:
        connection.transport.establish_connection()  # once: connect() would try again two seconds later


# --- a job ---


def test_job_goes_through_tls_wake_ups_too(
    proxy: TlsProxy, authority: Authority, namespace: str, tmp_path: Path, redis_url: str
) -> None:
    """A worker scores without wake-ups too, so that alone would prove nothing of Celery's connection."""
    publish_tiny(tmp_path / "registry")
    url = proxy.url(ssl_ca_certs=authority.file)
    express = f"{Keys(namespace).celery_prefix}{Lane.EXPRESS}"
    settings = {"redis_url": url, "namespace": namespace, "registry": tmp_path / "registry", "backend": "fake"}

    with Client(url, namespace) as client, redis.Redis.from_url(redis_url) as plain:
        with WorkerProcess(tmp_path / "worker.log", **settings) as worker:
            worker.pause()
            job = client.submit(["The cat sat."] * 10)
            sent = plain.llen(express)
            worker.resume()
            status = job.wait(timeout_s=30)
            until(lambda: plain.llen(express) == 0, what="a wake-up that left Celery's list")
            exit_status = worker.terminate()

        assert sent == 1

        assert (status.scored, status.failed) == (10, 0)
        assert job.audit().is_clean
    assert exit_status == 0
    assert "insecure" not in worker.log.read_text()


# --- what is refused ---


@pytest.mark.parametrize("road", [reach_ledger, reach_celery])
def test_untrusted_certificate_is_refused(proxy: TlsProxy, road, caplog: pytest.LogCaptureFixture) -> None:
    """kombu's own default is to verify nothing."""
    with pytest.raises((RedisRefusedError, redis.exceptions.ConnectionError), match=r"not trusted|CERTIFICATE_VERIFY"):
        road(proxy.url())

    assert "insecure" not in caplog.text


@pytest.mark.parametrize("road", [reach_ledger, reach_celery])
def test_certificate_for_another_host_is_refused(strangely_named: TlsProxy, authority: Authority, road) -> None:
    with pytest.raises((RedisRefusedError, redis.exceptions.ConnectionError), match=r"not valid for '127\.0\.0\.1'"):
        road(strangely_named.url(ssl_ca_certs=authority.file))


# --- what the address may say otherwise ---


@pytest.mark.parametrize("road", [reach_ledger, reach_celery])
def test_address_turns_verification_off(strangely_named: TlsProxy, road) -> None:
    road(strangely_named.url(ssl_cert_reqs="none"))


@pytest.mark.parametrize("no", ["false", "False", "0", "no"])
@pytest.mark.parametrize("road", [reach_ledger, reach_celery])
def test_address_turns_the_host_check_off(strangely_named: TlsProxy, authority: Authority, road, no: str) -> None:
    """kombu alone would take only ``false`` for a no."""
    road(strangely_named.url(ssl_ca_certs=authority.file, ssl_check_hostname=no))


@pytest.mark.parametrize("road", [reach_ledger, reach_celery])
def test_client_shows_its_certificate(choosy: TlsProxy, authority: Authority, road) -> None:
    certificate, key = authority.client_files()

    road(choosy.url(ssl_ca_certs=authority.file, ssl_certfile=certificate, ssl_keyfile=key))

    with pytest.raises((RedisUnavailableError, redis.exceptions.ConnectionError)):
        road(choosy.url(ssl_ca_certs=authority.file))


# --- what a person sees ---


def test_wrong_certificate_is_one_line_and_exit_3(proxy: TlsProxy, strangely_named: TlsProxy, authority, tmp_path):
    publish_tiny(tmp_path / "registry")
    trusted = strangely_named.url(ssl_ca_certs=authority.file)

    for url, said in ((proxy.url(), NOT_TRUSTED), (trusted, OTHER_HOST)):
        for command in (["producer", "status", "0" * 32], ["producer", "submit", "--text", "x"], ["worker", "start"]):
            run = subprocess.run(
                [sys.executable, "-m", *command],
                env=environment(redis_url=url, registry=tmp_path / "registry", backend="fake"),
                cwd=tmp_path,
                capture_output=True,
                text=True,
                timeout=60,
            )

            assert run.returncode == 3, run.stderr
            assert run.stdout == ""
            (line,) = run.stderr.splitlines()
            assert re.match(f"Error: the certificate of Redis at 127.0.0.1:.* {said}", line)


def test_file_that_is_no_certificate_says_which_options_to_check(proxy: TlsProxy, tmp_path: Path) -> None:
    (tmp_path / "authority.pem").write_text("no certificate")

    with pytest.raises(RedisRefusedError, match=r"no TLS with Redis at .*check its port, and ssl_ca_certs"):
        reach_ledger(proxy.url(ssl_ca_certs=tmp_path / "authority.pem"))


def test_encrypted_key_without_its_password_does_not_wait_for_a_terminal(choosy, authority, tmp_path):
    """OpenSSL would ask for it, and a service has nobody to answer."""
    from cryptography.hazmat.primitives import serialization

    certificate, key = authority.client_files()
    loaded = serialization.load_pem_private_key(key.read_bytes(), None)
    encrypted = tmp_path / "encrypted.key"
    encrypted.write_bytes(
        loaded.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.BestAvailableEncryption(b"open-sesame"),
        )
    )
    options = {"ssl_ca_certs": authority.file, "ssl_certfile": certificate, "ssl_keyfile": encrypted}

    with pytest.raises(RedisRefusedError, match="ssl_password"):
        reach_ledger(choosy.url(**options))
    with scripts.connect(choosy.url(**options, ssl_password="open-sesame")) as client:
        assert client.ping()


def test_server_without_tls_is_no_answer(redis_server: RedisServer) -> None:
    with pytest.raises(RedisUnavailableError, match=f"127.0.0.1:{redis_server.port}"):
        reach_ledger(f"rediss://127.0.0.1:{redis_server.port}/0")
