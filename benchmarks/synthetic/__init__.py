"""A synthetic registry of any size, as rows: no bytes of layers, and no store.

``shape``       how big and how skewed it is
``vocabulary``  names and texts
``documents``   bytes of manifests whose digests are right, and chains of layers
``registry``    the rows, in the order in which a real registry would have got them
``load``        rows into a migrated database: SQLite by ``executemany``, PostgreSQL by ``COPY``

Usage: python -m benchmarks.synthetic --manifests 1000000 --database sqlite:////path/to/file.db
"""
