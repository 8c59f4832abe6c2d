"""What the settings say of other registries is refused where it can only be a mistake; the key is named."""

from __future__ import annotations

import re
import subprocess
import sys
from contextlib import closing
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from regmeta.app.mirroring import for_reference, policies_of, upstream_of
from regmeta.errors import UsageError
from regmeta.oci.remote_names import RemoteReference
from regmeta.settings import Settings, load_settings
from regmeta.sources.registry import transport
from regmeta.sources.registry.docker_config import DockerConfig
from regmeta.sources.registry.terms import Terms
from regmeta.sync.policy import Backoff, ContentRule, Policy

WHOLE = """
[[sync.registries]]
name = "hub"
urls = ["https://docker.io", "http://mirror.example.org:5000/"]
credentials_file = "secret/config.json"
auth_hosts = ["Auth.example.org"]
redirect_hosts = ["cdn.example.org:8443"]
tls_verify = false
ca_file = "ca.pem"
cert_dir = "/etc/certs"
max_concurrent = 2
requests_per_s = 0.5
retries = 0
retry_delay = "2s"
max_retry_delay = "1m"
connect_timeout = "3s"
read_timeout = "4s"
poll = "30m"
on_demand = true
check_interval = "5m"
image_timeout = "1h"
images_at_once = 7
referrers = false
cosign_tags = false
platforms = ["linux/amd64", "linux/arm/v7"]
convert = "oci"
upstream_deletes = "delete"
[[sync.registries.content]]
prefix = "library/*"
destination = "mirror"
strip_prefix = true
tags = ["v.*"]
exclude = [".*-rc"]
semver = true
versions = [">=1.0.0"]
[[sync.registries.content]]
prefix = "team/app"

[[sync.registries]]
name = "quay.io"
urls = ["quay.io"]
only_signed = true
[[sync.registries.content]]
prefix = "**"
"""
CONTENT = '[[sync.registries.content]]\nprefix = "**"\n'


def loaded(folder: Path, text: str) -> Settings:
    (folder / "regmeta.toml").write_text(text)
    return load_settings(str(folder / "regmeta.toml"), home=str(folder))


def registry(
    said: str = "", content: str = CONTENT, *, name: str = "r", urls: str = '["https://r.example"]'
) -> str:
    return f'[[sync.registries]]\nname = "{name}"\nurls = {urls}\n{said}\n{content}'


def test_policies_are_what_the_settings_say(tmp_path: Path) -> None:
    hub, quay = policies_of(loaded(tmp_path, WHOLE))

    assert hub == Policy(
        name="hub",
        content=(
            ContentRule(
                "library/*", "mirror", True, (re.compile("v.*"),), (re.compile(".*-rc"),), True, (">=1.0.0",)
            ),
            ContentRule("team/app"),
        ),
        platforms=("linux/amd64", "linux/arm/v7"),
        only_signed=False,
        referrers=False,
        cosign_tags=False,
        convert="oci",
        upstream_deletes="delete",
        poll=timedelta(minutes=30),
        on_demand=True,
        check_interval=timedelta(minutes=5),
        image_timeout=timedelta(hours=1),
        images_at_once=7,
        backoff=Backoff(timedelta(minutes=1), timedelta(minutes=30)),
    )
    assert quay == Policy("quay.io", (ContentRule("**"),), only_signed=True)


