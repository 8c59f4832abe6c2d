"""Every public query, timed beside the best statements written by hand for the database's own driver.

``cases``       the table of queries: how to call each, and its targets
``by_hand``     the same in statements written by hand
``parameters``  what is asked about: drawn from the database
``raw``         the driver
``plans``       the statements that a query sends, how they are run, and the pages that they read
``measure``     clocks, tables and targets

Usage: python -m benchmarks.queries --database URL [--database URL]
"""
