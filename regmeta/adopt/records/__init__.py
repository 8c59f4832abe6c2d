"""The rows of adoptions.

``adoptions``    each source, and whether it is done
``repositories`` how far each repository is
``defects``      what could not be brought, or is odd
``here``         what is here of a repository, to be compared
``leases``       the end of the leases of what was brought
"""
