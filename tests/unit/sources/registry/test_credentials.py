"""Docker's configuration file and credential helpers, as real files and programs."""

from __future__ import annotations

import base64
import json
import stat
import sys
from pathlib import Path
from typing import Any

import pytest

from regmeta.errors import RemoteUnavailable, UsageError
from regmeta.sources.registry.credential_helpers import CredentialHelper
from regmeta.sources.registry.credentials import Credential, FixedCredentials, NoCredentials
from regmeta.sources.registry.docker_config import DockerConfig, default_path

SECRET = "pass:wörd"
AUTH = base64.b64encode(f"kim:{SECRET}".encode()).decode()
KIM = Credential("kim", SECRET)


def write(folder: Path, document: Any) -> DockerConfig:
    path = folder / "config.json"
    path.write_bytes(document if isinstance(document, bytes) else json.dumps(document).encode())
    return DockerConfig(str(path))


@pytest.fixture
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder on PATH for helper programs."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")
    return folder


def program(folder: Path, name: str, code: str) -> None:
    path = folder / f"docker-credential-{name}"
    path.write_text(f"#!{sys.executable}\nimport sys, json, time\n{code}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)


ECHO = """host = sys.stdin.read()
assert sys.argv[1:] == ["get"]
print(json.dumps({"ServerURL": host, "Username": "user of " + host, "Secret": "pw"}))"""


@pytest.mark.parametrize(
    "key",
    [
        "reg.test:5000",
        "https://reg.test:5000",
        "http://reg.test:5000/",
        "https://reg.test:5000/v2/",
        "reg.test:5000/v1/",
        "REG.test:5000",
    ],
)
@pytest.mark.parametrize("entry", [{"auth": AUTH}, {"username": "kim", "password": SECRET}])
def test_entry_is_found_by_its_host(tmp_path: Path, key: str, entry: dict[str, str]) -> None:
    config = write(tmp_path, {"auths": {"other": {"auth": "bm86cGU="}, key: entry}})
    assert config.get("reg.test:5000") == KIM
    assert config.get("reg.test") is None
    assert config.get("reg.test:5001") is None


def test_key_of_a_part_of_a_registry_is_not_for_all_of_it(tmp_path: Path) -> None:
    config = write(tmp_path, {"auths": {"reg.test/team": {"auth": AUTH}, "reg.test/v2/team": {"auth": AUTH}}})
    assert config.get("reg.test") is None


@pytest.mark.parametrize("host", ["docker.io", "registry-1.docker.io", "index.docker.io"])
@pytest.mark.parametrize("key", ["https://index.docker.io/v1/", "docker.io", "index.docker.io"])
def test_docker_hub_goes_by_all_its_names(tmp_path: Path, host: str, key: str) -> None:
    config = write(tmp_path, {"auths": {key: {"auth": AUTH}}})
    assert config.get(host) == KIM


def test_identity_token_is_found(tmp_path: Path) -> None:
    config = write(tmp_path, {"auths": {"a": {"auth": AUTH, "identitytoken": "refresh"}}})
    assert config.get("a") == Credential(identity_token="refresh")


def test_https_port_may_be_written_out(tmp_path: Path) -> None:
    assert write(tmp_path, {"auths": {"a:443": {"auth": AUTH}}}).get("a") == KIM


def test_file_that_changes_is_read_again(tmp_path: Path) -> None:
    config = write(tmp_path, {"auths": {}})
    assert config.get("a") is None
    write(tmp_path, {"auths": {"a": {"auth": AUTH}}})
    assert config.get("a") == KIM


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[]",
        b'"x"',
        b"\xff",
        b'{"auths": []}',
        b'{"auths": {"a": 5}}',
        b'{"auths": {"a": {"auth": 5}}}',
        b'{"auths": {"a": {"auth": "not base64!"}}}',
        b'{"auths": {"a": {"auth": "bm9jb2xvbg=="}}}',
        b'{"auths": {"a": {"auth": "/////w=="}}}',
        b'{"auths": {}, "auths": {}}',
        b'{"credHelpers": {"a": 5}}',
        b'{"credHelpers": {"a": "../../bin/sh"}}',
        b'{"credsStore": "-x"}',
        b'{"credsStore": ["a"]}',
        b"x" * 2000000,
    ],
)
def test_file_that_is_wrong_is_never_taken_for_anonymous(tmp_path: Path, content: bytes) -> None:
    config = write(tmp_path, content)
    with pytest.raises(UsageError) as raised:
        config.get("a")
    assert "x" * 300 not in str(raised.value)


def test_wrong_file_is_named_and_not_quoted(tmp_path: Path) -> None:
    config = write(tmp_path, b'{"auths": {"a": {"auth": "hidden"}} hidden')
    with pytest.raises(UsageError) as raised:
        config.get("a")
    assert str(tmp_path / "config.json") in str(raised.value)
    assert "hidden" not in str(raised.value)


