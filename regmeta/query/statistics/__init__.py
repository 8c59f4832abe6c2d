"""What people do with images, and how much room those take (docs/statistics.md).

``pulls``      how often something was pulled, when last, what most; who pushes
``favorites``  stars and bookmarks
``usage``      logical, unique and exclusive bytes of repositories and of what is below a prefix
``growth``     the same, day by day
``measure``    what repositories hold now: for ``usage``, and for the samples that ``maintain.usage`` writes

A day is one of UTC. What never happened is None, not a time.
"""
