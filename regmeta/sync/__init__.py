"""Mirroring: which images of other registries are wanted here, under which names, and how that went.

``policy`` holds what the settings ask for, as values; ``selection``, ``mapping``, ``platforms`` and
``signatures`` are pure functions of it. ``records`` keeps each run and the last outcome of each image: the
only module here with SQL.
"""
