"""Retention: which tags stay, which are ended, and the rule that says so.

==================  ======================================================================================
``policy``          what an operator has written: policies, rules, and their fingerprint
``patterns``        globs and regular expressions of names, compiled once
``versions``        semantic versions as keys to sort by
``candidates``      reading the live tags of a repository with all that rules ask about them
``rules``           the decision, as a pure function of candidates, rules and a moment
``plan``            decisions for many repositories, as of one moment of the database's clock
``apply``           doing exactly that plan, or refusing
``untagged``        until when a policy keeps manifests that have no tag, for the collector
==================  ======================================================================================

A plan changes nothing and takes no lock. Applying it decides again, inside the transaction and under the
repository's lock, as of the plan's moment: if not exactly the tags of the plan would be dropped, the world
has changed and nothing happens to that repository.
"""
