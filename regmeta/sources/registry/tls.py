"""TLS as the terms ask for it."""

from __future__ import annotations

import os
import ssl

from regmeta.errors import UsageError
from regmeta.sources.registry.terms import Terms


def tls_context(terms: Terms, *, with_client_certificate: bool) -> ssl.SSLContext:
    """Return how TLS is spoken: the system's certificates, *ca_file*, and *cert_dir* as Docker's ``certs.d``.

    The client's own certificate is for the registry itself; other hosts are spoken to without it.

    Raises:
        UsageError: a file or folder that the terms name cannot be used.
    """
    context = ssl.create_default_context()
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    if not terms.tls_verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    if terms.ca_file is not None:
        _trust(context, terms.ca_file)
    if terms.cert_dir is not None:
        for name in _names(terms.cert_dir):
            path = os.path.join(terms.cert_dir, name)
            if name.endswith(".crt"):
                _trust(context, path)
            elif name.endswith(".cert") and with_client_certificate:
                _show(context, path, path.removesuffix(".cert") + ".key")
    return context


def _names(folder: str) -> list[str]:
    try:
        return sorted(os.listdir(folder))
    except (OSError, ValueError) as error:
        raise UsageError(f"{folder}: cannot read the certificates in it: {_reason(error)}") from error


def _trust(context: ssl.SSLContext, path: str) -> None:
    try:
        context.load_verify_locations(cafile=path)
    except (OSError, ValueError) as error:
        raise UsageError(f"{path}: cannot be used as certificates to trust: {_reason(error)}") from error


def _show(context: ssl.SSLContext, certificate: str, key: str) -> None:
    try:
        # A password would be asked for on the terminal, from within a worker thread.
        context.load_cert_chain(certificate, key, password=lambda: b"")
    except (OSError, ValueError) as error:
        raise UsageError(f"{certificate}: cannot be used with {key}: {_reason(error)}") from error


def _reason(error: Exception) -> str:
    if isinstance(error, ssl.SSLError):
        return str(error.reason or error)
    return str(getattr(error, "strerror", None) or error)
