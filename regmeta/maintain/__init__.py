"""Upkeep: each of these may be run again, beside writers and readers, and may be killed at any step.

``recover``  clears up after processes that have ended: intents, staging folders, stale snapshots
``schema``   brings a database's schema up or down, through Alembic
``setup``    makes a registry: schema, identity, store; checks that database and store belong together
"""
