"""All rows into another database, which then is the registry's; the one that was is retired.

``state``      what the target says of a copy that goes on in it
``freeze``     how the source refuses all changes while rows are copied, and is retired
``parts``      indexes and constraints that are made again when the rows are there
``streams``    rows out of a database, in the order of their keys
``loading``    rows into a database, and read again from it
``sequences``  numbers that were given out stay given out
``run``        the whole of it

============  ==========================================  ===============================================
step          durable effect                              a crash right after leaves
============  ==========================================  ===============================================
begin         the target says that it is being filled;    a target that nobody can open
              its indexes and foreign keys are gone
freeze        every table of the source refuses changes,  the source, for reading; writers are told why
              for each process that has it open
rows          a table is there, or a part of it; then     the same
              that it was read again and is the source's
parts         an index, a constraint                      the same
complete      identity, numbers, schema revision          a target that is whole; the store names the
                                                          source, so that nobody writes to it
retire        the source opens for nobody; processes      no database that opens for writing
              that have it open find no repositories
switch        the store's record names the target         the registry, with the new database
============  ==========================================  ===============================================

Run again, it goes on from there. Until *retire* it can be given up: the source takes changes again. From
there on it can only be finished, since a run that stands still may switch at any time. *retire* comes before
*switch* since a process that has the source open would else tell of an image that it is here, from rows that
are old already (I6). The epoch stays: revisions go on, so that snapshots of the store stay comparable.
"""
