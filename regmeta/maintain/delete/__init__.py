"""Deleting, so that it can be undone.

===============  =====================================================  ===============================
verb             durable effect, one transaction                        undone by
===============  =====================================================  ===============================
``manifest``     its tags end, and no reader finds it any more; with    ``undelete``, or pushing it
                 *cascade* also what only it lists                      again
``repository``   all tags end, and no reader finds it any more          ``undelete``, or a push (without
                                                                        the tags)
``blob``         the repository has no access to it any more            pushing it again
===============  =====================================================  ===============================

A delete removes no row of content and touches no object: it says so in the rows, and queues what the
collector is to look at when the history window is over (a whole repository: ``maintain.collect.purge``).
Until the collector has taken the rows it can be undone: they decide, and not the clock. A delete that cannot
find out whether it is allowed does nothing.
"""
