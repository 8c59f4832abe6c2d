"""Registries that people already run, made for tests: what is there to adopt.

``content``         the images, the same for the same seed, as steps of a pusher
``client``          a small client of a registry: one connection, no process for each image
``docker``          a folder that Debian's docker-registry wrote
``docker_tree``     the files of such a folder, for what no registry would write
``defects``         what goes wrong in the field, planted into such a folder
``layouts``         a folder as zot writes it, and one of layouts that other tools wrote
``layout_defects``  what goes wrong there
``planting``        what both share
``live``            a docker-registry at work on a folder, with a thread that pushes and deletes
``served``          what a registry served: the answer that an adoption is held against
``fixtures``        fixtures of these; all the rest needs no pytest
"""
