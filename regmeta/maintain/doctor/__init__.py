"""Is all well here? Each check looks at one thing, says what it found, and what to do about it.

============  ======================================================================
module        looks at
============  ======================================================================
``check``     what a check says
``software``  releases of what regmeta stands on
``engine``    how the database is set up: pragmas, a server's settings
``rows``      what the machinery's rows tell: identity, holds, what is behind, overdue or damaged
``files``     facts of the file systems
============  ======================================================================

Nothing is written, cleared up or locked. What cannot be looked at is a problem of its own, and the other
checks go on.
"""
