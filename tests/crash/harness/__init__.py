"""Breaking a registry on purpose, at every step, and judging what is left. ``python -m tests.crash.harness``.

======================  ==================================================================================
module                  what it holds
======================  ==================================================================================
``children``            processes that are forked to die, and what they acknowledged before they did
``places``              registries that are made once and copied for each point
``use_cases``           what is run under fire, and the images for it
``recordings``          the undisturbed run of a use case: its points, what it acknowledges, where it ends
``judge``               what must hold after a crash, and the kinds of failure
``report``              figures, and the table of them
all others              one harness each: ``run(arena, *, quick, mutate) -> Result``
======================  ==================================================================================

A harness takes *mutate*: what a child does first, to break the protocol. With it the harness must fail.
"""
