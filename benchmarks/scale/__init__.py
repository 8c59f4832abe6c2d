"""What one push, one pull and one collected blob cost, and where a large registry saturates."""
