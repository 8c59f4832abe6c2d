"""Debian's ``docker-registry`` with its content in a bucket of the S3 server of the test run.

with DockerRegistryS3(folder, buckets.url()) as registry:
    registry.push(layout, "some/repository")
"""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Final

from tests.support.registries.docker_registry import PROGRAM, DockerRegistry

_CONFIG: Final = """\
version: 0.1
log: {{level: error, accesslog: {{disabled: true}}}}
storage:
  s3:
    regionendpoint: {endpoint}
    region: us-east-1
    bucket: {bucket}
    rootdirectory: {root}
    accesskey: {key}
    secretkey: {secret}
    secure: false
    v4auth: true
  delete: {{enabled: true}}
  redirect: {{disable: true}}
  maintenance: {{uploadpurging: {{enabled: false}}}}
http: {{addr: "127.0.0.1:{port}"}}
validation: {{manifests: {{urls: {{allow: ["^https?://"]}}}}}}
"""


class DockerRegistryS3(DockerRegistry):
    """One running registry, its content below *url* (``s3://bucket/prefix``), reached as ``AWS_*`` say.

    Configuration and log are in *folder*.
    """

    def __init__(self, folder: Path, url: str) -> None:
        self.bucket_url = url
        self._bucket, _, self._root = url.removeprefix("s3://").partition("/")
        super().__init__(folder)

    def _start(self) -> subprocess.Popen[bytes]:
        config = self.folder / "config.yml"
        words = {
            "endpoint": os.environ["AWS_ENDPOINT_URL"],
            "bucket": self._bucket,
            "root": f"/{self._root}",
            "key": os.environ["AWS_ACCESS_KEY_ID"],
            "secret": os.environ["AWS_SECRET_ACCESS_KEY"],
        }
        config.write_text(
            _CONFIG.format(
                port=int(self.host.partition(":")[2]),
                **{name: json.dumps(word) for name, word in words.items()},
            )
        )
        # Its client takes no bundle of certificates together with the transport that it makes itself.
        environment = {name: value for name, value in os.environ.items() if not name.startswith("AWS_")}
        with self._log.open("ab") as log:
            return subprocess.Popen(
                [PROGRAM, "serve", str(config)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=environment,
            )