def test_missing_file_is_an_error_unless_it_may_be_missing(tmp_path: Path) -> None:
    path = str(tmp_path / "none.json")
    with pytest.raises(UsageError, match=r"none\.json.*No such file"):
        DockerConfig(path).get("a")
    assert DockerConfig(path, must_exist=False).get("a") is None
    with pytest.raises(UsageError, match="Is a directory"):
        DockerConfig(str(tmp_path), must_exist=False).get("a")


def test_default_path_is_dockers() -> None:
    assert default_path({"HOME": "/h"}) == "/h/.docker/config.json"
    assert default_path({"HOME": "/h", "DOCKER_CONFIG": "/d"}) == "/d/config.json"


def test_helper_program_is_asked_with_the_host(tmp_path: Path, programs: Path) -> None:
    program(programs, "echo", ECHO)
    config = write(tmp_path, {"credHelpers": {"a:5000": "echo"}, "credsStore": "none"})
    assert config.get("a:5000") == Credential("user of a:5000", "pw")
    config = write(tmp_path, {"auths": {"b": {"auth": AUTH}, "c": {}}, "credsStore": "echo"})
    assert config.get("b") == KIM
    assert config.get("c") == Credential("user of c", "pw")
    assert config.get("docker.io") == Credential("user of https://index.docker.io/v1/", "pw")


def test_helper_may_give_an_identity_token_or_nothing(programs: Path) -> None:
    program(programs, "identity", 'print(json.dumps({"Username": "<token>", "Secret": "refresh"}))')
    assert CredentialHelper("identity").get("a") == Credential(identity_token="refresh")
    program(programs, "none", 'print("credentials not found in native keychain"); sys.exit(1)')
    assert CredentialHelper("none").get("a") is None


@pytest.mark.parametrize(
    ("code", "kind", "says"),
    [
        ('print("no keyring: s3cr3t"); sys.exit(1)', RemoteUnavailable, "failed with status 1"),
        ('print("s3cr3t")', UsageError, "user name and a secret"),
        ('print(json.dumps({"Username": 5, "Secret": "s3cr3t"}))', UsageError, "user name and a secret"),
        ('print("[]")', UsageError, "user name and a secret"),
        ("while True: print('s3cr3t' * 1000)", UsageError, "more than 65536 bytes"),
    ],
)
def test_helper_that_fails_is_an_error_that_shows_no_secret(
    programs: Path, code: str, kind: type[Exception], says: str
) -> None:
    program(programs, "bad", code)
    with pytest.raises(kind, match=says) as raised:
        CredentialHelper("bad").get("a")
    assert "docker-credential-bad" in str(raised.value)
    assert "s3cr3t" not in str(raised.value)


def test_helper_that_hangs_is_ended_with_its_children(programs: Path) -> None:
    # The child holds the pipe open after the helper itself is gone.
    program(programs, "slow", "import subprocess; subprocess.Popen(['sleep', '600']); time.sleep(600)")
    with pytest.raises(RemoteUnavailable, match=r"did not answer in 0\.5 s"):
        CredentialHelper("slow", timeout_s=0.5).get("a")


@pytest.mark.parametrize("name", ["../x", "a/b", "", "-x", "a b", "a\0", ".", "x" * 101])
def test_name_of_a_helper_is_checked(name: str) -> None:
    with pytest.raises(UsageError, match="not the name"):
        CredentialHelper(name).get("a")


def test_helper_that_is_not_installed_is_named(programs: Path) -> None:
    with pytest.raises(UsageError, match="docker-credential-absent: No such file"):
        CredentialHelper("absent").get("a")


PLUGIN = """
from regmeta.sources.registry.credentials import Credential
def good(host): return Credential("plugged", host, expires_at_s=5.0)
def none(host): return None
def odd(host): return "s3cr3t"
def broken(host): raise ValueError("s3cr3t")
"""


def test_package_may_bring_a_helper(tmp_path: Path, programs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An installed package with entry points, as pip leaves it."""
    (tmp_path / "plugged_helper.py").write_text(PLUGIN)
    info = tmp_path / "plugged_helper-1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: plugged-helper\nVersion: 1\n")
    points = "".join(f"{name} = plugged_helper:{name}\n" for name in ("good", "none", "odd", "broken"))
    (info / "entry_points.txt").write_text(f"[regmeta.credential_helpers]\n{points}")
    monkeypatch.syspath_prepend(str(tmp_path))
    program(programs, "good", "sys.exit(3)")  # The package goes before the program.
    config = write(tmp_path, {"credHelpers": {"a": "good"}})
    assert config.get("a") == Credential("plugged", "a", expires_at_s=5.0)
    assert CredentialHelper("none").get("a") is None
    with pytest.raises(UsageError, match="returns no Credential"):
        CredentialHelper("odd").get("a")
    with pytest.raises(RemoteUnavailable, match=r"failed: ValueError$"):
        CredentialHelper("broken").get("a")


def test_secrets_do_not_show() -> None:
    credential = Credential("kim", "s3cr3t", identity_token="s3cr3t")
    assert "s3cr3t" not in f"{credential!r} {credential} {FixedCredentials({'a': credential})!r}"
    assert NoCredentials().get("a") is None
