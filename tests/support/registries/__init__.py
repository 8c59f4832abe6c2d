"""Remote registries for tests: Debian's ``docker-registry``, and one in this process that misbehaves."""
