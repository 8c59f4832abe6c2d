"""What there is: repositories, tags, manifests and blobs, filtered, in an order, and page by page.

Each list is one function that answers a :class:`~regmeta.query.results.Page`. Its ``next`` goes into
``after`` of the call for the page behind it, with the same filters and order. Every order ends in a key
that is unique, and what has no value for the key (an image that says no time, a tag that was never pulled)
comes last, whichever the direction. A page starts behind the last row of the page before and counts no
rows: so what others insert and delete meanwhile makes no other row come twice or not at all.

The total is counted if it is asked for. :func:`every` goes through a whole list and holds one page at a time.
"""

from __future__ import annotations

from regmeta.query.lists.paging import every

__all__ = ["every"]
