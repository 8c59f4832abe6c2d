"""Remote registries: the client side of the OCI distribution specification.

A remote registry is hostile (see :mod:`regmeta.sources`), and so is whatever it names: a realm, a redirect,
a next page. Credentials go to the registry itself and to its own realm, never further.

``transport``      one base URL: authentication, retries, limits, redirects
``terms``          how it is spoken to, as values
``credentials``    who we are there; ``docker_config`` and ``credential_helpers`` look it up
``tokens``         what the registry asks for (``challenge``, ``realms``), and tokens by scope
``connections``    sockets, TLS (``tls``), proxies, and the addresses that may be dialled (``addresses``)
``response``       one answer and its body; ``timed``: no part of it takes for ever
"""