def test_no_registry_is_no_policy(tmp_path: Path) -> None:
    assert policies_of(loaded(tmp_path, "")) == ()


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (registry("", ""), r"sync registry 'r': content: there is none"),
        (registry(name="a b"), r"sync registry 'a b': name: write letters"),
        (registry() + registry(), r"sync registry 'r': name: there are two"),
        (registry(urls="[]"), r"'r': urls: there are none"),
        (registry(urls='["ftp://r.example"]'), r"'r': urls: 'ftp' is not spoken"),
        (registry(urls='["https://r.example/v2"]'), r"'r': urls: .*has a path or a query"),
        (registry(urls='["https://r.example?x=1"]'), r"'r': urls: .*has a path or a query"),
        (registry(urls='["https://r.example:99999"]'), r"'r': urls: one is no URL"),
        (registry(urls='["https://"]'), r"'r': urls: .*names no host"),
        (registry(urls='["https://r example"]'), r"'r': urls: .*names no host"),
        (registry('auth_hosts = ["https://a"]'), r"'r': auth_hosts: 'https://a' is no host"),
        (registry('redirect_hosts = ["a/b"]'), r"'r': redirect_hosts: 'a/b' is no host"),
        (registry("requests_per_s = 0"), r"'r': requests_per_s: 0.* is not above 0"),
        (registry("requests_per_s = -1.5"), r"'r': requests_per_s: -1.5 is not above 0"),
        (registry("requests_per_s = nan"), r"'r': requests_per_s: nan is not above 0"),
        (registry("requests_per_s = inf"), r"'r': requests_per_s: inf is not above 0"),
        (registry("max_concurrent = 0"), r"max_concurrent.*\(registry 'r'\)"),
        (registry("images_at_once = -1"), r"images_at_once.*\(registry 'r'\)"),
        (registry("retries = -1"), r"retries.*\(registry 'r'\)"),
        (registry('retry_delay = "0s"'), r"'r': retry_delay: '0s' is not above 0"),
        (registry('connect_timeout = "0s"'), r"'r': connect_timeout: '0s' is not above 0"),
        (registry('poll = "sometimes"'), r"'r': poll: 'sometimes' is no length of time"),
        (registry('retry_delay = "1m"'), r"'r': max_retry_delay: is less than retry_delay, 1m"),
        (registry('only_signed = true\nconvert = "oci"'), r"'r': only_signed: a signature is of the bytes"),
        (
            registry("only_signed = true\nreferrers = false\ncosign_tags = false"),
            r"'r': only_signed: .*no signature is ever seen",
        ),
        (registry('convert = "docker"'), r"'docker'.*convert.*\(registry 'r'\)"),
        (registry('upstream_deletes = "maybe"'), r"'maybe'.*upstream_deletes.*\(registry 'r'\)"),
        (registry('colour = "red"'), r"unknown field `colour`.*\(registry 'r'\)"),
        (registry('platforms = ["linux"]'), r"'r': platforms: 'linux' is none"),
        (registry('platforms = ["linux/amd64/v1/x"]'), r"'r': platforms: .* is none"),
        (registry('platforms = ["linux/x86_64"]'), r"'r': platforms: .*call this architecture amd64"),
        (registry("", '[[sync.registries.content]]\nprefix = "a["'), r"'r', content 1: prefix: 'a\['"),
        (registry("", '[[sync.registries.content]]\nprefix = "A"'), r"content 1: prefix: 'A' names no repos"),
        (registry("", CONTENT + 'destination = "/x"'), r"content 1: destination: '/x' can begin no"),
        (registry("", CONTENT + 'destination = "x/"'), r"content 1: destination: 'x/' can begin no"),
        (registry("", CONTENT + CONTENT + 'tags = ["("]'), r"'r', content 2: tags: '\('"),
        (registry("", CONTENT + 'exclude = ["*"]'), r"content 1: exclude: '\*'"),
        (registry("", CONTENT + 'versions = ["~1.2"]'), r"content 1: versions: '~1.2' is no constraint"),
        (registry("", CONTENT + "prefixes = 1"), r"unknown field `prefixes`.*\(registry 'r'\)"),
    ],
)
def test_mistake_is_refused_and_named(tmp_path: Path, text: str, told: str) -> None:
    with pytest.raises(UsageError, match=told):
        loaded(tmp_path, text)


def test_password_in_a_url_is_refused_and_not_repeated(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="'r': urls: one holds credentials") as caught:
        loaded(tmp_path, registry(urls='["https://ada:hunter2@r.example"]'))

    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(
    "url", ["ada:hunter2@r.example", "ftp://ada:hunter2@r.example", "https://ada:hunter2@[x"]
)
def test_password_is_never_repeated(tmp_path: Path, url: str) -> None:
    with pytest.raises(UsageError) as caught:
        loaded(tmp_path, registry(urls=f'["{url}"]'))

    assert "hunter2" not in str(caught.value)


def test_two_repositories_of_one_place_are_refused(tmp_path: Path) -> None:
    content = "".join(
        f'[[sync.registries.content]]\nprefix = "{prefix}/**"\nstrip_prefix = true\n' for prefix in ("a", "b")
    )

    with pytest.raises(UsageError, match=r"'r': content: a/x and b/x would both be mirrored as x"):
        policies_of(loaded(tmp_path, registry("", content)))


