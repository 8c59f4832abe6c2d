"""Other tools read what is written here, and what they write is imported."""
