"""Taking over what another registry has stored: all of it, proven, while that registry goes on.

``defects``    what can be wrong with it, and what becomes of it then
``look``       one image of it: is it whole, and what of it is to be brought
``terms``      values that its parts share
``listing``    repositories: is there anything to be done?
``pieces``     a repository in pieces of 1,000 images, so that a run goes on where it was stopped
``noting``     what a run writes of its repositories
``run``        all repositories that are new or have changed
``plan``       what a run would do; nothing is written
``comparison`` whether what is here is what is there
``finalize``   the end: what was brought is collected like anything else from then on
``records``    the rows
"""