# --- registries ---------------------------------------------------------------------------------


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """What endpoints are made of."""
    seen: list[dict[str, Any]] = []
    original = transport.Endpoint.__init__

    def noting(self: transport.Endpoint, url: str, **others: Any) -> None:
        seen.append({"url": url, **others})
        original(self, url, **others)

    monkeypatch.setattr(transport.Endpoint, "__init__", noting)
    return seen


def test_registry_is_spoken_to_as_the_settings_say(tmp_path: Path, made: list[dict[str, Any]]) -> None:
    text = WHOLE.replace('ca_file = "ca.pem"\ncert_dir = "/etc/certs"\n', "")
    with closing(upstream_of(loaded(tmp_path, text), "hub")) as upstream:
        assert upstream.name == "docker.io"

    assert [each["url"] for each in made] == [
        "https://registry-1.docker.io",
        "http://mirror.example.org:5000",
    ]
    assert {each["terms"] for each in made} == {
        Terms(
            tls_verify=False,
            retries=0,
            retry_delay_s=2.0,
            max_retry_delay_s=60.0,
            connect_timeout_s=3.0,
            read_timeout_s=4.0,
            max_concurrent=2,
            requests_per_s=0.5,
            auth_hosts=frozenset({"auth.example.org"}),
            redirect_hosts=frozenset({"cdn.example.org:8443"}),
        )
    }
    assert made[0]["credentials"] == DockerConfig(str(tmp_path / "secret" / "config.json"))


def test_paths_are_relative_to_the_file(tmp_path: Path) -> None:
    (said, _) = loaded(tmp_path, WHOLE).sync.registries

    assert said.credentials_file == str(tmp_path / "secret" / "config.json")
    assert said.ca_file == str(tmp_path / "ca.pem")
    assert said.cert_dir == "/etc/certs"


def test_dockers_own_credentials_are_used_where_none_are_named(
    tmp_path: Path, made: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path / "docker"))

    upstream_of(loaded(tmp_path, WHOLE), "quay.io").close()

    path = str(tmp_path / "docker" / "config.json")
    assert made[0]["credentials"] == DockerConfig(path, must_exist=False)
    assert made[0]["url"] == "https://quay.io"


def test_registry_that_is_not_set_is_not_opened(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="other: the settings name no such registry"):
        upstream_of(loaded(tmp_path, WHOLE), "other")


def test_image_of_a_set_registry_comes_as_the_settings_say(
    tmp_path: Path, made: list[dict[str, Any]]
) -> None:
    text = WHOLE.replace('ca_file = "ca.pem"\ncert_dir = "/etc/certs"\n', "")
    reference = RemoteReference.parse("docker.io/alpine:3")

    policy, upstream = for_reference(loaded(tmp_path, text), reference, plain_http=True)
    upstream.close()

    assert (policy.name, policy.content, policy.convert) == ("docker.io", (), "oci")
    assert policy.platforms == ("linux/amd64", "linux/arm/v7")
    assert len(made) == 2
    assert made[0]["terms"].retries == 0


@pytest.mark.parametrize(
    ("text", "plain_http", "url"),
    [
        ("other.example:5000/app", False, "https://other.example:5000"),
        ("other.example:5000/app", True, "http://other.example:5000"),
        ("http://other.example:5000/app", False, "http://other.example:5000"),
    ],
)
def test_image_of_another_registry_comes_as_the_defaults_say(
    tmp_path: Path, made: list[dict[str, Any]], text: str, plain_http: bool, url: str
) -> None:
    policy, upstream = for_reference(
        loaded(tmp_path, WHOLE), RemoteReference.parse(text), plain_http=plain_http
    )
    upstream.close()

    assert policy == Policy("other.example:5000", ())
    assert [each["url"] for each in made] == [url]
    assert made[0]["terms"] == Terms()


def test_commands_that_mirror_nothing_load_no_client(tmp_path: Path) -> None:
    """It would cost every command that has such settings."""
    (tmp_path / "regmeta.toml").write_text(WHOLE)
    code = (
        "import sys, regmeta.app.mirroring; from regmeta.settings import load_settings;"
        f" load_settings(home={str(tmp_path)!r}); print('urllib3' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
